"""What models, recipes and plans all count in the same way."""

from __future__ import annotations


def bits_per_weight(n_bytes: int, n_weights: int) -> float:
    """Average bits per weight of tensors that take `n_bytes`, padding not counted; 0 for no tensors."""
    return 8 * n_bytes / max(1, n_weights)
