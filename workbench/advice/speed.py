"""How fast a model will answer: each token reads all active weights and the keys and values so far, once."""

from __future__ import annotations

from dataclasses import dataclass

from .fit import Footprint, Placement, Running
from .machine import Machine

CPU_EFFICIENCY = 0.65
"""Share of the memory bandwidth that generating reaches on a processor: 0.55 to 0.8 are typical."""
GPU_EFFICIENCY = 0.70
MOST_TOKENS = 1000.0
"""Tokens a second beyond which no estimate goes: then other things than memory bound the speed."""
TABLES_ON_CPU = 0.7
"""Speed of table-driven levels on a processor against others of their size; another factor without AVX2 or NEON."""
TABLES_ON_OLD_CPU = 0.35


@dataclass(frozen=True)
class Corrections:
    """Efficiencies learned on this machine from real runs (speed reached / speed by bandwidth); None: not yet."""

    cpu: float | None = None
    gpu: float | None = None


def tokens_per_second(
    weights: Footprint,
    run: Running,
    placement: Placement,
    machine: Machine,
    *,
    table_driven: bool = False,
    corrections: Corrections | None = None,
) -> float:
    """Generated tokens a second, with the context half full. Times on card and processor add up; never more than
    `MOST_TOKENS`.

    Layers on the card are the last ones; the cache of a layer is read where the layer is.
    """
    learned = corrections or Corrections()
    offloaded = max(0, placement.gpu_layers - 1)
    first = len(weights.layers) - offloaded
    caches = (list(run.caches) + [0] * len(weights.layers))[: len(weights.layers)]
    reads = [active + cache // 2 for active, cache in zip(weights.active, caches, strict=True)]
    on_cards = sum(reads[first:]) + (weights.output_read if placement.gpu_layers else 0)
    in_ram = sum(reads[:first]) + (0 if placement.gpu_layers else weights.output_read)
    processor = machine.processor.bytes_per_second * (learned.cpu or CPU_EFFICIENCY)
    if table_driven:
        processor *= TABLES_ON_CPU if machine.fast_simd else TABLES_ON_OLD_CPU
    seconds = in_ram / processor
    if machine.card:
        seconds += on_cards / (machine.card.bytes_per_second * (learned.gpu or GPU_EFFICIENCY))
    return 1 / max(seconds, 1 / MOST_TOKENS)


def prompt_class(placement: Placement, active_weights: int) -> str:
    """How long prompts will feel, in words. Reading is bound by arithmetic: 2 operations for each active weight.

    A card does some 10^13 operations a second, a processor some 10^11; 1,000 tokens in a second are fast.
    """
    rate = {"gpu": 2e13, "split": 1e12, "cpu": 2e11}[placement.where]
    tokens = rate / max(1, 2 * active_weights)
    return "fast" if tokens >= 1000 else "moderate" if tokens >= 100 else "slow"
