"""Backbones: modules that return one feature map per stage."""
