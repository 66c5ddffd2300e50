"""Every level that a model could be quantized to, with its real size, and how it would do on a machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache

from ...kernels import KernelError
from ...kernels.registry import codec
from ..errors import BadArgument
from ..model import Model, Value, write_header
from ..recipe import LEVELS, Recipe, Request, make_recipe
from . import data
from .cache import number
from .data import LevelFacts
from .fit import Footprint, MemoryNeed, Placement, Running, Setup, footprint, place, running
from .machine import Machine
from .speed import GPU_EFFICIENCY, MOST_TOKENS, Corrections, learn, prompt_class, tokens_per_second

Writable = Callable[[Recipe], bool]
_Described = tuple[str, tuple[int, ...], str]

SPARE_SHARE = 0.75
"""A level is comfortable if it takes no more than this share of the memory where it lies."""
COMFORTABLE_SPEED = 10.0
"""Tokens a second that are faster than most people read; below it a larger level is not worth its quality."""


@dataclass(frozen=True)
class Candidate:
    """One level for one model on one machine. Sizes in bytes, speeds in tokens a second (an estimate).

    `fits` is "yes", "tight" or "no", `spare` what is left with the margins kept (negative: missing). `writable`: this
    program can make it. `becomes` is a sentence where rows do not divide into blocks, so that other types are taken
    than the level's name promises. `speed_source` says what the speed rests on: "measured", "published" or "assumed".
    """

    level: str
    facts: LevelFacts | None
    n_bytes: int
    bits_per_weight: float
    placement: Placement
    tokens_per_second: float
    speed_source: str
    prompt: str
    comfortable: bool
    writable: bool
    needs_imatrix: bool
    becomes: str
    notes: tuple[str, ...]

    @property
    def memory(self) -> MemoryNeed:
        """What it takes while running."""
        return self.placement.need

    @property
    def fits(self) -> str:
        """ "yes", "tight" or "no"."""
        return self.placement.fits


@dataclass(frozen=True)
class _Made:
    """What depends on model and level alone."""

    n_bytes: int
    bits_per_weight: float
    footprint: Footprint
    needs_imatrix: bool
    writable: bool
    becomes: str


class Estimator:
    """Sizes of one model at all levels, computed once each and kept: answers to the wizard change only the machine.

    `writable` decides whether a recipe can be carried out; by default, whether the kernels know all of its types.
    """

    def __init__(self, model: Model, writable: Writable | None = None) -> None:
        self.model = model
        self._writable = writable or kernels_can_write
        self._made: dict[str, _Made] = {}
        self._running: dict[Setup, Running] = {}
        self._header = 0
        weights = model.n_weights
        experts = number(model, "{arch}.expert_count")
        bare = footprint(model)
        share = (sum(bare.active) + bare.output_read) / max(1, bare.total)
        self._active_weights = int(weights * min(1.0, share)) if experts else weights

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels that make sense for this model, best first; none if it is quantized already.

        Floating-point levels larger than the source add nothing, and MXFP4_MOE is for mixtures of experts. Some types
        need rows of a multiple of 128 weights, which smaller models do not have.
        """
        if self.model.is_quantized:
            return ()
        widest = max((t.n_bytes / max(1, t.n_weights) for t in self.model.tensors if len(t.shape) > 1), default=4)
        sixteen = {"F16", "BF16"}
        own = {t.type for t in self.model.tensors if len(t.shape) > 1 and t.type in sixteen}
        skipped = set() if widest > 2 else {"F32"} | (sixteen - own if own else set())
        if not number(self.model, "{arch}.expert_count"):
            skipped.add("MXFP4_MOE")
        return self._possible(tuple(name for name in data.levels() if name not in skipped))

    def _possible(self, levels: tuple[str, ...]) -> tuple[str, ...]:
        """Those that the shapes of this model allow; BadArgument if there is none."""
        possible, problem = [], None
        for level in levels:
            try:
                self._make(level)
            except BadArgument as refusal:
                problem = problem or refusal
            else:
                possible.append(level)
        if problem and not possible:
            raise problem
        return tuple(possible)

    def running(self, setup: Setup) -> Running:
        """Caches and buffers in a setup."""
        if setup not in self._running:
            self._running[setup] = running(self.model, setup)
        return self._running[setup]

    def candidate(
        self, level: str, machine: Machine, setup: Setup, corrections: Corrections | None = None
    ) -> Candidate:
        """One level on one machine. BadArgument if a recipe for it cannot be made at all."""
        made = self._make(level)
        facts = data.levels()[level]
        return self._candidate(level, facts, made, machine, setup, corrections)

    def as_it_is(self, machine: Machine, setup: Setup, corrections: Corrections | None = None) -> Candidate:
        """The model unchanged."""
        bare = footprint(self.model)
        size = self._file_size(self.model.metadata, [(t.name, t.shape, t.type) for t in self.model.tensors], bare)
        made = _Made(size, self.model.bits_per_weight, bare, False, True, "")
        level = level_of(self.model)
        return self._candidate(level, data.levels().get(level), made, machine, setup, corrections)

    def learned(
        self, machine: Machine, setup: Setup, tokens_per_second: float, corrections: Corrections
    ) -> Corrections:
        """What it teaches that the model, as it is, came to `tokens_per_second`; nothing if cards hold a part of it."""
        row = self.as_it_is(machine, setup, corrections)
        if row.placement.where == "gpu" and row.tokens_per_second < MOST_TOKENS:
            gain = tokens_per_second / row.tokens_per_second
            return replace(corrections, gpu=(corrections.gpu or GPU_EFFICIENCY) * gain)
        if row.placement.where != "cpu":
            return corrections
        return learn(row.tokens_per_second, tokens_per_second, corrections)

    def _candidate(
        self,
        level: str,
        facts: LevelFacts | None,
        made: _Made,
        machine: Machine,
        setup: Setup,
        corrections: Corrections | None,
    ) -> Candidate:
        run = self.running(setup)
        placement = place(made.footprint, run, machine.budget)
        tables = facts is not None and facts.table_driven
        speed = tokens_per_second(
            made.footprint,
            run,
            placement,
            machine,
            table_driven=tables,
            corrections=corrections,
            threads=setup.threads,
        )
        source = machine.card.source if machine.card and placement.where == "gpu" else machine.processor.source
        modest = placement.need.total <= SPARE_SHARE * machine.budget.room(placement.where)
        return Candidate(
            level=level,
            facts=facts,
            n_bytes=made.n_bytes,
            bits_per_weight=made.bits_per_weight,
            placement=placement,
            tokens_per_second=speed,
            speed_source=source,
            prompt=prompt_class(placement, self._active_weights),
            comfortable=placement.fits == "yes" and modest,
            writable=made.writable,
            needs_imatrix=made.needs_imatrix,
            becomes=made.becomes,
            notes=_notes(facts, made, placement, machine),
        )

    def _make(self, level: str) -> _Made:
        if level not in self._made:
            recipe = make_recipe(self.model, Request(level), preview=True)
            weights = footprint(self.model, recipe)
            tensors = [(choice.tensor.name, choice.tensor.shape, choice.type) for choice in recipe.tensors]
            self._made[level] = _Made(
                n_bytes=self._file_size(recipe.metadata, tensors, weights),
                bits_per_weight=recipe.bits_per_weight,
                footprint=weights,
                needs_imatrix=bool(recipe.imatrix_needed_by),
                writable=self._writable(recipe),
                becomes=_sentence(recipe.summary) if any(choice.fallback for choice in recipe.tensors) else "",
            )
        return self._made[level]

    def _file_size(self, metadata: Mapping[str, Value], tensors: list[_Described], weights: Footprint) -> int:
        """Bytes of the whole file. Headers are equally long at all levels, so one is made and measured."""
        self._header = self._header or write_header(metadata, tensors).data_offset
        return self._header + weights.total


