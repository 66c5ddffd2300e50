"""How much memory a model takes while it runs, and how much of it fits on the graphics card.

Weights and caches are exact; the compute buffers follow a formula that was fitted to what llama.cpp 0.3.36 reports for
models of real shapes and of many architectures (`_widths`). Nothing here asks llama.cpp.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from ...kernels import TYPES
from ..model import Model
from ..model.model import Tensor
from ..recipe import Recipe
from .cache import ENCODERS, CacheLayout, block_count, cache_layout, number, per_layer

MIB = 1 << 20
CARD_MARGIN = 1024 * MIB
"""Kept free on every card, as llama.cpp's own fitting does: drivers and other programs need room too."""

_LAYER = re.compile(r"(?:enc\.|dec\.)?blk\.(\d+)\.")
_EXPERTS = re.compile(r"_(?:ch)?exps\.")
_LOOKED_UP = ("token_embd.", "per_layer_token_embd.", "position_embd.", "token_types.")
_NEVER_FLASH = frozenset({"grok", "t5", "t5encoder"})
_ALIGNMENT = 32
_BYTES_A_WORD = 160
_NODES_A_LAYER = 10
"""Steps of a layer that have no weights: positions, the cache, attention, the activation, sums (of a llama)."""
_ROUTER = re.compile(r"\.ffn_gate_inp\.")
_NODES_A_ROUTER = 12
"""Steps more where experts are chosen: their scores, the order, and the weights and sums of those that are used."""
_F32 = 4
_MOST_QUERIES_PER_KEY = 16.0


