"""What each layer of a model keeps for the tokens it has seen: keys and values, sliding windows, recurrent states.

Everything comes from the model's own metadata, by the rules of llama.cpp (llama-hparams, llama-model's
`create_memory`, and the loaders of the architectures in src/models, as of llama-cpp-python 0.3.36).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ValidationFailed
from ..model import Model
from ..text import printable

MAX_LAYERS = 512  # llama.cpp refuses more
_LARGEST = 1 << 40


@dataclass(frozen=True)
class LayerCache:
    """What one layer keeps. `keys`, `values`, `index` are elements a token; `state` is F32 elements a sequence.

    `windowed` layers keep only the last tokens, `CacheLayout.window` of them.
    """

    keys: int = 0
    values: int = 0
    index: int = 0
    state: int = 0
    windowed: bool = False


@dataclass(frozen=True)
class CacheLayout:
    """All layers' caches, and the length of the sliding window in tokens (0 without one)."""

    layers: tuple[LayerCache, ...]
    window: int


@dataclass(frozen=True)
class _Window:
    """How an architecture alternates full and windowed layers: every `period`-th is full, the first or the last one.

    `size` stands in where the file names no window, `forced` replaces what the file says. `period` 0: only an array in
    the file says which layers are windowed. `layers`: the rule counts only for models with that many layers.
    """

    period: int
    full_first: bool = False
    size: int = 0
    forced: int = 0
    layers: int = 0


_WINDOWS = {
    "afmoe": _Window(4),
    "cohere2": _Window(4),
    "cohere2moe": _Window(4, full_first=True),
    "dots3note": _Window(0),
    "exaone-moe": _Window(4, size=128),
    "exaone4": _Window(4, size=4096, layers=64),
    "gemma2": _Window(2, size=4096),
    "gemma3": _Window(6),
    "gemma3n": _Window(5),
    "gemma4": _Window(0),
    "gpt-oss": _Window(2),
    "granite_swa": _Window(0),
    "laguna": _Window(4, full_first=True),
    "llama4": _Window(4, size=8192, forced=8192),
    "maple": _Window(0),
    "mellum": _Window(4),
    "mimo2": _Window(0),
    "muse-glimmer": _Window(4),
    "olmo2": _Window(4),
    "plamo3": _Window(8),
    "smallthinker": _Window(4, full_first=True, forced=4096),
    "spark2_5": _Window(0),
    "step35": _Window(0),
}

ENCODERS = frozenset(
    {"bert", "jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe", "neo-bert", "eurobert", "modern-bert"}
    | {"gemma-embedding", "t5encoder", "wavtokenizer-dec"}
)
"""Architectures that turn text into numbers and cannot chat; they keep nothing between tokens."""

DIFFUSION = frozenset({"dream", "llada", "llada-moe", "rnd1"})
"""Architectures that write by diffusion, all words of an answer at once."""

_WITHOUT_CACHE = ENCODERS | DIFFUSION
_RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
_NO_HEADS_IS_RECURRENT = frozenset(
    {"jamba", "plamo2", "granitehybrid", "lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe"}
    | {"kimi-linear", "kimi-k3", "bailingmoe3", "glm5-next"}
)
_FULL_EVERY = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "qwen4exp": 4, "minimax-01": 8}
_INDEXED = frozenset({"deepseek32", "glm-dsa", "hy_v4", "minimax-m3", "qwen4exp", "glm5-next", "dots3note"})


def number(model: Model, key: str, default: int = 0) -> int:
    """A whole number of the metadata; ValidationFailed for one that is no number or beyond all sense."""
    found = model.get(key, default)
    if isinstance(found, list) and found:
        found = max(_whole(model, key, item) for item in found)
    return _whole(model, key, found)


def _whole(model: Model, key: str, found: Any) -> int:
    if isinstance(found, bool):
        return int(found)
    if not isinstance(found, int) or not 0 <= found < _LARGEST:
        name = key.replace("{arch}", printable(model.architecture))
        raise ValidationFailed(
            f"{printable(model.path.name)} is damaged: its metadata give no usable number for {name}."
        )
    return found


def per_layer(model: Model, key: str, layers: int, default: int = 0) -> list[int]:
    """A number for each layer: the file holds one for all, or a list (a short one is filled with zeros)."""
    found = model.get(key, default)
    if not isinstance(found, list):
        return [_whole(model, key, found)] * layers
    return ([_whole(model, key, item) for item in found] + [0] * layers)[:layers]


def block_count(model: Model) -> int:
    """All layers of the file. ValidationFailed for more than llama.cpp can run."""
    layers = number(model, "{arch}.block_count")
    if layers > MAX_LAYERS:
        raise ValidationFailed(f"{printable(model.path.name)} is damaged: it claims {layers:,} layers.")
    return layers


def layer_count(model: Model) -> int:
    """Layers that are run for a token; blocks that only predict further tokens are left out."""
    return max(0, block_count(model) - number(model, "{arch}.nextn_predict_layers"))


def cache_layout(model: Model) -> CacheLayout:
    """What every layer of `model` keeps.

    Raises:
        ValidationFailed: metadata that it depends on are no numbers, or beyond all sense.
    """
    if model.architecture in _WITHOUT_CACHE:
        return CacheLayout((), 0)
    layers = layer_count(model)
    loops = number(model, "{arch}.num_loops", 1) if model.architecture == "nanbeige" else 1
    recurrent = _recurrent_layers(model, layers)
    window, windowed = _windowed_layers(model, layers, recurrent)
    attention = _attention(model, layers, windowed)
    state = _state_elements(model)
    caches = []
    for layer in range(layers):
        mixed = model.architecture == "falcon-h1"
        cache = LayerCache() if recurrent[layer] and not mixed else attention(layer)
        if recurrent[layer]:
            cache = LayerCache(cache.keys, cache.values, cache.index, state, cache.windowed)
        caches.append(cache)
    return CacheLayout(tuple(caches * max(1, min(loops, MAX_LAYERS))), window)


