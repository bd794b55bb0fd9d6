"""Surgery on models: capture a graph, place and calibrate quantizers, simulate them, edit architectures."""
