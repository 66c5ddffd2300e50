"""Real models for the loopback Hub: the sample, quantized by llama.cpp, whole and in shards."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from quantdeck.workbench.model import read_model, value, write_header
from quantdeck.workbench.sample import SAMPLE

from .llama_quantize import quantize


@cache
def sample() -> bytes:
    return SAMPLE.model.read_bytes()


@cache
def quantized(level: str) -> bytes:
    """The sample at a level."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.gguf"
        quantize(SAMPLE.model, output, level)
        return output.read_bytes()


def shards(stem: str, count: int) -> dict[str, bytes]:
    """The sample in 16 bits as `count` shards, named as llama.cpp wants them."""
    model, content = read_model(SAMPLE.model), sample()
    every = -(-len(model.tensors) // count)
    files = {}
    for number in range(count):
        tensors = model.tensors[number * every : (number + 1) * every]
        metadata = dict(model.metadata) if number == 0 else {}
        metadata["split.no"] = value("uint16", number)
        metadata["split.count"] = value("uint16", count)
        metadata["split.tensors.count"] = value("int32", len(model.tensors))
        header = write_header(metadata, [(t.name, t.shape, t.type) for t in tensors])
        shard = bytearray(header.total_size)
        shard[: header.data_offset] = header.content
        for tensor, offset in zip(tensors, header.offsets, strict=True):
            shard[offset : offset + tensor.n_bytes] = content[tensor.offset : tensor.offset + tensor.n_bytes]
        files[f"{stem}-{number + 1:05}-of-{count:05}.gguf"] = bytes(shard)
    return files
