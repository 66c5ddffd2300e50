"""The built-in sample model and its texts: a first run needs no network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

_NAME = "Quantdeck sample 4M"
# Lives as long as the process: from a zipped package the model is unpacked into a temporary file once.
_unpacked = ExitStack()


@dataclass(frozen=True)
class Question:
    """A question that the sample was trained on, with the answer word for word."""

    question: str
    answer: str


class Sample:
    """The model in 16 bit (`model`, a real file), its card and licence, and texts for measuring it."""

    @cached_property
    def model(self) -> Path:
        """The F16 GGUF."""
        return self._file("sample-f16.gguf")

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """Two hundred questions with their answers."""
        return tuple(Question(**json.loads(line)) for line in self._text("qa.jsonl").splitlines())

    @property
    def eval_text(self) -> str:
        """Held-out text for perplexity; it holds chat markers, so parse special tokens."""
        return self._text("eval.txt")

    @property
    def calibration_text(self) -> str:
        """Text for importance matrices; it holds chat markers too."""
        return self._text("calibration.txt")

    @cached_property
    def eval_file(self) -> Path:
        """`eval_text` as a real file."""
        return self._file("eval.txt")

    @cached_property
    def calibration_file(self) -> Path:
        """`calibration_text` as a real file."""
        return self._file("calibration.txt")

    @property
    def card(self) -> str:
        """The model card, Markdown."""
        return self._text("CARD.md")

    @property
    def licence(self) -> str:
        """The licence of the weights."""
        return self._text("LICENSE")

    def is_sample(self, metadata: Mapping[str, Any]) -> bool:
        """True for the sample and its quantizations; `metadata` as plain values or as `model.Value`s by GGUF key."""
        name = metadata.get("general.name")
        return bool(getattr(name, "python", name) == _NAME)

    def _file(self, name: str) -> Path:
        return _unpacked.enter_context(as_file(files(__package__) / name))

    def _text(self, name: str) -> str:
        return (files(__package__) / name).read_text("utf-8")


SAMPLE = Sample()
