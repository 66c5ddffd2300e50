"""The sample model with other metadata or weights: models that are strange, broken or hostile in one way each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from quantdeck.workbench.model import Value, array, read_model, value, write_header
from quantdeck.workbench.sample import SAMPLE


def make_variant(path: Path, changes: Mapping[str, Value | None]) -> Path:
    """The sample with metadata values replaced, added, or (None) taken out."""
    model = read_model(SAMPLE.model)
    metadata = {**model.metadata, **changes}
    kept = {key: item for key, item in metadata.items() if item is not None}
    header = write_header(kept, [(t.name, t.shape, t.type) for t in model.tensors])
    content = bytearray(header.total_size)
    content[: header.data_offset] = header.content
    original = SAMPLE.model.read_bytes()
    for tensor, offset in zip(model.tensors, header.offsets, strict=True):
        content[offset : offset + tensor.n_bytes] = original[tensor.offset : tensor.offset + tensor.n_bytes]
    path.write_bytes(content)
    return path


def with_template(path: Path, template: str | None) -> Path:
    """The sample with another chat template, or without one."""
    return make_variant(path, {"tokenizer.chat_template": None if template is None else value("string", template)})


def with_tokens(path: Path, change: Callable[[list[str]], None]) -> Path:
    """The sample with its list of tokens changed in place by `change`."""
    tokens = list(read_model(SAMPLE.model).get("tokenizer.ggml.tokens"))
    change(tokens)
    return make_variant(path, {"tokenizer.ggml.tokens": array("string", tokens)})


def with_bytes(path: Path, tensor: str, content: bytes) -> Path:
    """The sample with the first bytes of a tensor replaced."""
    place = read_model(SAMPLE.model).by_name[tensor]
    whole = bytearray(SAMPLE.model.read_bytes())
    whole[place.offset : place.offset + len(content)] = content
    path.write_bytes(whole)
    return path
