"""Benchmarks of whole models: inference, training steps, and the table of docs/models.md."""
