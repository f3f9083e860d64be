"""Checks of a data set, advice on training, and cleaned copies."""
