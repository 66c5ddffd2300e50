"""Estimates of memory and speed against what is measured, on this machine, with models of a few hundred megabytes.

Each level is measured in each context, and every measurement teaches; the first line was predicted from the timed
kernels alone, the second round shows what was learned.

    PYTHONPATH=tests python -m benchmarks.estimates [--size 1.3e9] [--contexts 512 2048] [--levels Q8_0 ...]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.job import make_imatrix, make_source
from quantdeck.workbench.llama.trial import try_out
from quantdeck.workbench.measure import estimate, learn
from quantdeck.workbench.model import read_model
from quantdeck.workbench.paths import Paths
from quantdeck.workbench.session import Session
from support import llama_quantize


def line(session: Session, path: Path, context: int, threads: int | None) -> str:
    """Measure one model in one context, learn from it, and say how far the estimates were off."""
    model = read_model(path)
    expected = estimate(session, model, context, threads)
    usual = session.load_settings(path)
    trial = try_out(path, replace(usual, context=context, threads=threads or usual.threads), session.paths.logs)
    learn(session, model, trial, expected)
    memory = 100 * (expected.memory / trial.peak_memory - 1)
    speed = 100 * (expected.tokens_per_second / trial.tokens_per_second - 1)
    return (
        f"| {path.stem} | {context} | {expected.memory / 1e6:.1f} | {trial.peak_memory / 1e6:.1f} | {memory:+.1f} % "
        f"| {expected.tokens_per_second:.1f} | {trial.tokens_per_second:.1f} | {speed:+.0f} % "
        f"| {os.getloadavg()[0]:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=1.3e9, help="bytes of the 16-bit source")
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--levels", nargs="+", default=["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q2_K_S"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, help="as the program chooses if not given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quantdeck-estimates-") as name:
        folder = Path(name)
        session = Session(Paths(folder, folder, folder))
        source = make_source(folder / "source.gguf", options.size)
        outputs = [folder / f"{level}.gguf" for level in options.levels]
        orders = list(zip(outputs, options.levels, strict=True))
        llama_quantize.quantize_all(source, orders, make_imatrix(folder / "imatrix.gguf", source), threads=2)
        source.unlink()
        session.look_at_machine(folder)
        for number in range(1, options.rounds + 1):
            print(f"\nRound {number}\n")
            print(
                "| level | context | MB expected | MB measured | off | tok/s expected | tok/s measured | off | load |"
            )
            print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
            for context in options.contexts:
                for output in outputs:
                    print(line(session, output, context, options.threads), flush=True)
        print(f"\nLearned: {dict(session.profile.corrections)}")


if __name__ == "__main__":
    main()
