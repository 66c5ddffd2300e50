"""How quick the screen is: first frame, answer to a key, and bytes on the line, idle and while a job runs.

PYTHONPATH=tests python -m benchmarks.screen [--runs N] [--size BYTES]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / ".src")]

from benchmarks.job import make_source  # noqa: E402
from quantdeck.workbench.jobs import JobStore  # noqa: E402
from support.command import COMMAND  # noqa: E402
from support.terminal import Terminal  # noqa: E402

WATCHED_SECONDS = 10.0
FIRST_WORDS = "Machine"


def _environ(home: str) -> dict[str, str]:
    return {**os.environ, "QUANTDECK_HOME": home, "PYTHONPATH": str(ROOT / ".src"), "TERM": "xterm-256color"}


def first_frame(home: str) -> float:
    """Seconds from the start of the process to the first room on the screen."""
    start = time.monotonic()
    terminal = Terminal(COMMAND, _environ(home))
    terminal.wait_for(FIRST_WORDS)
    seconds = time.monotonic() - start
    terminal.end()
    return seconds


def key_answers(terminal: Terminal, times: int) -> list[float]:
    """Seconds from a key press to the screen that it asks for, going to and fro between two rooms."""
    answers = []
    for turn in range(times):
        key, words = ("1", "usable of") if turn % 2 else ("3", "weights/s")
        start = time.monotonic()
        terminal.send(key)
        answers.append(terminal.wait_for(words) if words not in terminal.text() else time.monotonic() - start)
        terminal.pump(0.3)
    return answers


def with_a_job(home: str, source: Path, level: str) -> tuple[list[float], float]:
    """Key answers, and bytes a second drawn by the Jobs room, while a job runs at full speed."""
    environ = _environ(home)
    output = Path(home) / "out.gguf"
    arguments = ["quantize", str(source), "gguf", "-q", level, "-o", str(output), "--detach"]
    subprocess.run([*COMMAND, *arguments], env=environ, check=True, capture_output=True)
    terminal = Terminal(COMMAND, environ)
    terminal.wait_for("usable of")
    answers = key_answers(terminal, 10)
    terminal.press("3")
    terminal.wait_for("weights/s")
    before, start = terminal.bytes_drawn, time.monotonic()
    while time.monotonic() - start < WATCHED_SECONDS:
        terminal.pump(0.2)
    rate = (terminal.bytes_drawn - before) / (time.monotonic() - start)
    assert "weights/s" in terminal.text(), "the job ended before the measurement: take a larger model"
    terminal.end()
    job = JobStore(Path(home) / "jobs").list()[-1]
    subprocess.run([*COMMAND, "jobs", "cancel", job.id], env=environ, check=True, capture_output=True)
    return answers, rate


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--size", type=float, default=2e9, help="bytes of the model that keeps a job busy; 0 for none")
    parser.add_argument("--level", default="Q4_K_M")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        frames = [first_frame(home) for _ in range(arguments.runs + 1)][1:]
        print(f"first frame   median {statistics.median(frames):.2f} s, {min(frames):.2f} to {max(frames):.2f}")
        if arguments.size:
            source = make_source(Path(home) / "source.gguf", arguments.size)
            answers, rate = with_a_job(home, source, arguments.level)
            print(f"key answers   median {1000 * statistics.median(answers):.0f} ms, most {1000 * max(answers):.0f} ms")
            print(f"on the line   {rate / 1000:.1f} kB/s in the Jobs room while a job runs")


if __name__ == "__main__":
    main()
