"""Timing of the CUDA kernels and of whole models on a GPU."""
