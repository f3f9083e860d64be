"""Devices, processes and batching."""
