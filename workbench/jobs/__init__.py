"""Quantization jobs: spec, journal, workers, supervisor, store."""
