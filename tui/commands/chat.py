"""`quantdeck chat`: talk to a model in the terminal."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict, replace
from typing import Any

from ...workbench.errors import BadArgument
from ...workbench.llama import ChatDone, Llama, LlamaFailed, Message, Sampling, smoke_test, verdict
from ...workbench.session import Session, model_path, open_session
from ...workbench.text import duration
from ..terminal import Terminal

FULL = "context full"


def run(arguments: argparse.Namespace) -> int:
    """One question, a conversation, or the smoke test."""
    terminal = Terminal(arguments.json)
    session = open_session(os.environ)
    changes = {"context": arguments.context, "gpu_layers": arguments.gpu_layers}
    with session.load(
        model_path(arguments.model),
        on_progress=lambda fraction: terminal.progress(f"loading {100 * fraction:.0f} %"),
        child=arguments.child,
        **{name: value for name, value in changes.items() if value is not None},
    ) as llama:
        for notice in filter(None, [llama.info.template_notice, *llama.info.notices]):
            terminal.warn(notice)
        if arguments.smoke_test:
            return _smoke(llama, terminal)
        if arguments.prompt is not None:
            return _one(llama, session, arguments, terminal)
        return _conversation(llama, session, arguments, terminal)


def _one(llama: Llama, session: Session, arguments: argparse.Namespace, terminal: Terminal) -> int:
    text, done = _answer(llama, session, arguments, terminal, [{"role": "user", "content": arguments.prompt}])
    if done.reason == FULL and not text:
        raise BadArgument(
            f"The prompt does not fit into the context of {done.context_size:,} tokens; give a larger one (--context)."
        )
    terminal.document({"model": str(llama.path), "prompt": arguments.prompt, "answer": text, **asdict(done)})
    return 0


def _conversation(llama: Llama, session: Session, arguments: argparse.Namespace, terminal: Terminal) -> int:
    messages: list[Message] = []
    turns: list[dict[str, Any]] = []
    if sys.stdin.isatty():
        terminal.say(f"Talking to {llama.info.name}. Ctrl+C stops an answer, Ctrl+D ends.")
    while True:
        try:
            question = input("> " if sys.stdin.isatty() and not arguments.json else "").strip()
        except EOFError:
            terminal.document({"model": str(llama.path), "turns": turns})
            return 0
        if not question:
            continue
        messages.append({"role": "user", "content": question})
        try:
            text, done = _answer(llama, session, arguments, terminal, messages)
        except KeyboardInterrupt:
            terminal.say(" [stopped]")
            messages.pop()
            continue
        messages.append({"role": "assistant", "content": text})
        turns.append({"prompt": question, "answer": text, **asdict(done)})


def _answer(
    llama: Llama, session: Session, arguments: argparse.Namespace, terminal: Terminal, messages: list[Message]
) -> tuple[str, ChatDone]:
    """Stream one answer; KeyboardInterrupt ends it (leaving its iterator is what stops llama.cpp)."""
    chat = session.profile.chat
    system = arguments.system if arguments.system is not None else chat.system_prompt
    asked: list[Message] = [{"role": "system", "content": system}] if system else []
    pieces: list[str] = []
    for event in llama.chat(
        [*asked, *messages], _sampling(session, arguments), arguments.max_tokens or chat.max_tokens
    ):
        if isinstance(event, ChatDone):
            terminal.say()
            terminal.say(f"[{done_words(event)}]")
            if event.reason == FULL and arguments.prompt is None:
                terminal.warn("the context is full; end with Ctrl+D and begin again, or give a larger one (--context)")
            return "".join(pieces), event
        pieces.append(event.text)
        terminal.stream(event.text)
    raise LlamaFailed(f"{llama.path.name} ended without finishing its answer; {llama.log} says more.")


def done_words(done: ChatDone) -> str:
    """The figures of one answer in a line."""
    return (
        f"{done.generated_tokens} tokens at {done.tokens_per_second:.1f} tokens/s, first token after "
        f"{duration(done.seconds_to_first_token)}, context {done.context_used:,} of {done.context_size:,}"
        + ("" if done.reason == "stop" else f", {done.reason}")
    )


def _sampling(session: Session, arguments: argparse.Namespace) -> Sampling:
    changes = {"temperature": arguments.temperature, "seed": arguments.seed}
    return replace(session.sampling(), **{name: value for name, value in changes.items() if value is not None})


def _smoke(llama: Llama, terminal: Terminal) -> int:
    results = []
    for result in smoke_test(llama):
        results.append(result)
        terminal.say(f"{'ok ' if result.fine else 'BAD'}  {result.question}")
        terminal.say(f"     {' '.join(result.answer.split())[:200]}" + ("" if result.fine else f"  [{result.finding}]"))
    judged = verdict(results)
    terminal.say(judged.text)
    terminal.document({"ok": judged.ok, "verdict": judged.text, "results": [asdict(result) for result in results]})
    return 0 if judged.ok else 6
