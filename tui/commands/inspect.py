"""`quantdeck inspect`: what a model file holds."""

from __future__ import annotations

import argparse
from typing import Any

from ...workbench.model import Model, Value
from ...workbench.session import find_model
from ...workbench.text import size
from ..describe import model_facts
from ..terminal import Terminal

LONGEST_LIST = 16
LONGEST_TEXT = 400


def run(arguments: argparse.Namespace) -> int:
    """Read the header and say it."""
    terminal = Terminal(arguments.json)
    model = find_model(arguments.model, arguments.pre)
    terminal.facts(model_facts(model))
    for note in model.notes:
        terminal.say(f"  note: {note}")
    if arguments.tensors:
        rows = [[t.name, " x ".join(map(str, t.shape)), t.type, size(t.n_bytes)] for t in model.tensors]
        terminal.heading("Tensors")
        terminal.table(["name", "shape", "type", "size"], rows, right=[1, 3])
    terminal.document(describe(model))
    return 0


def describe(model: Model) -> dict[str, Any]:
    """The model as the JSON document of `inspect`."""
    return {
        "path": str(model.path),
        "files": [str(file) for file in model.files],
        "format": model.format,
        "architecture": model.architecture,
        "parameters": model.n_weights,
        "bits_per_weight": model.bits_per_weight,
        "bytes": model.n_bytes,
        "quantized": model.is_quantized,
        "notes": list(model.notes),
        "tensors": [
            {"name": t.name, "shape": list(t.shape), "type": t.type, "bytes": t.n_bytes} for t in model.tensors
        ],
        "metadata": {key: _short(value) for key, value in model.metadata.items()},
    }


def _short(value: Value) -> Any:
    """Vocabularies are long: of a long list say how long, and show its beginning."""
    content = value.python
    if isinstance(content, list) and len(content) > LONGEST_LIST:
        return {"length": len(content), "first": content[:LONGEST_LIST]}
    if isinstance(content, str) and len(content) > LONGEST_TEXT:
        return content[:LONGEST_TEXT] + "…"
    return content
