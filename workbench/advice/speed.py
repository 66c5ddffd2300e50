"""How fast a model will answer: what one token costs, step by step, with the speeds measured on this machine.

On a processor whose kernels were measured (`hardware.Kernels`), with T threads, in nanoseconds:

    weights      for each type, hypot((rows x per_row + bytes x per_byte) / T, bytes x per_byte_from_memory),
                 and matrices x per_matrix_from_memory
    attention    hypot(elements x heads that share them x per_head_element x share, bytes x per_byte_from_memory),
                 `share` being that of the thread with the most of them; heads x per_far_head more for long rows
    steps        nodes x (per_node + width x per_node_element), which threads cannot share
    the rest     PER_TOKEN

Computing goes on while memory is read, though never wholly: hence squares are added. Where nothing was measured (a
graphics card, a machine that was only described) the weights and the cache are read once, at a share of the bandwidth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..hardware import Kernels
from .fit import Footprint, Placement, Running
from .machine import Machine

CPU_EFFICIENCY = 0.65
"""Share of the memory bandwidth that generating reaches on a processor: 0.55 to 0.8 are typical."""
GPU_EFFICIENCY = 0.70
MOST_TOKENS = 1000.0
"""Tokens a second beyond which no estimate by bandwidth goes: then other things than memory bound the speed."""
TABLES_ON_CPU = 0.7
"""Speed of table-driven levels on a processor against others of their size; another factor without AVX2 or NEON."""
TABLES_ON_OLD_CPU = 0.35

PER_TOKEN = 30e3
"""Nanoseconds for handing a token over and getting its scores back, whatever the model."""
BYTES_A_THREAD = 128 << 20
"""Bytes of a model for each thread more: threads of small ones wait for each other longer than they compute."""
_FAR = 2048
"""Bytes of a token's keys from which on the processor does not fetch the next ones of a head by itself."""
TRUST = 0.5
_LEAST_PACE, _MOST_PACE = 0.5, 2.0


@dataclass(frozen=True)
class Corrections:
    """What real runs on this machine taught: speed reached / speed expected; None: nothing yet.

    On a processor of the whole estimate, on a card of the published bandwidth.
    """

    cpu: float | None = None
    gpu: float | None = None