@dataclass(frozen=True)
class Setup:
    """How the model will be run: `context` tokens for each of `slots` users at the same time.

    `kv_type` is the type of keys and values (F16, Q8_0, Q4_0 ...), `micro_batch` the tokens that are computed at once
    while a prompt is read, `threads` how many compute on the processor (0: as many as this program takes).
    """

    context: int
    slots: int = 1
    kv_type: str = "F16"
    micro_batch: int = 512
    threads: int = 0

    @property
    def cells(self) -> int:
        """Cells that llama.cpp reserves for each user: the context rounded up to 256."""
        return _up(self.context, 256)


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes while running: weights, what is kept for the context, and buffers for computing and for results."""

    weights: int
    kv_cache: int
    compute: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_cache + self.compute


@dataclass(frozen=True)
class Footprint:
    """A model's weights by where they go: bytes of every layer, of the tables that are looked up, and of the output.

    `active` are the bytes of a layer that one token reads: of a mixture of experts only the experts used. `output_read`
    are the bytes read for the output, which are the embedding's where both share one table (`tied`). `read_by_type`
    are all bytes that one token reads, by type; `matrices` are what it is multiplied with (the experts of a layer being
    one), `rows` their rows, `nodes` the steps of its graph, and `width` the numbers that go from one step to the next.
    """

    layers: tuple[int, ...]
    active: tuple[int, ...]
    tables: int
    output: int
    tied: bool
    output_read: int
    read_by_type: Mapping[str, int] = field(default_factory=dict)
    matrices: int = 0
    rows: int = 0
    nodes: int = 0
    width: int = 0

    @cached_property
    def total(self) -> int:
        """All weights once."""
        return sum(self.layers) + self.tables + self.output

    @property
    def on_card(self) -> int:
        """What the output takes on a card: its own weights, and a copy of the embedding where it is shared."""
        return self.output_read if self.tied else self.output


def footprint(model: Model, recipe: Recipe | None = None) -> Footprint:
    """Where the weights of `model` go, as they are or as `recipe` makes them."""
    sizes: Iterable[tuple[Tensor, str, int]]
    if recipe is None:
        sizes = ((tensor, tensor.type, tensor.n_bytes) for tensor in model.tensors)
    else:
        sizes = ((choice.tensor, choice.type, choice.n_bytes) for choice in recipe.tensors)
    count = max(1, block_count(model))
    layers, active = [0] * count, [0.0] * count
    tables = output = embedding = 0
    used = _expert_shares(model, count)
    has_output = "output.weight" in model.by_name
    alignment = number(model, "general.alignment", _ALIGNMENT) or _ALIGNMENT
    by_type: Counter[str] = Counter()
    rows, matrices, nodes = 0.0, 0, _NODES_A_LAYER * count
    for tensor, kind, n_bytes in sizes:
        name, size = tensor.name, _up(n_bytes, alignment)
        share = 1.0
        found = _LAYER.match(name)
        if found:
            layer = min(int(found[1]), count - 1)
            layers[layer] += size
            share = used[layer] if _EXPERTS.search(name) else 1.0
            active[layer] += size * share
            by_type[kind] += int(size * share)
        elif name.startswith(_LOOKED_UP):
            tables += size
            if name.startswith("token_embd."):
                embedding += size
                by_type[kind] += 0 if has_output else size
        else:
            output += size
            by_type[kind] += size
        # A matrix is two steps: what it is multiplied with is packed first.
        nodes += min(2, len(tensor.shape))
        if len(tensor.shape) > 1 and not (name.startswith(_LOOKED_UP) and has_output):
            matrices += 1
            rows += tensor.n_rows * share
            nodes += _NODES_A_ROUTER if _ROUTER.search(name) else 0
    read = output + (0 if has_output else embedding)
    width = number(model, "{arch}.embedding_length")
    return Footprint(
        tuple(layers),
        tuple(map(int, active)),
        tables,
        output,
        not has_output,
        read,
        by_type,
        matrices=matrices,
        rows=int(rows),
        nodes=nodes,
        width=width,
    )


def _expert_shares(model: Model, layers: int) -> list[float]:
    experts = number(model, "{arch}.expert_count")
    used = per_layer(model, "{arch}.expert_used_count", layers)
    return [min(1.0, u / experts) if experts and u else 1.0 for u in used]


@dataclass(frozen=True)
class _Widths:
    """How wide the values are that live at the same time in the moments of a micro-batch, in F32 for each token."""

    forward: int
    attention: int
    recurrent: int
    result: int
    vocabulary: int
    scores: int


def _compute(widths: _Widths, cells: int, micro_batch: int) -> int:
    """Bytes of llama.cpp's compute buffer: the largest of the moments of a micro-batch, with the attention masks.

    A value of width w takes w x micro_batch x 4 bytes; masks are F16, cells x micro_batch. At the output all tokens'
    scores live beside two of the model's width. Without flash attention all heads' scores over all cells are added.
    """
    layer = max(widths.forward, widths.attention + widths.scores * cells)
    moments = (layer * _F32 + 2 * cells, (widths.vocabulary + widths.result) * _F32, widths.recurrent * _F32)
    return micro_batch * max(moments)


def _widths(model: Model, layout: CacheLayout) -> _Widths:
    """Fitted to 7 models of real shapes and 17 small ones; E: width of the model, F: of its feed-forward.

    Feed-forward: 3 F + 4 E with a gate, F + 4 E without, F + 3 E in an encoder. Attention: 2 queries, keys,
    values and 3 E; with compressed keys and values (MLA) the queries twice in the latent space and once in their own,
    the latent and 3 E.
    """
    width, heads = number(model, "{arch}.embedding_length"), number(model, "{arch}.attention.head_count")
    key = number(model, "{arch}.attention.key_length", width // heads if heads else 0)
    latent = number(model, "{arch}.attention.key_length_mla")
    if latent:
        projected = heads * latent + number(model, "{arch}.attention.kv_lora_rank")
    else:
        projected = max((layer.keys + layer.values for layer in layout.layers), default=2 * heads * key)
    inner = number(model, "{arch}.ssm.inner_size")
    encoder = model.architecture in ENCODERS
    return _Widths(
        forward=_forward(model) + (3 if encoder else 4) * width,
        attention=2 * heads * key + projected + 3 * width,
        recurrent=6 * inner + width if inner else 0,
        result=2 * width,
        vocabulary=0 if encoder else vocabulary(model),
        scores=2 * heads if model.architecture in _NEVER_FLASH else 0,
    )


def _forward(model: Model) -> int:
    """Widths of the feed-forward's values: of all experts that are used for a token, or of the dense one."""
    width = number(model, "{arch}.feed_forward_length")
    if number(model, "{arch}.expert_count"):
        expert = number(model, "{arch}.expert_feed_forward_length", width)
        shared = number(model, "{arch}.expert_shared_feed_forward_length")
        return 3 * max(expert * number(model, "{arch}.expert_used_count"), shared)
    up = model.by_name.get("blk.0.ffn_up.weight")
    gated = "blk.0.ffn_gate.weight" in model.by_name or (up is not None and up.n_rows >= 2 * width)
    return 3 * width if gated else width


