"""Quantdeck: look at the machine, choose a quantization, make it, prove it, talk to it."""

__version__ = "0.1.0"
