"""How fast a model will answer: each token reads all active weights and the keys and values so far, once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

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


SLOW_TO_UNPACK = {"Q2_K": 0.6, "Q3_K": 0.65}
"""Types whose unpacking keeps a processor longer than their bytes do, against others (measured with AVX-512)."""
LEAST_TO_LEARN_FROM = 64 << 20
"""Bytes a token below which a run teaches nothing: there, other things than reading weights take the time."""
KNOWN_MOVES = 0.5
_LEAST, _MOST = 0.01, 4.0


@dataclass(frozen=True)
class Corrections:
    """Efficiencies learned on this machine from real runs (speed reached / speed by bandwidth); None: not yet.

    `types` are the processor's, by type of the weights: unpacking some takes longer than reading them. `cpu` is for
    types that no run has met yet, and for the cache.
    """

    cpu: float | None = None
    gpu: float | None = None
    types: Mapping[str, float] = field(default_factory=dict)


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

    Layers on the card are the last ones; the cache of a layer is read where the layer is: on a processor once for each
    of the query heads that share it (measured: llama.cpp 0.3.36 goes through it head by head).
    """
    learned = corrections or Corrections()
    offloaded = max(0, placement.gpu_layers - 1)
    first = len(weights.layers) - offloaded
    caches = (list(run.caches) + [0] * len(weights.layers))[: len(weights.layers)]
    halves = [cache // 2 for cache in caches]
    on_cards = sum(weights.active[first:]) + sum(halves[first:]) + (weights.output_read if placement.gpu_layers else 0)
    in_ram = sum(weights.active[:first]) + (0 if placement.gpu_layers else weights.output_read)
    processor = machine.processor.bytes_per_second
    seconds = in_ram / (processor * efficiency(weights, machine, learned, table_driven))
    seconds += sum(halves[:first]) * run.queries_per_key / (processor * (learned.cpu or CPU_EFFICIENCY))
    if machine.card:
        seconds += on_cards / (machine.card.bytes_per_second * (learned.gpu or GPU_EFFICIENCY))
    return 1 / max(seconds, 1 / MOST_TOKENS)


def efficiency(weights: Footprint, machine: Machine, learned: Corrections, table_driven: bool) -> float:
    """Share of the processor's memory bandwidth that reading these weights reaches."""
    usual = learned.cpu or CPU_EFFICIENCY
    unknown = usual
    if table_driven:
        unknown *= TABLES_ON_CPU if machine.fast_simd else TABLES_ON_OLD_CPU
    total = sum(weights.read_by_type.values())
    if not total:
        return unknown
    return total / sum(
        n / learned.types.get(kind, unknown * SLOW_TO_UNPACK.get(kind, 1.0)) for kind, n in weights.read_by_type.items()
    )


def learn(
    weights: Footprint, estimated: float, measured: float, machine: Machine, learned: Corrections, table_driven: bool
) -> Corrections:
    """What a run on the processor teaches: `estimated` tokens a second were expected, `measured` came.

    Each type's efficiency moves as far as it has a share in the weights, together exactly so far that the estimate
    would have been right (a step of Kaczmarz's method on the logarithms); half as far where it was known before.
    """
    total = sum(weights.read_by_type.values())
    if total < LEAST_TO_LEARN_FROM or estimated <= 0 or measured <= 0:
        return learned
    before = efficiency(weights, machine, learned, table_driven)
    shares = {kind: n / total for kind, n in weights.read_by_type.items() if n / total >= 0.02}
    norm = sum(share**2 for share in shares.values())
    step = math.log(measured / estimated) / norm
    types = dict(learned.types)
    for kind, share in shares.items():
        # What is known already moves half-way: one run on a busy machine must not spoil what others have taught.
        trust = KNOWN_MOVES if kind in types else 1.0
        types[kind] = min(_MOST, max(_LEAST, types.get(kind, before) * math.exp(trust * share * step)))
    comparable = [math.log(value / SLOW_TO_UNPACK.get(kind, 1.0)) for kind, value in types.items()]
    usual = math.exp(sum(comparable) / len(comparable))
    return Corrections(cpu=usual, gpu=learned.gpu, types=types)


def prompt_class(placement: Placement, active_weights: int) -> str:
    """How long prompts will feel, in words. Reading is bound by arithmetic: 2 operations for each active weight.

    A card does some 10^13 operations a second, a processor some 10^11; 1,000 tokens in a second are fast.
    """
    rate = {"gpu": 2e13, "split": 1e12, "cpu": 2e11}[placement.where]
    tokens = rate / max(1, 2 * active_weights)
    return "fast" if tokens >= 1000 else "moderate" if tokens >= 100 else "slow"