def can_quantize_cache(model: Model) -> bool:
    """llama.cpp takes a quantized KV cache only with flash attention, and heads that are whole blocks of 32."""
    width, heads = number(model, "{arch}.embedding_length"), number(model, "{arch}.attention.head_count")
    usual = width // heads if heads else 0
    sizes = [number(model, f"{{arch}}.attention.{name}_length", usual) for name in ("key", "value")]
    return model.architecture not in _NEVER_FLASH and all(size and size % 32 == 0 for size in sizes)


def vocabulary(model: Model) -> int:
    """Tokens in the vocabulary, from the shape of the embedding."""
    table = model.by_name.get("token_embd.weight") or model.by_name.get("output.weight")
    return table.n_rows if table else number(model, "{arch}.vocab_size")


@dataclass(frozen=True)
class Running:
    """What a model needs beside its weights in one setup: bytes of cache by layer, of compute and of result buffers.

    `queries_per_key`: heads that share their keys and values, which a processor goes through for each of them;
    `element` are the bytes of one number of a key or value, `cells` the tokens that a layer has room for, `head` the
    size of an attention head, `row` the bytes of a layer's keys of one token. `touched` are the bytes of `compute` that
    a processor really writes to while only the last token's scores are wanted: the system gives no memory for the rest.
    """

    caches: tuple[int, ...]
    compute: int
    queries_per_key: float = 1.0
    element: float = 2.0
    cells: int = 0
    head: int = 64
    row: int = 0
    touched: int = 0

    @cached_property
    def kv_cache(self) -> int:
        """Bytes of all layers' caches."""
        return sum(self.caches)


