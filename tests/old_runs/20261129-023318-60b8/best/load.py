"""Load model.onnx and check it on the sample beside it."""
import numpy as np, onnxruntime as ort
from pathlib import Path
here = Path(__file__).parent
sample, session = np.load(here / "sample.npz"), ort.InferenceSession(here / "model.onnx")
outputs = session.run(None, {port.name: sample["input:" + port.name] for port in session.get_inputs()})
for port, output in zip(session.get_outputs(), outputs):
    np.testing.assert_allclose(output, sample["output:" + port.name], rtol=0.05, atol=0.05 * np.abs(output).max())
print("model.onnx runs and gives the recorded outputs")
