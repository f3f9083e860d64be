"""Export of a detector as one file for other programs: PyTorch programs and ONNX."""
