"""The files of a Hugging Face checkpoint: which of them hold what."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ModelNotFound, ValidationFailed
from ..model.wording import shown
from .stored import StoredTensor, read_stored

MAX_JSON = 256 << 20
"""Bytes of the largest JSON file that is read; a tokenizer of 256,000 words takes about 35 MB."""

CONFIG, INDEX, SINGLE = "config.json", "model.safetensors.index.json", "model.safetensors"

SIDE_FILES = (
    CONFIG, INDEX, "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json", "README.md",
)  # fmt: skip
"""Files beside the weights that the converted model depends on."""

OLD_TOKENIZER = ("vocab.json", "merges.txt")
"""What older folders have instead of tokenizer.json."""

_SHARD = re.compile(r"model-(?P<number>\d{5,6})-of-(?P<count>\d{5,6})\.safetensors")
_TOKEN_NUMBER = re.compile(r"[0-9]{1,9}")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class Folder:
    """A checkpoint's files. `files` are all that the converted model depends on, those with weights last."""

    path: Path
    config: Mapping[str, Any] = field(repr=False)
    tensors: Mapping[str, StoredTensor] = field(repr=False)
    files: tuple[Path, ...]


def is_checkpoint(path: Path) -> bool:
    """True for a folder that is meant to be a checkpoint, whole or not."""
    if not path.is_dir():
        return False
    return (path / CONFIG).exists() or any(path.glob("*.safetensors")) or (path / INDEX).exists()


def read_folder(path: Path) -> Folder:
    """Read config.json and the headers of all weights.

    Raises:
        ModelNotFound: no weights as safetensors, no config.json, a shard is missing.
        ValidationFailed: a file is damaged, or the files contradict each other.
    """
    if not (path / CONFIG).is_file():
        raise ModelNotFound(f"{shown(path)} holds no config.json, so nobody knows what its weights are.")
    config = read_json(path / CONFIG)
    older = () if (path / "tokenizer.json").is_file() else OLD_TOKENIZER
    side = [path / name for name in (*SIDE_FILES, *older) if (path / name).is_file()]
    shards, weight_map = _shards(path)
    tensors: dict[str, StoredTensor] = {}
    for number, shard in enumerate(shards):
        found = read_stored(shard, len(side) + number)
        for name in found:
            if name in tensors:
                raise ValidationFailed(f"{shown(path)} is damaged: two of its files hold tensor {shown(name)}.")
        tensors |= found
    if weight_map is not None:
        _check_index(path, weight_map, shards, tensors, len(side))
    return Folder(path, config, tensors, (*side, *shards))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; ModelNotFound or ValidationFailed."""
    content = read_text(path)
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValidationFailed(f"{shown(path)} is damaged: it is not JSON.") from error
    if not isinstance(values, dict):
        raise ValidationFailed(f"{shown(path)} is damaged: it does not hold a JSON object.")
    return values


def read_text(path: Path) -> str:
    """A text file in UTF-8 of sensible size; ModelNotFound or ValidationFailed."""
    try:
        if not path.is_file():
            raise ModelNotFound(f"There is no file {shown(path)}.")
        if path.stat().st_size > MAX_JSON:
            raise ValidationFailed(f"{shown(path)} is too large to be what its name says.")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ModelNotFound(f"{shown(path)} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ValidationFailed(f"{shown(path)} is damaged: it is not text in UTF-8.") from error


def optional_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, empty if there is no such file."""
    return read_json(path) if path.is_file() else {}


def token_number(key: str) -> int | None:
    """The number of a token as `added_tokens_decoder` writes it; None for anything else."""
    return int(key) if _TOKEN_NUMBER.fullmatch(key) else None


def _shards(path: Path) -> tuple[list[Path], Mapping[str, Any] | None]:
    """The files with weights, and the index's map from tensor to file if there is an index."""
    if (path / INDEX).is_file():
        weight_map = read_json(path / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValidationFailed(f"{shown(path / INDEX)} is damaged: it does not say which file holds which tensor.")
        return [_named(path, name) for name in sorted(set(map(str, weight_map.values())))], weight_map
    if (path / SINGLE).is_file():
        return [path / SINGLE], None
    parts = sorted(p for p in path.glob("*.safetensors") if _SHARD.fullmatch(p.name))
    if parts:
        match = _SHARD.fullmatch(parts[-1].name)
        count = int(match["count"]) if match else 0
        if len(parts) != count:
            raise ModelNotFound(f"{shown(path)} holds {len(parts)} of the {count} files with the model's weights.")
        return parts, None
    raise ModelNotFound(_about_missing_weights(path))


def _named(path: Path, name: str) -> Path:
    """A file that the index names: in this folder, and there."""
    if name != Path(name).name or name in ("", ".", "..") or "\0" in name or "\\" in name:
        raise ValidationFailed(f"{shown(path / INDEX)} is damaged: {shown(name)} is not the name of a file beside it.")
    if not (path / name).is_file():
        raise ModelNotFound(f"A part of the model is missing: {shown(path / name)} must lie beside the others.")
    return path / name


def _check_index(
    path: Path, weight_map: Mapping[str, Any], shards: list[Path], tensors: Mapping[str, StoredTensor], first: int
) -> None:
    for name, file in weight_map.items():
        if name not in tensors or shards[tensors[name].file - first].name != file:
            raise ValidationFailed(
                f"{shown(path / INDEX)} is wrong: tensor {shown(name)} is not in {shown(str(file))}; get the"
                " checkpoint again."
            )
    if extra := next((name for name in tensors if name not in weight_map), None):
        raise ValidationFailed(f"{shown(path / INDEX)} is wrong: it does not list tensor {shown(extra)}.")


def _about_missing_weights(path: Path) -> str:
    if any(next(path.glob(pattern), None) for pattern in _PICKLED):
        return (
            f"{shown(path)} holds its weights as pickled Python objects, which are never opened because they can run"
            " any program: convert them to safetensors first (load the model with transformers and call"
            " save_pretrained), or get the safetensors version."
        )
    other = sorted(p.name for p in path.glob("*.safetensors"))
    if other:
        return (
            f"{shown(path)} holds no model.safetensors and no index of parts; {shown(other[0])} alone does not say"
            " whether it is the whole model."
        )
    inside = sorted(p.name for p in path.glob("*.gguf"))[:3]
    hint = f"; name a file in it, such as {', '.join(map(shown, inside))}" if inside else ""
    return f"{shown(path)} holds no weights as safetensors{hint}."
