"""The runtime 'onnxruntime': exporting, quantizing, writing and running ONNX files."""
