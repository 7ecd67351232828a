"""Quantization of arrays."""
