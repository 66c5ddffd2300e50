"""The named facts that the trees' conditions and sentences may use. Every public property of `Facts` is one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from .. import text
from . import data
from .cache import cache_layout, number
from .candidates import COMFORTABLE_SPEED, Candidate, Estimator
from .fit import Setup, can_quantize_cache
from .machine import Machine

USUAL = "Q4_K_M"
_PLENTY = 8192
_SHORTEST = 2048


class Facts:
    """Facts on one model on one machine, given what has been answered so far. Each is computed when it is asked for.

    `start_levels` are the levels that tree A has led to, empty before.
    """

    def __init__(
        self,
        estimator: Estimator,
        machine: Machine,
        answers: Mapping[str, str | int],
        start_levels: tuple[str, ...] = (),
    ) -> None:
        self._estimator = estimator
        self._machine = machine
        self._answers = answers
        self._levels = start_levels

    def get(self, name: str) -> Any:
        """The fact, or the answer to the question, of that name; "" for a question that was not asked."""
        if name in FACT_NAMES:
            return getattr(self, name)
        return self._answers.get(name, "")

    def words(self, template: str) -> str:
        """A sentence with its {facts} filled in, the way people write them."""
        return template.format(**{name: _spoken(name, self.get(name)) for name in data.names_in(template)})

    @property
    def setup(self) -> Setup:
        """The setup as far as it has been answered."""
        context = int(self._answers.get("context", 0)) or self.suggested_context
        users = int(self._answers.get("users", 0)) or 1
        return Setup(context, users, str(self._answers.get("cache", "F16")))

    @property
    def ram_bytes(self) -> int:
        """RAM that may be used."""
        return self._machine.budget.ram

    @property
    def vram_bytes(self) -> int:
        """Free memory of all usable graphics cards."""
        return self._machine.budget.vram

    @property
    def usable_memory_bytes(self) -> int:
        """RAM and graphics memory together, margins left out."""
        return self._machine.budget.usable

    @property
    def card_budget_bytes(self) -> int:
        """Graphics memory with the margins left out."""
        return self._machine.budget.on_cards

    @property
    def has_gpu(self) -> bool:
        """A graphics card with memory of its own, or Apple's."""
        return self._machine.kind != "cpu"

    @property
    def has_nvidia(self) -> bool:
        """All usable cards are NVIDIA's."""
        return self._machine.kind == "nvidia"

    @property
    def apple_silicon(self) -> bool:
        """Unified memory with Apple's graphics."""
        return self._machine.kind == "apple"

    @property
    def has_fp8(self) -> bool:
        """The cards compute with 8-bit floats."""
        return self._machine.fp8

    @property
    def has_fast_simd(self) -> bool:
        """AVX2, AVX-512 or NEON with dot products."""
        return self._machine.fast_simd

    @property
    def trained_context(self) -> int:
        """Tokens the model was trained with, 0 if the file does not say."""
        return number(self._estimator.model, "{arch}.context_length")

    @property
    def window(self) -> int:
        """Tokens that the model's layers look back where llama.cpp lets them look at everything, 0 for none."""
        return self._estimator.model.window

    @cached_property
    def suggested_context(self) -> int:
        """The longest of 8,192, 4,096 and 2,048 tokens that the model was trained with and that fits at Q4_K_M.

        Not longer than a window that llama.cpp does not keep to.
        """
        trained = self.trained_context or 4096
        trained = min(trained, self.window or trained)
        if not cache_layout(self._estimator.model).layers:
            return min(trained, _PLENTY)
        context = min(trained, _PLENTY)
        while context > _SHORTEST and self._at(USUAL, Setup(context)).fits != "yes":
            context //= 2
        return max(256, context)

    @property
    def memory_in_words(self) -> str:
        """A sentence on the memory of the machine at hand."""
        budget = self._machine.budget
        if budget.unified:
            return f"{text.size(budget.ram)} may be used on this machine, up to {text.size(budget.vram)} by its GPU"
        cards = f", and {text.size(budget.vram)} on graphics cards" if budget.vram else ", and no graphics card"
        return f"{text.size(budget.ram)} may be used on this machine{cards}"

    @property
    def context_in_words(self) -> str:
        """A sentence on why that context is suggested."""
        trained, suggested = self.trained_context, self.suggested_context
        if not trained:
            return f"the file does not say what the model was trained with; {suggested:,} tokens suit most models"
        if suggested == self.window:
            return f"the model looks back {suggested:,} tokens, and llama.cpp does not keep to that beyond them"
        if suggested == trained:
            return f"the model was trained with {trained:,} tokens"
        enough = "are plenty for chats" if suggested >= _PLENTY else "are what fits here"
        return f"the model was trained with {trained:,} tokens, and {suggested:,} {enough}"

    @property
    def suggested_users(self) -> int:
        """One, or four for serving."""
        return 4 if self.get("goal") == "serve" else 1

    @property
    def cache_can_be_quantized(self) -> bool:
        """llama.cpp can keep this model's KV cache in a quantized type."""
        return can_quantize_cache(self._estimator.model)

    @cached_property
    def cache_saves_the_day(self) -> bool:
        """At Q4_K_M the model fits with the KV cache in Q8_0, and does not with F16."""
        setup = self.setup
        if not self.cache_can_be_quantized or self._at(USUAL, Setup(setup.context, setup.slots)).fits == "yes":
            return False
        return self._at(USUAL, Setup(setup.context, setup.slots, "Q8_0")).fits == "yes"

    @property
    def fits_on_gpu(self) -> bool:
        """At Q4_K_M the whole model lies on graphics cards."""
        return self._usual.placement.where == "gpu" and self._usual.fits != "no"

    @property
    def fits_usual(self) -> bool:
        """At Q4_K_M it fits."""
        return self._usual.fits == "yes"

    @property
    def usual_need_bytes(self) -> int:
        """What the model takes at Q4_K_M."""
        return self._usual.memory.total

    @property
    def usual_bits(self) -> float:
        """Bits a weight of Q4_K_M."""
        return self._usual.bits_per_weight

    @cached_property
    def start_level(self) -> str:
        """The first of tree A's levels that fits, or its last one."""
        fitting = (name for name in self._levels if self._at(name, self.setup).fits == "yes")
        return next(fitting, self._levels[-1] if self._levels else USUAL)

    @property
    def start_fits(self) -> bool:
        """The start level fits."""
        return self._at(self.start_level, self.setup).fits == "yes"

    @cached_property
    def levels_to_spare(self) -> int:
        """How many steps up from the start level stay comfortable in memory and speed."""
        return len(climb(self._estimator, self._machine, self.setup, self.start_level, self.get("goal") == "quality"))

    @property
    def room_bytes(self) -> int:
        """Memory where the start level lies: on graphics cards, or all of it."""
        return self._machine.budget.room(self._at(self.start_level, self.setup).placement.where)

    @cached_property
    def _usual(self) -> Candidate:
        return self._at(USUAL, self.setup)

    def _at(self, level: str, setup: Setup) -> Candidate:
        if not self._estimator.levels:
            return self._estimator.as_it_is(self._machine, setup)
        return self._estimator.candidate(level, self._machine, setup)