def _attention(model: Model, layers: int, windowed: Sequence[bool]) -> Callable[[int], LayerCache]:
    heads = per_layer(model, "{arch}.attention.head_count", layers)
    kv_heads = heads
    if model.get("{arch}.attention.head_count_kv") is not None:
        kv_heads = per_layer(model, "{arch}.attention.head_count_kv", layers)
    width = number(model, "{arch}.embedding_length") // heads[0] if heads and heads[0] else 0
    key = number(model, "{arch}.attention.key_length", width)
    value = number(model, "{arch}.attention.value_length", width)
    key_windowed = number(model, "{arch}.attention.key_length_swa", key)
    value_windowed = number(model, "{arch}.attention.value_length_swa", value)
    compressed = number(model, "{arch}.attention.key_length_mla") > 0  # keys hold the latent, values are made from it
    index = number(model, "{arch}.attention.indexer.key_length") if model.architecture in _INDEXED else 0
    own = _layers_with_own_cache(model, layers)
    feed_forward = per_layer(model, "{arch}.feed_forward_length", layers)
    only_feed_forward = model.architecture in {"nemotron_h", "nemotron_h_moe"}

    def attention(layer: int) -> LayerCache:
        if layer >= own or (only_feed_forward and feed_forward[layer]):
            return LayerCache()
        narrow = windowed[layer]
        values = 0 if compressed else kv_heads[layer] * (value_windowed if narrow else value)
        return LayerCache(kv_heads[layer] * (key_windowed if narrow else key), values, index, 0, narrow)

    return attention


def _layers_with_own_cache(model: Model, layers: int) -> int:
    """The first so many layers keep keys and values; the others read theirs."""
    if model.architecture == "gemma3n":
        return 20
    if model.architecture == "gemma4":
        return max(0, layers - number(model, "{arch}.attention.shared_kv_layers"))
    return layers


def _recurrent_layers(model: Model, layers: int) -> list[bool]:
    architecture = model.architecture
    if architecture in _RECURRENT or architecture == "falcon-h1":
        return [True] * layers
    if architecture in _FULL_EVERY:
        marked = model.get("{arch}.attention.recurrent_layers")
        if isinstance(marked, list):
            return ([bool(item) for item in marked] + [False] * layers)[:layers]
        every = max(1, number(model, "{arch}.full_attention_interval", _FULL_EVERY[architecture]))
        return [(layer + 1) % every != 0 for layer in range(layers)]
    if architecture not in _NO_HEADS_IS_RECURRENT:
        return [False] * layers
    kv_heads = per_layer(model, "{arch}.attention.head_count_kv", layers)
    if not architecture.startswith("nemotron_h"):
        return [heads == 0 for heads in kv_heads]
    feed_forward = per_layer(model, "{arch}.feed_forward_length", layers)
    return [heads == 0 and width == 0 for heads, width in zip(kv_heads, feed_forward, strict=True)]


def _state_elements(model: Model) -> int:
    """F32 elements that a recurrent layer keeps for one sequence (llama_hparams::n_embd_r + n_embd_s)."""
    width = number(model, "{arch}.embedding_length")
    wkv = number(model, "{arch}.wkv.head_size")
    if wkv:
        return number(model, "{arch}.token_shift_count", 2) * width + width * wkv
    short = number(model, "{arch}.shortconv.l_cache")
    convolution = number(model, "{arch}.ssm.conv_kernel")
    inner, size = number(model, "{arch}.ssm.inner_size"), number(model, "{arch}.ssm.state_size")
    if short:
        return width * (short - 1) + size * inner
    heads = number(model, "{arch}.attention.head_count")
    delta = number(model, "{arch}.kda.head_dim")
    if delta:
        return 3 * (convolution - 1 if convolution else 3) * heads * delta + delta * delta * heads
    rolling = max(0, convolution - 1) * (inner + 2 * number(model, "{arch}.ssm.group_count") * size)
    if model.architecture == "minimax-01":
        head = number(model, "{arch}.attention.key_length", width // heads if heads else 0)
        return rolling + head * head * heads
    return rolling + size * inner


def _windowed_layers(model: Model, layers: int, recurrent: Sequence[bool]) -> tuple[int, list[bool]]:
    full = [False] * layers
    size = number(model, "{arch}.attention.sliding_window")
    if model.architecture == "lfm2" and size:
        return size, [not is_recurrent for is_recurrent in recurrent]
    rule = _WINDOWS.get(model.architecture)
    if rule is None or (rule.layers and rule.layers != layers):
        return 0, full
    named = model.get("{arch}.attention.sliding_window") is not None
    size = size if named else rule.size
    if not size:
        return 0, full
    pattern = model.get("{arch}.attention.sliding_window_pattern")
    if isinstance(pattern, list):
        return rule.forced or size, ([bool(item) for item in pattern] + full)[:layers]
    period = rule.period if pattern is None else number(model, "{arch}.attention.sliding_window_pattern")
    return rule.forced or size, [_in_window(layer, period, rule.full_first) for layer in range(layers)]


def _in_window(layer: int, period: int, full_first: bool) -> bool:
    if period == 0:
        return True
    return layer % period != (0 if full_first else period - 1)
