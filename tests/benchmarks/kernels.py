"""How long our kernels take, as a multiple of libggml's time on the same core and the same rows.

Machines are shared and noisy, so processor time is counted, the two are run in turn, each pair gives one ratio, and
the median of all ratios counts. C writes into memory that it has written before; our time includes the checks of
`quantize` and its result's allocation. numpy's buffer is set and freed memory is kept as in the job's workers. Scratch
is tracemalloc's peak less the result.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from quantdeck.kernels import TYPES, quantize
from quantdeck.workbench.jobs.worker import keep_memory
from support import ggml, rows

ROW = 4096
SHORTEST = 0.03
"""Seconds that one measurement takes at least; faster kernels are run several times in it."""

GOALS = {
    "Q4_0": (3.0, 1.0), "Q4_1": (3.0, 1.0), "Q5_0": (3.0, 1.0), "Q5_1": (3.0, 1.0), "Q8_0": (1.0, 1.0),
    "Q2_K": (0.55, 0.6), "Q3_K": (1.3, 0.75), "Q4_K": (0.5, 0.55), "Q5_K": (0.5, 0.55), "Q6_K": (0.75, 0.75),
    "IQ4_NL": (0.15, 0.15), "IQ4_XS": (0.15, 0.15),
}  # fmt: skip
"""Ratios to reach without and with an importance matrix; 1 for the types not named, none for plain floats."""


@dataclass(frozen=True)
class Timing:
    """One type with or without an importance matrix; times in ns a weight, memory in bytes."""

    type: str
    imatrix: bool
    ours: float
    c: float
    ratio: float
    ratio_min: float
    ratio_max: float
    goal: float | None
    scratch: int
    exact: bool


def pin(core: int | None) -> int | None:
    """Keep this process on one core, the last that it may use unless named; None where the system cannot."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    core = max(os.sched_getaffinity(0)) if core is None else core
    os.sched_setaffinity(0, {core})
    return core


def seconds(action: Callable[[], object], times: int) -> float:
    """Processor time of one `action`, averaged over `times`."""
    begin = time.process_time()
    for _ in range(times):
        action()
    return (time.process_time() - begin) / times


def measure(name: str, x: np.ndarray, imatrix: np.ndarray | None, runs: int) -> Timing:
    """Time one type over rows `x` (n, k), C first and ours second, `runs` times."""
    n, k = x.shape
    packed = np.zeros((n, TYPES[name].row_bytes(k)), np.uint8)
    arguments = (TYPES[name].ggml_id, x.ctypes.data, packed.ctypes.data, 0, n, k)
    importance = imatrix.ctypes.data if imatrix is not None else None

    def c() -> object:
        return ggml.library().ggml_quantize_chunk(*arguments, importance)

    def ours() -> object:
        return quantize(x, name, imatrix)

    ggml.library().ggml_quantize_init(TYPES[name].ggml_id)
    c()
    exact = bool(np.array_equal(ours(), packed))
    times = max(1, round(SHORTEST / max(seconds(c, 1), 1e-9)))
    pairs = [(seconds(c, times), seconds(ours, times)) for _ in range(runs)]
    ratios = [mine / theirs for theirs, mine in pairs]
    return Timing(
        type=name,
        imatrix=imatrix is not None,
        ours=statistics.median(mine for _, mine in pairs) / x.size * 1e9,
        c=statistics.median(theirs for theirs, _ in pairs) / x.size * 1e9,
        ratio=statistics.median(ratios),
        ratio_min=min(ratios),
        ratio_max=max(ratios),
        goal=GOALS.get(name, (1.0, 1.0))[imatrix is not None] if TYPES[name].quantized else None,
        scratch=scratch(ours, packed.nbytes),
        exact=exact,
    )


def scratch(action: Callable[[], object], result_bytes: int) -> int:
    """The most memory that `action` holds at once, beyond its result."""
    tracemalloc.start()
    action()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return max(0, peak - result_bytes)


def timings(names: list[str], weights: int, runs: int) -> Iterator[Timing]:
    """Every named type, without an importance matrix where it can be, then with one."""
    x = rows.make("gaussian", max(1, weights // ROW), ROW)
    importance = rows.imatrix(ROW)
    for name in names:
        if not TYPES[name].needs_imatrix:
            yield measure(name, x, None, runs)
        yield measure(name, x, importance, runs)


def line(t: Timing) -> str:
    missed = t.goal is not None and t.ratio > t.goal
    goal = "" if t.goal is None else f"{t.goal:.2f}"
    verdict = ("" if t.exact else "bytes differ ") + ("slower than the goal" if missed else "")
    return (
        f"{t.type:8} {'yes' if t.imatrix else '-':7} {t.ours:8.2f} {t.c:8.2f} {t.ratio:7.2f} "
        f"{t.ratio_min:6.2f} - {t.ratio_max:<6.2f} {goal:>5} {t.scratch / 2**20:8.1f}  {verdict}"
    )


HEADING = (
    f"{'type':8} {'imatrix':7} {'ours':>8} {'C':>8} {'ratio':>7} {'min':>6} - {'max':6} {'goal':>5} {'scratch':>8}\n"
    f"{'':8} {'':7} {'ns/w':>8} {'ns/w':>8} {'':7} {'':6}   {'':6} {'':5} {'MB':>8}"
)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.kernels", description=__doc__)
    parser.add_argument("--types", nargs="+", default=list(TYPES), choices=list(TYPES), metavar="TYPE")
    parser.add_argument("--weights", type=int, default=1 << 20, help="weights a run (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=7, help="pairs of runs, at least 7 (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=Path(".build/bench-kernels.json"), metavar="FILE")
    parser.add_argument("--core", type=int, help="the core to run on (default: the last one allowed)")
    options = parser.parse_args(arguments)
    if options.runs < 7:
        parser.error("--runs must be at least 7, or the median says little")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    core = pin(options.core)
    np.setbufsize(512)
    keep_memory()
    print(HEADING)
    results = []
    for timing in timings(options.types, options.weights, options.runs):
        results.append(timing)
        print(line(timing), flush=True)
    report = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "core": core,
        "weights": options.weights,
        "row": ROW,
        "runs": options.runs,
        "timings": [asdict(timing) for timing in results],
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(timing.exact for timing in results) else 1


if __name__ == "__main__":
    sys.exit(main())