def kernels_can_write(recipe: Recipe) -> bool:
    """True if there are kernels for every type of the recipe."""
    return all(_has_kernel(kind) for kind in {choice.type for choice in recipe.tensors if not choice.copied})


@cache
def _has_kernel(kind: str) -> bool:
    try:
        codec(kind)
    except (ImportError, KeyError, KernelError):
        return False
    return True


def level_of(model: Model) -> str:
    """The level that a file says it has (`general.file_type`), or the type that most of its weights have."""
    kinds: dict[str, int] = {}
    for tensor in model.tensors:
        kinds[tensor.type] = kinds.get(tensor.type, 0) + tensor.n_weights
    most = max(kinds, key=lambda kind: kinds[kind], default="F16")
    file_type = model.get("general.file_type")
    named = next((level.name for level in LEVELS.values() if level.file_type == file_type and not level.copies), None)
    if named is None or (LEVELS[named].type == "F32" and most != "F32"):
        return most
    return named


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:].rstrip('.')}."


def _notes(facts: LevelFacts | None, made: _Made, placement: Placement, machine: Machine) -> tuple[str, ...]:
    notes = [made.becomes] if made.becomes else []
    if made.needs_imatrix:
        notes.append("It needs an importance matrix.")
    elif facts and facts.imatrix == "wants":
        notes.append("Without an importance matrix it is poor.")
    if facts and facts.table_driven and placement.where != "gpu":
        slow = "slow" if machine.fast_simd else "very slow"
        notes.append(f"Its table look-ups are {slow} on a processor.")
    if facts and facts.special:
        notes.append("It suits only models that were trained for it.")
    if not made.writable:
        notes.append("This version cannot make it yet; look for a ready-made file.")
    return tuple(notes)
