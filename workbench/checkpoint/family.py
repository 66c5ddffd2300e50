"""What a family of models is: which stored tensors become which, and what config.json says of it.

A family is data. Extents are named (`"q kv_heads*head"` is spelled out in `Family.extents`), so that every stored shape
is held against config.json, and tensors that nobody expects are refused rather than dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from ..errors import ValidationFailed
from ..model.wording import shown
from .config import Config
from .keys import SCALED, Key, check_rope
from .stored import FLOATS, StoredTensor
from .views import Gathered, MadeUp, PlusOne, View

Extents = Mapping[str, int]
MakeView = Callable[[tuple[StoredTensor, ...], Extents], View]


@dataclass(frozen=True)
class Weight:
    """One tensor of the converted model, or one for each layer.

    Attributes:
        stored: its name in the checkpoint; `{i}` stands for the layer, `{e}` for the expert (all are stacked).
        name: its name in GGUF, with the same `{i}`.
        shape: names of the stored extents, rows first, or several that are all right.
        view: how it is made of the stored tensors; None for rows as they are.
        optional: the model works without it (biases, an output tied to the embeddings).
        count: the extent that counts `{e}`.
        layers: which layers have it; None for all.
        tied: left out of the checkpoint where the output shares the embeddings.
        shared: the stored tensor that is taken then, for architectures that llama.cpp does not share them for.
        zeros: llama.cpp wants it where the checkpoint leaves it out (biases): zeros, which change nothing.
    """

    stored: str
    name: str
    shape: tuple[str, ...]
    view: MakeView | None = None
    optional: bool = False
    count: str = "experts"
    layers: Callable[[Config, int], bool] | None = None
    tied: bool = False
    shared: str = ""
    zeros: bool = False


@dataclass(frozen=True)
class Family:
    """One architecture of Hugging Face and what becomes of it.

    Attributes:
        classes: names of its model classes (`architectures` in config.json).
        architecture: llama.cpp's name.
        weights: all tensors.
        keys: metadata, in llama.cpp's names without the architecture.
        defaults: what transformers takes where config.json says nothing.
        extents: further named extents, beside those of `common_extents`.
        made_up: tensors that no file holds, by name.
        ignored: expressions of stored names that carry nothing the converted model needs.
        rope_kinds: scaled rotary positions (rope_type) that the converted model has too.
        window_ignored: layers with a window (sliding_window), which llama.cpp lets look at everything.
        check: raises what makes a checkpoint of the family impossible to convert.
        trims: the embeddings may have more rows than config.json says, which are cut off.
        no_space_prefix: SentencePiece texts do not begin with a space that nobody wrote.
        prefix: what the stored names begin with in some checkpoints and not in others.
    """

    classes: tuple[str, ...]
    architecture: str
    weights: tuple[Weight, ...]
    keys: tuple[Key, ...]
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    extents: Callable[[Config], Extents] | None = None
    made_up: Callable[[Config], Mapping[str, View]] | None = None
    ignored: tuple[str, ...] = ()
    rope_kinds: tuple[str, ...] = SCALED
    window_ignored: bool = False
    check: Callable[[Config], None] | None = None
    trims: bool = False
    no_space_prefix: bool = False
    prefix: str = ""


MAX_EXTENT = 1 << 22
"""Rows or columns of the largest matrix; real ones have up to some 100,000."""

NEVER_NEEDED = (
    r".*\.rotary_emb\.inv_freq",
    r".*\.attention\.(masked_)?bias",
    r".*\.attn\.(masked_)?bias",
    r"(model\.)?(vision_tower|vision_model|multi_modal_projector|visual)\..*",
)
"""Buffers that are computed again, and the parts of multimodal models that see or hear."""


def common_extents(config: Config) -> dict[str, int]:
    """Extents that most families name alike."""
    head = config.head_dim
    return {
        "d": config.hidden,
        "vocab": config.count("vocab_size"),
        "head": head,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "q": config.heads * head,
        "kv": config.kv_heads * head,
        "layers": config.n_layers,
    }


def lay_out(family: Family, config: Config, stored: Mapping[str, StoredTensor]) -> dict[str, View]:
    """The converted model's tensors by name, in the order of the family's description.

    Args:
        family: what the checkpoint is.
        config: its config.json, with the family's defaults.
        stored: the tensors of its files.

    Raises:
        ValidationFailed: a tensor is missing, too many, of a wrong shape or of a type that cannot be converted.
    """
    check_rope(config, family.rope_kinds)
    if family.check:
        family.check(config)
    extents = common_extents(config) | dict(family.extents(config) if family.extents else {})
    names = {_plain(name, family.prefix): tensor for name, tensor in stored.items()}
    views = dict(family.made_up(config)) if family.made_up else {}
    used: set[str] = set()
    for weight, layer in _each(family.weights, config):
        name = weight.name.format(i=layer)
        parts = _parts(weight, layer, names, extents, config)
        if parts is None:
            if weight.zeros:
                views[name] = MadeUp(np.zeros([extents[extent] for extent in weight.shape], np.float32))
            continue
        used |= {_plain(part.name, family.prefix) for part in parts}
        _check_shapes(weight, parts, extents, config, trims=family.trims)
        if name in views:
            raise ValidationFailed(f"{shown(config.path)} is ambiguous: {name} is stored in two ways.")
        views[name] = weight.view(parts, extents) if weight.view else as_stored(parts, extents)
    _refuse_unknown(family, config, set(names) - used)
    if family.trims:
        views["token_embd.weight"] = _trimmed(views["token_embd.weight"], extents["vocab"])
    return views


def _plain(name: str, prefix: str) -> str:
    """The name that a tensor has in the text model on its own."""
    return name.replace("language_model.", "").removeprefix(prefix)


def _each(weights: Iterable[Weight], config: Config) -> Iterator[tuple[Weight, int]]:
    once = [w for w in weights if "{i}" not in w.name]
    yield from ((weight, -1) for weight in once)
    for layer in range(config.n_layers):
        for weight in weights:
            if "{i}" in weight.name and (weight.layers is None or weight.layers(config, layer)):
                yield weight, layer


def _parts(
    weight: Weight, layer: int, names: Mapping[str, StoredTensor], extents: Extents, config: Config
) -> tuple[StoredTensor, ...] | None:
    """The stored tensors behind a weight, None if it is optional and not there."""
    many = "{e}" in weight.stored
    wanted = [weight.stored.format(i=layer, e=e) for e in range(extents[weight.count] if many else 1)]
    missing = [name for name in wanted if name not in names]
    left_out = weight.tied and config.flag("tie_word_embeddings", default=True)
    if missing and left_out and weight.shared:
        wanted, missing = [weight.shared], [] if weight.shared in names else [weight.shared]
    if missing and len(missing) == len(wanted) and (weight.optional or left_out):
        return None
    if missing:
        raise ValidationFailed(
            f"{shown(config.path.parent)} is incomplete: tensor {shown(missing[0])} is missing, which its config.json"
            " asks for."
        )
    parts = tuple(names[name] for name in wanted)
    for part in parts:
        if part.dtype not in FLOATS or part.dtype != parts[0].dtype:
            raise ValidationFailed(
                f"Tensor {shown(part.name)} is stored as {part.dtype}, and only {', '.join(FLOATS)} can be converted;"
                " get the checkpoint that was not quantized."
            )
    return parts


def _check_shapes(
    weight: Weight, parts: tuple[StoredTensor, ...], extents: Extents, config: Config, *, trims: bool
) -> None:
    expected = tuple(extents[name] for name in weight.shape)
    if max(expected) > MAX_EXTENT:
        raise ValidationFailed(f"{shown(config.path)} asks for a tensor of {max(expected)} rows or columns.")
    for part in parts:
        if trims and weight.shape[0] == "vocab" and part.shape[1:] == expected[1:] and part.shape[0] > expected[0]:
            continue
        if part.shape != expected or 0 in part.shape:
            raise ValidationFailed(
                f"{shown(config.path.parent)} contradicts itself: tensor {shown(part.name)} has the shape"
                f" {list(part.shape)}, and config.json asks for {list(expected)}."
            )


def _refuse_unknown(family: Family, config: Config, names: set[str]) -> None:
    patterns = [re.compile(pattern) for pattern in (*NEVER_NEEDED, *family.ignored)]
    unknown = sorted(name for name in names if not any(pattern.fullmatch(name) for pattern in patterns))
    if unknown:
        what = f"{shown(config.path.parent)} holds tensor {shown(unknown[0])}"
        raise ValidationFailed(f"{what}, {_about_unknown(unknown[0], config)}.")


_OF_AN_ADAPTER = re.compile(r".*\.(lora_\w+|base_layer|modules_to_save)\b.*")
_OF_A_QUANTIZATION = re.compile(
    r".*(\.|_)(qweight|qzeros|scales|g_idx|SCB|absmax|quant_map|quant_state|weight_scale\w*)\b.*"
)


def _about_unknown(name: str, config: Config) -> str:
    """What a tensor that nobody expects is likely to be, and what to do."""
    layer = re.search(r"\.(\d+)\.", name)
    if _OF_AN_ADAPTER.fullmatch(name):
        return "which is an adapter's: merge the adapter into the model first (peft: merge_and_unload)"
    if _OF_A_QUANTIZATION.fullmatch(name):
        return "which is a quantization's: get the original checkpoint with 16-bit weights"
    if layer and int(layer[1]) >= config.n_layers:
        return f"and config.json names {config.n_layers} layers: get the config.json that belongs to these weights"
    kind = "bias" if name.endswith(".bias") else "weight"
    return (
        f"which its architecture does not have: llama.cpp would compute without this {kind}, so check that"
        " config.json names the right architecture, or convert a checkpoint without it"
    )


def _trimmed(view: View, n_tokens: int) -> View:
    """Embeddings without the rows behind the last token."""
    if not isinstance(view, Gathered) or view.shape[0] <= n_tokens:
        return view
    return Gathered(view.parts, (n_tokens, *view.shape[1:]), view.order)


def as_stored(parts: tuple[StoredTensor, ...], extents: Extents) -> View:
    """Rows as they are; several tensors become one with a dimension more."""
    return Gathered(parts, parts[0].shape if len(parts) == 1 else (len(parts), *parts[0].shape))


def plus_one(parts: tuple[StoredTensor, ...], extents: Extents) -> View:
    """As stored, plus one."""
    return PlusOne(as_stored(parts, extents))
