"""All levels of a model, with and without an importance matrix: size, quality, questions and speed, as Markdown.

Everything goes through the product: calibrate, quantize as a job, evaluate against the 16-bit model.

    PYTHONPATH=tests python -m benchmarks.levels [--model FILE] [--levels Q4_K_M ...] [--chunks N] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from quantdeck.workbench import jobs
from quantdeck.workbench.advice import Estimator
from quantdeck.workbench.comparison import Compared, Comparison, as_markdown, compare
from quantdeck.workbench.llama.evaluate import EvaluationSettings
from quantdeck.workbench.measure import MeasureSettings, default_settings, measure
from quantdeck.workbench.model import read_model
from quantdeck.workbench.paths import Paths
from quantdeck.workbench.recipe import Request, make_recipe
from quantdeck.workbench.sample import SAMPLE
from quantdeck.workbench.session import Session

SPECIAL = ("TQ1_0", "TQ2_0", "Q1_0", "Q2_0", "MXFP4_MOE", "F32", "BF16", "F16")


@dataclass(frozen=True)
class Made:
    """One quantized file."""

    level: str
    imatrix: bool
    path: Path


def levels_of(model: Path) -> list[str]:
    """All ordinary levels for a model, the best first."""
    return [level for level in Estimator(read_model(model)).levels if level not in SPECIAL]


def make(session: Session, model: Path, level: str, imatrix: Path | None, folder: Path) -> Made | None:
    """Quantize; None where the level cannot be made without a matrix."""
    if imatrix is None and make_recipe(read_model(model), Request(level), preview=True).imatrix_needed_by:
        return None
    output = folder / f"{level}{'-imatrix' if imatrix else ''}.gguf"
    job = jobs.submit(session.jobs, session.propose(model, Request(level), output, overwrite=True, imatrix=imatrix))
    jobs.start(session.jobs, job)
    for snapshot in session.jobs.follow(job):
        last = snapshot
    if last.status != "done":
        raise RuntimeError(f"{level}: {last.message}")
    return Made(level, imatrix is not None, output)


def compared(
    session: Session, model: Path, levels: Sequence[str], folder: Path, settings: MeasureSettings
) -> Comparison:
    """Make and measure everything; rows from the largest file to the smallest."""
    imatrix = session.calibrate(model, SAMPLE.calibration_file).path
    entries = [measure(session, model, replace(settings, reference=None)).entry]
    for level in levels:
        for matrix in (None, imatrix):
            made = make(session, model, level, matrix, folder)
            if made:
                entries.append(measure(session, made.path, settings).entry)
                row = compare(entries).rows[-1]
                print(f"{row.label:12} {row.bits_per_weight:5.2f}  KL {row.kl:.5f}", file=sys.stderr, flush=True)
    found = compare(entries)
    return replace(found, rows=tuple(sorted(found.rows, key=lambda row: -row.n_bytes)))


def faults(rows: Sequence[Compared], slack: float = 1.15) -> list[str]:
    """What is not as expected: fewer bits must not be better, and the matrix must help under 4 bits.

    `slack`: levels of about the same size may change places; compared are files at least a quarter larger.
    """
    found = []
    for small in rows:
        for large in rows:
            if small.kl is None or large.kl is None or large.imatrix != small.imatrix:
                continue
            if large.n_bytes > 1.25 * small.n_bytes and large.kl > slack * small.kl:
                found.append(f"{large.label} ({large.kl:.5f}) is worse than the smaller {small.label} ({small.kl:.5f})")
    plain = {row.level: row for row in rows if not row.imatrix}
    for row in rows:
        other = plain.get(row.level)
        if row.imatrix and other and row.bits_per_weight < 4 and row.kl and other.kl and row.kl >= other.kl:
            found.append(f"{row.level}: with a matrix KL is {row.kl:.5f}, without {other.kl:.5f}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SAMPLE.model, help="in 16 bit; the sample if not given")
    parser.add_argument("--levels", nargs="+", help="all that can be made if not given")
    parser.add_argument("--chunks", type=int, default=0, help="of the text; all if not given")
    parser.add_argument("--keep", type=Path, help="keep the files here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quantdeck-levels-") as temporary:
        folder = options.keep or Path(temporary)
        home = folder / "home"
        session = Session(Paths(home, home, home / "cache"))
        settings = default_settings(options.model, EvaluationSettings(chunks=options.chunks), options.model)
        found = compared(session, options.model, options.levels or levels_of(options.model), folder, settings)
        print(as_markdown(found))
        for fault in faults(found.rows):
            print(f"- not as expected: {fault}")


if __name__ == "__main__":
    main()
