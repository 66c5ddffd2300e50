"""The metadata of the output: the source's, with what llama.cpp's quantizer adds and removes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..model import Model, Value, value
from .recipe import ImatrixFacts

QUANTIZATION_VERSION = 2

_SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")
_LONGEST_TEXT = 127


def output_metadata(model: Model, file_type: int, imatrix: ImatrixFacts | None) -> Mapping[str, Value]:
    """Keys in the order and with the bytes that `llama_model_quantize` writes; of paths only the file's name."""
    added = {
        "general.quantization_version": value("uint32", QUANTIZATION_VERSION),
        "general.file_type": value("uint32", file_type),
    }
    if imatrix is not None:
        added["quantize.imatrix.file"] = _file_name(imatrix.file)
        if imatrix.dataset:
            added["quantize.imatrix.dataset"] = _file_name(imatrix.dataset)
        added["quantize.imatrix.entries_count"] = value("uint32", len(imatrix.names))
        if imatrix.chunks > 0:
            added["quantize.imatrix.chunks_count"] = value("uint32", imatrix.chunks)
    kept = {key: item for key, item in model.metadata.items() if key not in added and key not in _SPLIT_KEYS}
    return kept | added


def _file_name(path: str) -> Value:
    """The last component, cut to the length that llama.cpp's overrides can hold."""
    name = re.split(r"[/\\]", path.rstrip("/\\"))[-1].encode("utf-8", "surrogateescape")[:_LONGEST_TEXT]
    return value("string", name.decode("utf-8", "surrogateescape"))


_GUESSES = {
    "F32": 0, "F16": 1, "BF16": 32, "Q4_0": 2, "Q4_1": 3, "Q5_0": 8, "Q5_1": 9, "Q8_0": 7, "Q2_K": 10, "Q3_K": 12,
    "Q4_K": 15, "Q5_K": 17, "Q6_K": 18, "TQ1_0": 36, "TQ2_0": 37, "IQ2_XXS": 19, "IQ2_XS": 20, "IQ2_S": 28,
    "IQ3_XXS": 23, "IQ1_S": 24, "IQ1_M": 31, "IQ4_NL": 25, "IQ4_XS": 30, "IQ3_S": 26, "NVFP4": 39, "Q1_0": 40,
    "Q2_0": 41,
}  # fmt: skip
_GUESSED = 1024


def file_type_of(model: Model, types: list[str]) -> int:
    """The source's own `general.file_type`, or llama.cpp's guess: that of the type that most tensors have.

    `types` are the tensors' types in the output's order; of equally frequent ones the first to get there counts.
    """
    own = model.metadata.get("general.file_type")
    if own is not None and own.kind == 4:
        return int(own.python)
    counts: dict[str, int] = {}
    most, winner = 0, "F32"
    for kind in types:
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] > most:
            most, winner = counts[kind], kind
    return _GUESSES.get(winner, 0) | _GUESSED
