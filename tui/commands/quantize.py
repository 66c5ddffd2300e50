"""`quantdeck quantize`: make a quantized model, as a job that survives this terminal."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...workbench import jobs
from ...workbench.errors import BadArgument, QuantdeckError
from ...workbench.jobs import JobSnapshot, JobStore, Proposal
from ...workbench.recipe import Request
from ...workbench.session import Session, model_path, open_session
from ...workbench.text import duration, printable, size
from ..describe import check_words, default_output, plan_facts, progress_words
from ..terminal import Terminal


def run(arguments: argparse.Namespace) -> int:
    """Plan, submit, and watch until it is done; with --detach return at once."""
    terminal = Terminal(arguments.json)
    session = open_session(os.environ)
    proposal = _propose(session, arguments)
    say_plan(proposal, terminal)
    if arguments.dry_run:
        terminal.document(_document(None, "planned", proposal))
        return 0
    job_id = jobs.submit(session.jobs, proposal, lambda *done: terminal.progress(check_words(*done)))
    jobs.start(session.jobs, job_id, arguments.supervisor)
    if warning := jobs.logout_warning():
        terminal.warn(warning)
    if arguments.detach:
        terminal.say(f"Job {job_id} runs on its own; quantdeck jobs watch {job_id} shows it.")
        terminal.document(_document(job_id, "running", proposal))
        return 0
    snapshot = follow(session.jobs, job_id, terminal)
    terminal.document(_document(job_id, snapshot.status, proposal, snapshot))
    return finish(snapshot, terminal)


def _propose(session: Session, arguments: argparse.Namespace) -> Proposal:
    source = model_path(arguments.model)
    request = Request(
        level=arguments.level,
        pure=arguments.pure,
        tensor_types=tuple(_override(text) for text in arguments.tensor_type),
        output_type=arguments.output_type,
        embedding_type=arguments.embedding_type,
        allow_requantize=arguments.allow_requantize,
    )
    output = Path(arguments.output) if arguments.output else default_output(source, arguments.level, Path.cwd())
    options = jobs.JobOptions(
        workers=arguments.workers,
        overwrite=arguments.overwrite,
        library=session.paths.library,
        imatrix=Path(arguments.imatrix) if arguments.imatrix else None,
        max_file_bytes=_file_bytes(arguments.split_max_size) if arguments.split_max_size is not None else None,
    )
    return jobs.prepare(session.jobs, source, request, output, options, arguments.pre)


def _override(text: str) -> tuple[str, str]:
    pattern, equals, kind = text.rpartition("=")
    if not equals or not pattern or not kind:
        raise BadArgument(f"--tensor-type {text} is not of the form REGEX=TYPE, for example ffn_down=Q6_K.")
    return pattern, kind


def _file_bytes(text: str) -> int:
    """Bytes of a size as llama.cpp's gguf-split takes it: whole millions (M) or thousands of millions (G)."""
    match = re.fullmatch(r"0*([1-9]\d{0,5})([MG])", text, re.ASCII)
    if not match:
        raise BadArgument(f"--split-max-size {printable(text)} is no size; give a whole number of M or G, as 2G.")
    return int(match[1]) * {"M": 10**6, "G": 10**9}[match[2]]


def say_plan(proposal: Proposal, terminal: Terminal) -> None:
    """What will be made, and what the user should know before it begins."""
    terminal.facts(plan_facts(proposal))
    for note in proposal.spec.notes:
        terminal.say(f"  note: {note}")


def follow(
    store: JobStore, job_id: str, terminal: Terminal, tell: Callable[[JobSnapshot], None] | None = None
) -> JobSnapshot:
    """Show a job until it ends or is paused by hand, each look also to `tell`; Ctrl+C leaves it running and says so."""
    snapshot, warned = store.snapshot(job_id), ""
    try:
        for snapshot in store.follow(job_id):
            if tell:
                tell(snapshot)
            if snapshot.waits_for_space:
                if warned != snapshot.message:
                    terminal.warn(warned := snapshot.message)
                continue
            warned = ""
            terminal.progress(f"{snapshot.spec.level}  {progress_words(snapshot)}")
            if snapshot.status == "paused":
                break
    except KeyboardInterrupt:
        terminal.warn(
            f"the job goes on; quantdeck jobs watch {job_id} shows it, quantdeck jobs cancel {job_id} ends it"
        )
        raise
    return snapshot


def finish(snapshot: JobSnapshot, terminal: Terminal) -> int:
    """Say how a job ended; its exit code."""
    if snapshot.status == "done":
        ratio = snapshot.spec.source_bytes / max(1, snapshot.plan.total)
        made = f"{size(snapshot.plan.total)}, {ratio:.2f} times smaller"
        terminal.say(f"Done in {duration(snapshot.seconds)}: {made}, loaded by llama.cpp and checked.")
        for path, digest in zip(snapshot.spec.outputs, snapshot.hashes, strict=True):
            terminal.say(f"sha256 {digest}" + (f"  {path.name}" if snapshot.spec.max_file_bytes else ""))
        return 0
    words = progress_words(snapshot)
    terminal.warn(
        f"job {snapshot.id} is {words}; quantdeck jobs resume {snapshot.id} goes on" if snapshot.resumable else words
    )
    return snapshot.exit_code or QuantdeckError.exit_code


def _document(
    job_id: str | None, status: str, proposal: Proposal, snapshot: JobSnapshot | None = None
) -> dict[str, Any]:
    plan, spec = proposal.plan, proposal.spec
    return {
        "job": job_id,
        "status": status,
        "message": snapshot.message if snapshot else "",
        "source": spec.source,
        "output": spec.output,
        "files": _files(proposal, snapshot),
        "level": spec.level,
        "bytes": plan.total,
        "bits_per_weight": plan.bits_per_weight,
        "ratio": spec.source_bytes / max(1, plan.total),
        "seconds": snapshot.seconds if snapshot else None,
        "sha256": snapshot.sha256 if snapshot and snapshot.sha256 else None,
        "notes": list(spec.notes),
        "tensors": [
            {
                "name": t.name,
                "shape": list(t.shape),
                "source_type": t.source_type,
                "type": t.type,
                "bytes": t.n_bytes,
                "file": t.file,
                "offset": t.offset,
                "reason": t.reason,
            }
            for t in plan.tensors
        ],
    }


def _files(proposal: Proposal, snapshot: JobSnapshot | None) -> list[dict[str, Any]]:
    """All files of the output: `sha256` above is the hash of all, one after another."""
    hashes = snapshot.hashes if snapshot and snapshot.hashes else [None] * len(proposal.plan.files)
    rows = zip(proposal.spec.outputs, proposal.plan.files, hashes, strict=True)
    return [{"path": str(path), "bytes": file.n_bytes, "sha256": digest} for path, file, digest in rows]
