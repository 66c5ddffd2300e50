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
    """Look for a model on the Hub: what `repository` offers, with its `file` chosen, at a context; "" to search."""

    repository: str = ""
    file: str = ""
    context: int | None = None


@dataclass
class OpenJob(Message):
    """Show this job."""

    job_id: str
