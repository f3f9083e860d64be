"""Inference: loading models, predicting images, files and videos."""
