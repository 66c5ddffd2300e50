"""Where two answers part, and how far they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """Two answers as tokens: how many positions hold the same one, of `positions` (the longer answer's), and the first
    position that does not (None: they are equal)."""

    same: int
    positions: int
    first_difference: int | None

    @property
    def share(self) -> float:
        """From 0 to 1; 1 for two empty answers."""
        return self.same / self.positions if self.positions else 1.0


def agreement(a: Sequence[int], b: Sequence[int]) -> Agreement:
    """Hold two answers against each other, token by token."""
    pairs = list(zip(a, b, strict=False))
    positions = max(len(a), len(b))
    first = next((i for i, (x, y) in enumerate(pairs) if x != y), len(pairs) if positions > len(pairs) else None)
    return Agreement(sum(x == y for x, y in pairs), positions, first)


def common_length(a: str, b: str, both_ended: bool) -> int:
    """Letters at the beginning that are the same; while an answer still grows, its end is no difference yet."""
    n = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return n if both_ended or n < min(len(a), len(b)) else max(len(a), len(b))
