"""How conversations become text without a template of the model's own. Child process only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .template import ChatTemplate

TIME_LIMIT = 5.0
"""Seconds that rendering a template may take."""
# Rendering has its own limits; this one catches an endless operation inside Python's C code, by the parent's hand.
TEMPLATE_PATIENCE = 3 * TIME_LIMIT

PLAIN_STOPS = ("\nUser:", "\nSystem:")


class TemplateFailed(Exception):
    """The template could not be used; the text says why, as the end of a sentence."""


@dataclass
class Conversation:
    """How this model's conversations are written: by its own template, or by the plain format and why."""

    template: ChatTemplate | None = None
    notice: str = ""


def plain_prompt(messages: Sequence[Mapping[str, Any]], answer: bool = True) -> str:
    """A format that any model can follow, for those without a template; its answers end with `PLAIN_STOPS`."""
    turns = [
        message["content"].strip()
        if message["role"] == "system"
        else f"{message['role'].capitalize()}: {message['content'].strip()}"
        for message in messages
    ]
    return "\n\n".join([*turns, "Assistant:"] if answer else turns)
