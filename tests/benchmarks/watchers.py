"""What watching costs: the wall time of a job alone and with five watchers, in turn, on the same model.

Four `quantdeck jobs watch` with their output in a pipe, and one workbench at 80x24 in the Jobs room. Each pair of runs
gives one ratio of wall times, and one of the watchers' CPU time to the job's; the medians count.

    PYTHONPATH=tests python -m benchmarks.watchers [--size BYTES] [--rounds N] [--workers N] [--nice N]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / ".src")]

from benchmarks.job import make_source  # noqa: E402
from quantdeck.workbench import jobs  # noqa: E402
from quantdeck.workbench.jobs.pool import nice_session  # noqa: E402
from quantdeck.workbench.recipe import Request  # noqa: E402
from support.command import COMMAND  # noqa: E402
from support.jobs import Bench  # noqa: E402
from support.terminal import Terminal  # noqa: E402

PIPES = 4


class Watchers:
    """Four followers in pipes and one screen."""

    def __init__(self, home: Path, job: str) -> None:
        environ = {
            **os.environ,
            "QUANTDECK_HOME": str(home),
            "PYTHONPATH": str(ROOT / ".src"),
            "TERM": "xterm-256color",
        }
        command = [*COMMAND, "jobs", "watch", job]
        self.pipes = [
            subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            for _ in range(PIPES)
        ]
        self.terminal = Terminal(COMMAND, environ)
        self.terminal.send("3")
        self.ended = threading.Event()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        self.screen = psutil.Process(self.terminal.pid)

    def _read(self) -> None:
        while not self.ended.is_set():
            self.terminal.pump(0.2)

    def end(self) -> float:
        """End them; CPU seconds that all of them took, their start included."""
        before = os.times()
        seconds = sum(self.screen.cpu_times()[:2])
        self.ended.set()
        self.reader.join()
        self.terminal.end()
        for pipe in self.pipes:
            pipe.communicate(timeout=20)
        after = os.times()
        return seconds + after.children_user + after.children_system - before.children_user - before.children_system


def run(bench: Bench, source: Path, level: str, workers: int, watched: bool) -> tuple[float, float, float]:
    """Wall seconds of the job's work, its CPU seconds, and those of its watchers."""
    output = bench.folder / "out.gguf"
    store = jobs.JobStore(bench.folder / "home" / "jobs")
    proposal = jobs.prepare(store, source, Request(level), output, jobs.JobOptions(workers, os.nice(0), overwrite=True))
    job = jobs.submit(store, proposal)
    jobs.start(store, job)
    watchers = Watchers(bench.folder / "home", job) if watched else None
    for snapshot in store.follow(job, 1.0):
        last = snapshot
    assert last.status == "done", last.message
    cost = watchers.end() if watchers else 0.0
    done = jobs_done(store, job)
    return last.seconds, done, cost


def jobs_done(store: jobs.JobStore, job: str) -> float:
    """CPU seconds of a finished job's processes."""
    from quantdeck.workbench.jobs.journal import Done, JournalReader

    last = JournalReader(store.folder(job).journal).read()[-1]
    assert isinstance(last, Done)
    return last.cpu_seconds


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=1e9, help="bytes of the source")
    parser.add_argument("--level", default="Q4_K_M")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--nice", type=int, default=0, help="priority of all, -20 to 19, against what else runs")
    options = parser.parse_args()
    os.nice(options.nice)
    nice_session(options.nice)
    ratios, costs = [], []
    print("alone s  watched s  ratio   CPU of the job s  of its watchers s")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        source = make_source(bench.folder / "source.gguf", options.size)
        for _ in range(options.rounds):
            alone, _, _ = run(bench, source, options.level, options.workers, watched=False)
            watched, cpu, cost = run(bench, source, options.level, options.workers, watched=True)
            ratios.append(watched / alone)
            costs.append(cost / cpu)
            print(f"{alone:7.2f}  {watched:9.2f}  {ratios[-1]:5.3f}  {cpu:17.2f}  {cost:17.2f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.3f}; watchers' CPU {100 * statistics.median(costs):.1f} % of it")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
