"""A detector as one file for other programs: of PyTorch, or of ONNX."""
