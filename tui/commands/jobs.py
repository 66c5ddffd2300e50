"""`quantdeck jobs`: what is being made, and what was."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...workbench import jobs
from ...workbench.errors import BadArgument
from ...workbench.jobs import JobSnapshot, JobStore
from ...workbench.session import open_session
from ...workbench.text import duration, size
from ..describe import STATUS_WORDS, one_line, progress_words, tensor_cells
from ..terminal import Terminal
from .quantize import finish, follow


def run(arguments: argparse.Namespace) -> int:
    """One action on one job, or the list."""
    terminal = Terminal(arguments.json)
    store = open_session(os.environ).jobs
    if arguments.action == "list":
        return _list(store, terminal)
    if arguments.id is None:
        raise BadArgument(f"Which job? quantdeck jobs {arguments.action} ID; quantdeck jobs lists them.")
    job_id = store.folder(arguments.id).id
    if arguments.action == "watch":
        snapshot = follow(store, job_id, terminal, Watched(terminal))
        terminal.document(_document(snapshot))
        return finish(snapshot, terminal)
    if arguments.action == "remove":
        store.remove(job_id)
        terminal.say(f"Job {job_id} is removed from the list; its file stays.")
        terminal.document({"job": job_id, "status": "removed"})
        return 0
    if arguments.action != "show":
        _ask(store, job_id, arguments)
    snapshot = store.snapshot(job_id)
    _show(snapshot, terminal)
    terminal.document(_document(snapshot))
    return 0


class Watched:
    """What a log gets while a job is watched: each change of its state, and each tensor when it is finished."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._state: tuple[str, ...] = ()
        self._finished: set[str] = set()

    def __call__(self, job: JobSnapshot) -> None:
        """Tell what is new."""
        state = (job.status, job.step, job.message)
        for progress in job.tensors:
            if progress.done and progress.tensor.name not in self._finished:
                self._finished.add(progress.tensor.name)
                name, kind, before, after, error = tensor_cells(progress)
                self._terminal.log(one_line(f"  {name}  {kind}  {before} → {after}  {error}"))
        if state != self._state:
            self._state = state
            if job.waits_for_space:  # said by `follow`
                return
            self._terminal.log(f"{job.spec.level}  {progress_words(job)}")


def _ask(store: JobStore, job_id: str, arguments: argparse.Namespace) -> None:
    simple = {"pause": jobs.pause, "resume": jobs.resume, "cancel": jobs.cancel}
    if arguments.action in simple:
        simple[arguments.action](store, job_id)
        return
    if arguments.value is None:
        raise BadArgument(f"How many? quantdeck jobs {arguments.action} {job_id} N.")
    change = jobs.set_workers if arguments.action == "workers" else jobs.set_nice
    change(store, job_id, arguments.value)


def _list(store: JobStore, terminal: Terminal) -> int:
    listed = store.list()
    if listed:
        rows = [
            [
                job.id,
                STATUS_WORDS[job.status],
                job.level,
                f"{100 * job.fraction:.0f} %",
                size(job.output_bytes),
                duration(job.seconds) if job.seconds else "",
                Path(job.source).name,
            ]
            for job in listed
        ]
        terminal.table(["job", "status", "level", "done", "size", "time", "model"], rows, right=[3, 4, 5])
    else:
        terminal.say("There are no jobs yet; quantdeck quantize makes one.")
    terminal.document({"jobs": [asdict(job) for job in listed]})
    return 0


def _show(snapshot: JobSnapshot, terminal: Terminal) -> None:
    spec = snapshot.spec
    terminal.facts(
        {
            "Job": snapshot.id,
            "Status": progress_words(snapshot),
            "Source": spec.source,
            "Output": spec.output,
            "Level": f"{spec.level}, {snapshot.plan.bits_per_weight:.2f} bits per weight, {size(snapshot.plan.total)}",
            "Workers": f"{snapshot.workers}, nice {snapshot.nice}",
        }
    )
    for note in [*spec.notes, *snapshot.notes]:
        terminal.say(f"  note: {note}")


def _document(snapshot: JobSnapshot) -> dict[str, Any]:
    errors = snapshot.errors
    return {
        **asdict(snapshot.summary),
        "bits_per_weight": snapshot.plan.bits_per_weight,
        "bytes_done": snapshot.bytes_done,
        "weights_done": snapshot.weights_done,
        "weights_per_second": snapshot.weights_per_second,
        "seconds_left": snapshot.seconds_left,
        "relative_error": errors.relative,
        "notes": list(snapshot.notes),
        "tensors": [
            {
                "name": progress.tensor.name,
                "type": progress.tensor.type,
                "bytes": progress.tensor.n_bytes,
                "done": progress.done,
                "rmse": progress.errors.rmse,
                "relative_error": progress.errors.relative,
            }
            for progress in snapshot.tensors
        ],
    }
