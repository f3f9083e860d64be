"""Timing of the operators and the model; each benchmark checks its results before it times them."""