def threads_for(n_bytes: int, most: int) -> int:
    """Threads that this program takes for a model of `n_bytes`, of `most` that it may take."""
    return max(1, min(most, 1 + n_bytes // BYTES_A_THREAD))


def tokens_per_second(
    weights: Footprint,
    run: Running,
    placement: Placement,
    machine: Machine,
    *,
    table_driven: bool = False,
    corrections: Corrections | None = None,
    threads: int = 0,
) -> float:
    """Generated tokens a second, with the context half full. Times on card and processor add up.

    Layers on the card are the last ones; the cache of a layer is read where the layer is: on a processor once for each
    of the query heads that share it (measured: llama.cpp 0.3.36 goes through it head by head). `threads` compute on the
    processor, as many as this program takes by default.
    """
    learned = corrections or Corrections()
    offloaded = max(0, placement.gpu_layers - 1)
    first = len(weights.layers) - offloaded
    caches = (list(run.caches) + [0] * len(weights.layers))[: len(weights.layers)]
    halves = [cache // 2 for cache in caches]
    on_cards = sum(weights.active[first:]) + sum(halves[first:]) + (weights.output_read if placement.gpu_layers else 0)
    in_ram = sum(weights.active[:first]) + (0 if placement.gpu_layers else weights.output_read)
    kernels, known = machine.processor.kernels, sum(weights.read_by_type.values())
    if kernels is not None and known:
        share = in_ram / max(1, sum(weights.active) + weights.output_read)
        count = threads or threads_for(weights.total, machine.threads)
        seconds = _measured_seconds(weights, share, sum(halves[:first]), run, kernels, count)
        limit = 0.0
    else:
        bandwidth = machine.processor.bytes_per_second * CPU_EFFICIENCY
        tables = TABLES_ON_CPU if machine.fast_simd else TABLES_ON_OLD_CPU
        seconds = in_ram / (bandwidth * (tables if table_driven else 1))
        seconds += sum(halves[:first]) * run.queries_per_key / bandwidth
        limit = 1 / MOST_TOKENS
    seconds /= learned.cpu or 1.0
    if machine.card:
        seconds += on_cards / (machine.card.bytes_per_second * (learned.gpu or GPU_EFFICIENCY))
        limit = 1 / MOST_TOKENS
    return 1 / max(seconds, limit, 1e-9)


def _measured_seconds(
    weights: Footprint, share: float, cache: int, run: Running, kernels: Kernels, threads: int
) -> float:
    """Seconds for one token on the processor, of `share` of the weights and of `cache` bytes of keys and values."""
    known = sum(weights.read_by_type.values())
    from_memory = _nearest(kernels.per_byte_from_memory, threads)
    # What is read again and again stays in the caches as far as it fits; a little more, and it drives itself out.
    beyond = min(1.0, max(0.0, (share * known + cache) / max(1, kernels.cache) - 1))
    from_memory *= beyond
    usual = sorted(kernels.per_byte.values())[len(kernels.per_byte) // 2] if kernels.per_byte else 0.0
    reading = beyond * weights.matrices * _nearest(kernels.per_matrix_from_memory, threads)
    for kind, n_bytes in weights.read_by_type.items():
        rows = weights.rows * n_bytes / known
        computing = rows * kernels.per_row + n_bytes * kernels.per_byte.get(kind, usual)
        reading += math.hypot(computing / threads, n_bytes * from_memory)
    elements = cache / run.element * run.queries_per_key
    looking = elements * _nearest(kernels.per_head_element, run.head)
    if run.row >= _FAR:
        looking += beyond * elements / (2 * run.head) * kernels.per_far_head
    attention = math.hypot(looking * _busiest(run.cells // 2, threads), cache * from_memory)
    step = _nearest(kernels.per_node, threads) + weights.width * kernels.per_node_element
    return 1e-9 * (share * (reading + weights.nodes * step) + attention + (PER_TOKEN if share else 0.0))


def _busiest(tokens: int, threads: int) -> float:
    """The share of one of `threads` in looking back at so many `tokens`.

    llama.cpp 0.3.36 shares out its cells, in steps of 256, whether they hold a token yet or not; if there are fewer
    than 512 of them, it shares out the heads.
    """
    cells = -(-(tokens + 1) // 256) * 256
    if cells < 512:
        return 1 / threads
    return min(1.0, cells / threads / tokens)


def _nearest(measured: Mapping[str, float], wanted: int) -> float:
    """The figure of the number (of threads, of elements) that is nearest to `wanted` of those that were measured."""
    numbers = [int(name) for name in measured if name.isdecimal()]
    return measured[str(min(numbers, key=lambda number: abs(number - wanted)))] if numbers else 0.0


def learn(estimated: float, measured: float, learned: Corrections) -> Corrections:
    """What a run on the processor teaches: `estimated` tokens a second were expected, `measured` came.

    The estimate moves half-way: one run on a busy machine must not spoil what others have taught.
    """
    if estimated <= 0 or measured <= 0:
        return learned
    pace = (learned.cpu or 1.0) * (measured / estimated) ** TRUST
    return replace(learned, cpu=min(_MOST_PACE, max(_LEAST_PACE, pace)))


def prompt_class(placement: Placement, active_weights: int) -> str:
    """How long prompts will feel, in words. Reading is bound by arithmetic: 2 operations for each active weight.

    A card does some 10^13 operations a second, a processor some 10^11; 1,000 tokens in a second are fast.
    """
    rate = {"gpu": 2e13, "split": 1e12, "cpu": 2e11}[placement.where]
    tokens = rate / max(1, 2 * active_weights)
    return "fast" if tokens >= 1000 else "moderate" if tokens >= 100 else "slow"