def running(model: Model, setup: Setup) -> Running:
    """Caches and buffers of `model` in `setup`.

    A layer keeps cells x (keys + values) elements for each user; a windowed one min(context, window + micro-batch)
    cells, rounded up to 256; a recurrent one its F32 state for each user, whatever the context.
    """
    layout = cache_layout(model)
    cells = setup.cells
    window_cells = _up(min(cells, layout.window + setup.micro_batch), 256) if layout.window else 0
    kind = TYPES[setup.kv_type]
    caches = []
    for layer in layout.layers:
        elements = (window_cells if layer.windowed else cells) * (layer.keys + layer.values)
        elements += cells * layer.index
        caches.append(setup.slots * (elements * kind.block_bytes // kind.block_size + _F32 * layer.state))
    batch = min(setup.micro_batch, cells * setup.slots)
    widths = _widths(model, layout)
    masked = cells + window_cells if layout.layers else batch
    results = _F32 * widths.vocabulary * setup.slots
    touched = _compute(replace(widths, vocabulary=0), masked, batch) + results
    return Running(
        tuple(caches),
        _compute(widths, masked, batch) + results,
        _queries_per_key(model),
        element=kind.block_bytes / kind.block_size,
        cells=cells,
        head=max(1, _head(model)),
        row=max((layer.keys for layer in layout.layers), default=0) * kind.block_bytes // kind.block_size,
        touched=touched,
    )


def vocabulary_bytes(model: Model) -> int:
    """What the words of a model take in llama.cpp's own tables, in bytes (measured: 150 to 190 for each entry)."""
    lists = [model.get(f"tokenizer.ggml.{name}") for name in ("tokens", "merges")]
    return _BYTES_A_WORD * sum(len(entries) for entries in lists if isinstance(entries, list))


def _head(model: Model) -> int:
    heads = max(1, number(model, "{arch}.attention.head_count"))
    return number(model, "{arch}.attention.key_length", number(model, "{arch}.embedding_length") // heads)


def _queries_per_key(model: Model) -> float:
    queries = max(per_layer(model, "{arch}.attention.head_count", 1), default=0)
    keys = max(per_layer(model, "{arch}.attention.head_count_kv", 1), default=0)
    return min(_MOST_QUERIES_PER_KEY, max(1.0, queries / keys)) if queries and keys else 1.0


@dataclass(frozen=True)
class Budget:
    """Bytes that may be used: of RAM, and on `cards` graphics cards together. `unified`: cards and RAM share them."""

    ram: int
    vram: int = 0
    cards: int = 0
    unified: bool = False

    @property
    def headroom(self) -> int:
        """RAM to leave alone: the program itself, and whatever else wants to live."""
        return max(min(256 * MIB, self.ram // 10), self.ram // 20)

    @property
    def on_cards(self) -> int:
        """Graphics memory, margins left out."""
        return max(0, self.vram - CARD_MARGIN * self.cards)

    @property
    def usable(self) -> int:
        """All of it, margins left out."""
        ram = max(0, self.ram - self.headroom)
        return max(ram, min(self.on_cards, self.ram)) if self.unified else ram + self.on_cards

    def room(self, where: str) -> int:
        """What may be used where a model lies ("gpu", "split" or "cpu"), margins left out."""
        return self.on_cards if where == "gpu" else self.usable


@dataclass(frozen=True)
class Placement:
    """Where a model goes: `gpu_layers` as llama.cpp counts them (`n_gpu_layers`: the output is the first, then the last
    layers) of `all_layers`; bytes on cards and in RAM; `fits` is "yes", "tight" (it fits, but eats into the margins)
    or "no"; `spare` bytes are left over with the margins kept, negative where they are missing.
    """

    need: MemoryNeed
    gpu_layers: int
    all_layers: int
    on_cards: int
    in_ram: int
    fits: str
    spare: int

    @property
    def where(self) -> str:
        """ "gpu", "split" or "cpu"."""
        if not self.gpu_layers:
            return "cpu"
        return "gpu" if self.gpu_layers == self.all_layers else "split"


def place(weights: Footprint, run: Running, budget: Budget) -> Placement:
    """The placement with the most layers on the cards that fits, or what is missing if none does.

    Into the margin of a card goes only what would not fit otherwise.
    """
    every = len(weights.layers) + 1
    cards = max(1, budget.cards)
    margin = CARD_MARGIN * cards
    loads = _card_loads(weights, run, cards) if budget.vram else [0]
    most = max((count for count, load in enumerate(loads) if load <= budget.vram - margin), default=0)
    found = _placement(weights, run, budget, most, loads)
    if found.fits != "yes" and budget.vram and most < every and loads[-1] <= budget.vram and not budget.unified:
        return _placement(weights, run, budget, every, loads)
    return found


def _card_loads(weights: Footprint, run: Running, cards: int) -> list[int]:
    """Bytes on the cards with 0, 1, 2 ... offloaded layers: the output first, then layers from the last one down."""
    loads = [0, weights.on_card + run.compute * cards]
    caches = (list(run.caches) + [0] * len(weights.layers))[: len(weights.layers)]
    for layer, cache in zip(reversed(weights.layers), reversed(caches), strict=True):
        loads.append(loads[-1] + layer + cache)
    return loads


def _placement(weights: Footprint, run: Running, budget: Budget, count: int, loads: list[int]) -> Placement:
    every = len(weights.layers) + 1
    copied = weights.on_card if weights.tied and count else 0
    computes = run.compute * max(1, budget.cards) if count == every else run.compute
    need = MemoryNeed(weights.total + copied, run.kv_cache, computes)
    on_cards = min(loads[count], need.total)
    in_ram = need.total - on_cards + (run.compute if 0 < count < every else 0)
    if 0 < count < every:
        need = MemoryNeed(need.weights, need.kv_cache, 2 * run.compute)
    held = on_cards + in_ram if budget.unified else in_ram
    left = budget.ram - held
    spare = left - budget.headroom
    if count == every and not budget.unified:
        spare = min(spare, budget.vram - CARD_MARGIN * max(1, budget.cards) - on_cards)
    fits = "no" if left < 0 else "tight" if spare < 0 else "yes"
    return Placement(need, count, every, on_cards, in_ram, fits, spare)


def _up(size: int, step: int) -> int:
    return -(-size // step) * step
