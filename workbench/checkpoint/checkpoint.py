"""A Hugging Face checkpoint as a model: what its converted form would hold, without reading a weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import BadArgument, ValidationFailed
from ..model.gguf_format import STORED
from ..model.model import Model, Tensor, Value
from ..model.wording import shown
from .belonging import check_belongs
from .config import MAX_COUNT, Config
from .families import FAMILIES
from .family import Family, lay_out
from .folder import Folder, read_folder
from .general import general_metadata
from .notes import ignored_window, notes_on
from .specials import tokenizer_metadata
from .stored import StoredTensor
from .tokenizer_file import read_tokenizer
from .tokens import Tokens, read_tokens
from .views import View

FORMAT = "safetensors"

MATRIX_TYPES: Mapping[str, int] = {"F32": 0, "F16": 1, "BF16": 32}
"""Types that matrices can be converted to, with llama.cpp's number of the file type."""

_ALWAYS_F32 = ("ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "position_embd.weight", "token_types.weight")

_QUANTIZATION_VERSION = 2


def read_checkpoint(path: Path, pre: str | None = None, matrices: str | None = None) -> Model:
    """The model that a checkpoint becomes: GGUF's names, shapes, types and metadata.

    Args:
        path: the folder.
        pre: the pre-tokenizer by llama.cpp's name, where the user knows better; None recognises it.
        matrices: F32, F16 or BF16 for all matrices; None for the type that llama.cpp's converter takes by itself: that
            of the first stored matrix of 16 bits, else F16. Norms, biases and routers are F32 in any case.

    Raises:
        ModelNotFound: a file is missing.
        ValidationFailed: a file is damaged, the files contradict each other, or the model cannot be converted.
        BadArgument: `pre` or `matrices` is no name that there is.
    """
    if matrices is not None and matrices not in MATRIX_TYPES:
        raise BadArgument(f"Matrices become {', '.join(MATRIX_TYPES)}, not {shown(matrices)}.")
    folder = read_folder(path)
    family, config = identify(folder)
    views = lay_out(family, config, folder.tensors)
    kind = matrices or natural_type(folder)
    tokenizer = read_tokenizer(path)
    tokens = _fitting(family, read_tokens(path, views["token_embd.weight"].shape[0], pre, tokenizer))
    check_belongs(path, family.architecture, config.values, tokens, tokenizer)
    try:
        metadata = general_metadata(path, family.architecture, views, _experts(config, family))
        for key in family.keys:
            if (found := key.value(config)) is not None:
                metadata[f"{family.architecture}.{key.name}"] = found
        metadata |= _file_type(kind)
        metadata |= tokenizer_metadata(path, tokens, config.values, tokenizer)
    except UnicodeEncodeError as error:
        raise ValidationFailed(f"{shown(path)} is damaged: a text in its files ends within a character.") from error
    tensors = tuple(_tensor(name, view, kind) for name, view in views.items())
    model = Model(path, FORMAT, family.architecture, metadata, tensors, folder.files)
    window = ignored_window(family, config, model.get("{arch}.context_length", MAX_COUNT))
    return replace(model, window=window, notes=notes_on(window, tokenizer))


def with_matrices(model: Model, kind: str) -> Model:
    """The same checkpoint with its matrices as another type of MATRIX_TYPES: the plain conversion to it."""
    changed = []
    for tensor in model.tensors:
        if is_matrix(tensor.name, tensor.shape):
            n_bytes = STORED[kind].n_bytes(tensor.row_length, tensor.n_rows)
            changed.append(replace(tensor, type=kind, n_bytes=n_bytes))
        else:
            changed.append(tensor)
    metadata = {key: item for key, item in model.metadata.items() if key != "general.file_type"}
    return replace(model, tensors=tuple(changed), metadata=metadata | _file_type(kind))


def layout_of(path: Path) -> tuple[Folder, dict[str, View]]:
    """The files of a checkpoint and the tensors that it becomes; raises as `read_checkpoint`."""
    folder = read_folder(path)
    family, config = identify(folder)
    return folder, lay_out(family, config, folder.tensors)


def identify(folder: Folder) -> tuple[Family, Config]:
    """The family of a checkpoint, and its config.json with the family's defaults; ValidationFailed if not known."""
    config = folder.path / "config.json"
    name = _class_name(folder.config)
    family = FAMILIES.get(name)
    if family is None:
        raise ValidationFailed(
            f"{shown(config)} describes the architecture {shown(name or 'of no name')}, which cannot be converted yet;"
            f" known are {', '.join(sorted(FAMILIES))}. A GGUF made by llama.cpp's converter can be quantized."
        )
    quantized = folder.config.get("quantization_config")
    if quantized:
        method = quantized.get("quant_method", "") if isinstance(quantized, dict) else ""
        raise ValidationFailed(
            f"{shown(folder.path)} is quantized already ({shown(str(method)) or 'by an unknown method'}); get the"
            " original checkpoint with 16-bit weights."
        )
    return family, Config(config, folder.config, family.defaults)


def _class_name(config: Mapping[str, Any]) -> str:
    """The model class; that of the text model inside of a larger one counts if it is named."""
    for values in (config.get("text_config"), config):
        classes = values.get("architectures") if isinstance(values, dict) else None
        if isinstance(classes, list) and classes and isinstance(classes[0], str):
            return classes[0]
    return ""


def natural_type(folder: Folder) -> str:
    """That of the first stored matrix of 16 bits, in the files' order; F16 for a checkpoint in F32."""
    halves = (t.dtype for t in _in_order(folder.tensors) if len(t.shape) > 1 and t.dtype in ("F16", "BF16"))
    return next(halves, "F16")


def _in_order(tensors: Mapping[str, StoredTensor]) -> list[StoredTensor]:
    """Tensors file by file, by their names, as llama.cpp's converter goes through them."""
    return sorted(tensors.values(), key=lambda tensor: (tensor.file, tensor.name))


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """True for what has a type to choose: no vectors, norms, routers, positions and biases."""
    if len(shape) < 2 or name.endswith("_norm.weight") or not name.endswith(".weight"):
        return False
    return not name.endswith(_ALWAYS_F32)


def _tensor(name: str, view: View, kind: str) -> Tensor:
    shape = tuple(reversed(view.shape))
    chosen = kind if is_matrix(name, shape) else "F32"
    tensor = Tensor(name, shape, chosen, 0)
    return replace(tensor, n_bytes=STORED[chosen].n_bytes(tensor.row_length, tensor.n_rows))


def _file_type(kind: str) -> dict[str, Value]:
    from ..model import value

    return {
        "general.file_type": value("uint32", MATRIX_TYPES[kind]),
        "general.quantization_version": value("uint32", _QUANTIZATION_VERSION),
    }


def _fitting(family: Family, tokens: Tokens) -> Tokens:
    """Families that never put a space in front say so, whatever their tokenizer.model does."""
    return replace(tokens, space_prefix=False) if family.no_space_prefix and tokens.model == "llama" else tokens


def _experts(config: Config, family: Family) -> int:
    return (family.extents(config) if family.extents else {}).get("experts", 0)