def climb(
    estimator: Estimator, machine: Machine, setup: Setup, level: str, for_quality: bool = False
) -> list[Candidate]:
    """The steps up from `level` that can be made here, stay comfortable, fast, and where it was, to Q6_K at most.

    `for_quality`: to Q8_0, and however slow.
    """
    if not estimator.levels:
        return []
    start = estimator.candidate(level, machine, setup)
    facts = data.levels()
    low = facts[level].ladder
    if low is None:
        low = facts[USUAL].ladder or 0
        low -= facts[level].rank > facts[USUAL].rank
    steps = []
    highest = facts["Q8_0" if for_quality else "Q6_K"].ladder or 0
    above = [each for each in facts.values() if each.ladder is not None and low < each.ladder <= highest]
    for each in sorted(above, key=lambda each: each.ladder or 0):
        step = estimator.candidate(each.name, machine, setup)
        fast = for_quality or step.tokens_per_second >= COMFORTABLE_SPEED
        if not (step.comfortable and fast and step.writable):
            break
        if step.placement.where != start.placement.where:
            break
        steps.append(step)
    return steps


FACT_NAMES = frozenset(
    name
    for name, member in vars(Facts).items()
    if isinstance(member, (property, cached_property)) and not name.startswith("_") and name != "setup"
)


def _spoken(name: str, value: Any) -> str:
    if name.endswith("_bytes"):
        return text.size(value)
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
