"""What one room asks of another. The app carries these; rooms never hold each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from textual.message import Message


@dataclass
class OpenChat(Message):
    """Talk to the model in this file."""

    model: Path


@dataclass
class OpenWizard(Message):
    """Choose a quantization for this model."""

    model: Path


@dataclass
class OpenHub(Message):
    """Look for a model on the Hub."""


@dataclass
class OpenJob(Message):
    """Show this job."""

    job_id: str


class EnterPressed(Message):
    """Enter, sent the way that every other key goes, so that it overtakes none that was pressed before it."""
