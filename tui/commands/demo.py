"""`quantdeck demo`: the whole line on the built-in sample model."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...workbench import jobs
from ...workbench.advice import Wish, advise
from ...workbench.jobs import JobSnapshot
from ...workbench.llama import ChatDone, Sampling
from ...workbench.model import read_model
from ...workbench.recipe import Request
from ...workbench.sample import SAMPLE
from ...workbench.session import Session, open_session
from ...workbench.text import size
from ..describe import default_output, hardware_facts, headline, plan_facts
from ..terminal import Terminal
from .chat import done_words
from .quantize import finish, follow
from .workbench import open_workbench

QUESTIONS = ("What is Q4_K_M?", "What is the capital of France?", "Which format is best for a CPU?")
FALLBACK_LEVEL = "Q4_K_M"


def run(arguments: argparse.Namespace) -> int:
    """The line in the terminal with --headless; otherwise the workbench on the same path."""
    if not (arguments.headless or arguments.json):
        return open_workbench(SAMPLE.model)
    terminal = Terminal(arguments.json)
    session = open_session(os.environ)
    document: dict[str, Any] = {}
    level = _look_and_choose(session, arguments.level, terminal, document)
    snapshot = _quantize(session, level, arguments.output, terminal, document)
    if snapshot.status != "done":
        return finish(snapshot, terminal)
    _talk(session, Path(snapshot.spec.output), terminal, document)
    _sum_up(snapshot, terminal, document)
    terminal.document(document)
    return 0


def _look_and_choose(session: Session, asked: str | None, terminal: Terminal, document: dict[str, Any]) -> str:
    terminal.heading("1. The machine")
    hardware, bandwidth = session.look_at_machine(session.paths.data.parent)
    terminal.facts(hardware_facts(hardware, bandwidth))
    for note in [*session.messages, *hardware.notes]:
        terminal.say(f"  note: {note}")
    advice = advise(read_model(SAMPLE.model), hardware, Wish(), bandwidth, session.corrections)
    terminal.heading(f"2. The recommendation: {headline(advice)}")
    for sentence in advice.why:
        terminal.say(f"  - {sentence}")
    document |= {"hardware": asdict(hardware), "advice": advice.to_dict()}
    level = asked or advice.level or FALLBACK_LEVEL
    if level != advice.level:
        terminal.say(f"  {level} is made, as you asked." if asked else f"  {level} is made all the same, to show how.")
    return level


def _quantize(
    session: Session, level: str, output: str | None, terminal: Terminal, document: dict[str, Any]
) -> JobSnapshot:
    terminal.heading("3. Quantize and verify")
    target = Path(output) if output else default_output(SAMPLE.model, level, session.paths.models)
    # Only the demo's own earlier file is replaced, never one that the user named.
    proposal = session.propose(SAMPLE.model, Request(level), target, overwrite=output is None)
    terminal.facts(plan_facts(proposal))
    for note in proposal.spec.notes:
        terminal.say(f"  note: {note}")
    job_id = jobs.submit(session.jobs, proposal)
    jobs.start(session.jobs, job_id)
    snapshot = follow(session.jobs, job_id, terminal)
    if snapshot.status == "done":
        finish(snapshot, terminal)
    document |= {"job": job_id, "output": str(target), "sha256": snapshot.sha256}
    return snapshot


def _talk(session: Session, model: Path, terminal: Terminal, document: dict[str, Any]) -> None:
    terminal.heading("4. Talk to it")
    answers = []
    with session.load(model) as llama:
        for question in QUESTIONS:
            terminal.say(f"  > {question}")
            terminal.stream("  ")
            text = ""
            for event in llama.chat([{"role": "user", "content": question}], Sampling(temperature=0), max_tokens=96):
                if isinstance(event, ChatDone):
                    terminal.say()
                    terminal.say(f"  [{done_words(event)}]")
                    answers.append({"prompt": question, "answer": text, **asdict(event)})
                else:
                    text += event.text
                    terminal.stream(event.text)
    document["answers"] = answers


def _sum_up(snapshot: JobSnapshot, terminal: Terminal, document: dict[str, Any]) -> None:
    spec, plan = snapshot.spec, snapshot.plan
    before = read_model(Path(spec.source)).bits_per_weight
    terminal.heading("5. Before and after")
    rows = [
        ["before", size(spec.source_bytes), f"{before:.2f}"],
        ["after", size(plan.total), f"{plan.bits_per_weight:.2f}"],
    ]
    terminal.table(["", "size", "bits per weight"], rows, right=[1, 2])
    terminal.heading("What to try next")
    terminal.say("  quantdeck                                      the workbench: the same with screens")
    terminal.say("  quantdeck advise YOUR-MODEL.gguf               what fits this machine, and why")
    terminal.say("  quantdeck quantize YOUR-MODEL.gguf gguf -q Q4_K_M")
    terminal.say(f"  quantdeck chat {spec.output}")
    document |= {
        "before": {"bytes": spec.source_bytes, "bits_per_weight": before},
        "after": {"bytes": plan.total, "bits_per_weight": plan.bits_per_weight},
    }
