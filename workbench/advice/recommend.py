"""The recommendation: which level for this model on this machine, why, and what else there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..hardware import Bandwidth, Hardware
from ..model import Model
from ..text import count, size
from . import data
from .cache import ENCODERS
from .candidates import COMFORTABLE_SPEED, Candidate, Writable
from .data import Format
from .facts import USUAL, climb
from .fit import Setup
from .machine import Machine
from .speed import MOST_TOKENS, Corrections
from .walk import Step, Walk, Wish

TOO_SLOW = 3.0
"""Tokens a second below which a model split between card and processor had better be smaller."""

_GOOD = ("lossless", "near lossless", "excellent", "good")
_FITS = {"yes": 0, "tight": 1, "no": 2}


@dataclass(frozen=True)
class Settled:
    """A matter on which the guides disagree, what they say, and what was decided here."""

    topic: str
    claims: tuple[str, ...]
    decision: str


@dataclass(frozen=True)
class Advice:
    """What is recommended. `level` is None where nothing that this program can make fits; then `hints` say what to do.

    `candidates` are all levels, the recommended one first, then what fits, best quality first. `formats` are those the
    guides name for this hardware and goal, the best first; `format` is the one that this program makes.
    """

    format: str
    level: str | None
    why: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    formats: tuple[Format, ...]
    settled: tuple[Settled, ...]
    hints: tuple[str, ...]
    path: tuple[Step, ...]
    setup: Setup
    machine: Machine
    wish: Wish

    @property
    def recommended(self) -> Candidate | None:
        """The row that is recommended."""
        return next((row for row in self.candidates if row.level == self.level), None)

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `quantdeck advise`: sizes in bytes, speeds in tokens a second."""
        return {
            "recommendation": {"format": self.format, "level": self.level, "why": list(self.why)},
            "candidates": [_row(candidate) for candidate in self.candidates],
            "formats": [_format(each) for each in self.formats],
            "hints": list(self.hints),
            "disagreements": [
                {"topic": each.topic, "claims": list(each.claims), "decision": each.decision} for each in self.settled
            ],
            "path": [{"question": step.question.id, "answer": step.answer, "why": step.because} for step in self.path],
            "context": self.setup.context,
            "users": self.setup.slots,
            "kv_type": self.setup.kv_type,
            "usable_memory": self.machine.budget.usable,
        }


def advise(
    model: Model,
    hardware: Hardware,
    wish: Wish,
    measured: Bandwidth | None = None,
    corrections: Corrections | None = None,
    *,
    writable: Writable | None = None,
) -> Advice:
    """What to do with `model` on `hardware`, or on the machine that the wish describes.

    `measured` is the machine's memory bandwidth, `corrections` what was learned of its speed; `writable` decides
    whether this program can carry a recipe out (default: there are kernels for all of its types).

    Raises:
        BadArgument: an answer in the wish that there is not.
        ValidationFailed: the model's metadata make no sense.
    """
    return conclude(Walk.begin(model, hardware, measured, writable=writable).granted(wish), corrections)


def conclude(walk: Walk, corrections: Corrections | None = None) -> Advice:
    """The advice at the end of a walk; BadArgument if questions are open."""
    wish = walk.wish()
    estimator, machine, setup = walk.estimator, walk.machine, walk.setup
    if not estimator.levels:
        return _as_it_is(walk, wish, estimator.as_it_is(machine, setup, corrections))
    rows = {name: estimator.candidate(name, machine, setup, corrections) for name in estimator.levels}
    chosen, reasons = _choose(walk, rows, wish)
    formats = _formats(walk)
    why = _why(walk, chosen, reasons, formats) if chosen else reasons
    return Advice(
        format="gguf",
        level=chosen.level if chosen else None,
        why=tuple(why),
        candidates=_ranked(rows.values(), chosen),
        formats=formats,
        settled=_settled(walk, chosen),
        hints=tuple(_hints(walk, rows, chosen)),
        path=walk.path,
        setup=setup,
        machine=machine,
        wish=wish,
    )


def _choose(walk: Walk, rows: Mapping[str, Candidate], wish: Wish) -> tuple[Candidate | None, list[str]]:
    """The recommended row, and sentences on how it came from what the trees said."""
    start = next(result.levels for result in walk.results if result.levels)
    move = next(result.move for result in walk.results if result.move)
    chosen = next((rows[n] for n in start if n in rows and _may(rows[n]) and rows[n].fits == "yes"), None)
    reasons = [result.words for result in walk.results if result.levels or result.move]
    if chosen is None:
        chosen = _descend(rows, start[0], walk.machine)
        if chosen is None:
            return None, [_nothing_fits(walk, rows)]
        reasons.append(
            f"{_listed(start)} cannot be taken: {_obstacle(rows, start)}; {chosen.level} is the next that can."
        )
    elif move == "up":
        steps = climb(walk.estimator, walk.machine, walk.setup, chosen.level, wish.goal == "quality")
        chosen = rows[steps[-1].level] if steps else chosen
    if chosen.placement.where == "split":
        smaller = _smaller_but_faster(rows, chosen, wish.goal == "quality")
        if smaller:
            reasons.append(_traded(chosen, smaller))
            chosen = smaller
    return chosen, reasons


def _nothing_fits(walk: Walk, rows: Mapping[str, Candidate]) -> str:
    smallest = rows[_target(rows)] if not _possible(rows) else min(_possible(rows), key=lambda row: row.memory.total)
    return (
        f"No level that this program can make fits: even {smallest.level} takes {size(smallest.memory.total)} with a "
        f"context of {walk.setup.context:,} tokens, and {size(walk.machine.budget.usable)} may be used."
    )


def _possible(rows: Mapping[str, Candidate]) -> list[Candidate]:
    return [row for row in rows.values() if _may(row)]


def _may(row: Candidate) -> bool:
    return row.writable and not (row.facts and row.facts.special)


def _descend(rows: Mapping[str, Candidate], start: str, machine: Machine) -> Candidate | None:
    """The next level that fits: good ones with the margins kept, then without, then lower ones in the same order.

    Levels above `start` come last; they are for programs that cannot make the lower ones.
    """
    order, first = data.descent(), data.descent().index(start)
    names = [*order[first:], *reversed(order[:first])]
    tried = [rows[name] for name in names if name in rows and _may(rows[name])]
    if not (machine.fast_simd or machine.card):
        tried = [row for row in tried if row.facts and not row.facts.table_driven] or tried
    for good in (True, False):
        for fits in ("yes", "tight"):
            for row in tried:
                if row.fits == fits and _is_good(row) == good:
                    return row
    return None


def _is_good(row: Candidate) -> bool:
    return _quality(row) in _GOOD


def _smaller_but_faster(rows: Mapping[str, Candidate], chosen: Candidate, for_quality: bool) -> Candidate | None:
    """A good level (`for_quality`: a nearly lossless one) that lies on the card altogether, if there is one.

    Otherwise, where `chosen` crawls and quality is not all, one of at least fair quality that is fast enough, or
    half as fast again.
    """
    order = data.descent()
    if chosen.level not in order:
        return None
    below = [rows[name] for name in order[order.index(chosen.level) + 1 :] if name in rows and _may(rows[name])]
    below = [row for row in below if row.fits == "yes" and row.facts]
    classes = _GOOD[:2] if for_quality else _GOOD
    whole = next((row for row in below if _quality(row) in classes and row.placement.where == "gpu"), None)
    if whole or for_quality or chosen.tokens_per_second >= TOO_SLOW:
        return whole
    fair = [row for row in below if _quality(row) in (*_GOOD, "fair")]
    enough = next((row for row in fair if row.tokens_per_second >= TOO_SLOW), None)
    return enough or next((r for r in fair if r.tokens_per_second >= 1.5 * chosen.tokens_per_second), None)


def _quality(row: Candidate) -> str:
    return row.facts.quality if row.facts else ""


def _traded(chosen: Candidate, smaller: Candidate) -> str:
    gain = f"about {_speed(smaller.tokens_per_second)} instead of {_speed(chosen.tokens_per_second)} tokens a second"
    place = " because it lies on the card altogether" if smaller.placement.where == "gpu" else ""
    return f"{chosen.level} would have to be split between card and processor; {smaller.level} gives {gain}{place}."


def _why(walk: Walk, row: Candidate, reasons: Sequence[str], formats: Sequence[Format]) -> list[str]:
    why = [*reasons, _on_memory(walk, row), *_on_place(row), _on_speed(row)]
    if row.facts:
        why.append(
            f"{row.level}: {row.facts.words}. Quality: {row.facts.quality} ({data.qualities()[row.facts.quality]})."
        )
        if row.needs_imatrix:
            why.append(f"{row.level} needs an importance matrix: calibrate on a text of your own first.")
        elif row.facts.imatrix in {"helps", "wants"} and row.bits_per_weight < 6:
            why.append("An importance matrix makes it better and costs nothing while running.")
    if row.becomes:
        why.append(row.becomes)
    trained = walk.facts.trained_context
    if trained and walk.setup.context > trained:
        why.append(f"The model was trained with {trained:,} tokens; beyond them its answers may fall apart.")
    if walk.facts.window and walk.setup.context > walk.facts.window:
        why.append(
            f"The model looks back {walk.facts.window:,} tokens, and llama.cpp at everything: beyond that its answers"
            " may fall apart."
        )
    if walk.setup.kv_type != "F16" and not walk.facts.cache_can_be_quantized:
        why.append(f"llama.cpp cannot keep this model's KV cache in {walk.setup.kv_type}; it takes F16.")
    if walk.estimator.model.architecture in ENCODERS:
        why.append("This model turns text into numbers (embeddings); it cannot chat.")
    why += walk.machine.notes
    if formats and not formats[0].writes:
        why.append(_on_format(walk, formats[0]))
    return why


def _on_memory(walk: Walk, row: Candidate) -> str:
    need, room = row.memory, size(walk.machine.budget.room(row.placement.where))
    pool = f"the {room} on graphics cards" if row.placement.where == "gpu" else f"the {room} that may be used"
    users = f" for each of {walk.setup.slots} users" if walk.setup.slots > 1 else ""
    left = f"{size(row.placement.spare)} stay free" if row.fits == "yes" else "it leaves less free than it should"
    return (
        f"{row.level} makes a file of {size(row.n_bytes)} ({row.bits_per_weight:.2f} bits a weight); with a context of "
        f"{walk.setup.context:,} tokens{users} it takes {size(need.total)} (weights {size(need.weights)}, KV cache "
        f"{size(need.kv_cache)}, buffers {size(need.compute)}) of {pool}, and {left}."
    )


def _on_place(row: Candidate) -> list[str]:
    place = row.placement
    if place.where == "gpu":
        return ["All layers fit on the graphics card."]
    if place.where == "split":
        return [
            f"{place.gpu_layers} of {place.all_layers} layers fit on the graphics card; the processor runs the others."
        ]
    return []


def _on_speed(row: Candidate) -> str:
    basis = {
        "measured": "from the measured memory bandwidth",
        "published": "from the card's published memory bandwidth",
        "assumed": "from a memory bandwidth that was only assumed",
    }[row.speed_source]
    slow = "" if row.tokens_per_second >= TOO_SLOW else "; that is slow, and a smaller model would be faster"
    about = "1,000 or more" if row.tokens_per_second >= MOST_TOKENS else f"About {_speed(row.tokens_per_second)}"
    return f"{about} tokens a second are expected (an estimate {basis}){slow}."


def _on_format(walk: Walk, best: Format) -> str:
    words = next(result.words for result in walk.results if result.formats)
    return (
        f"{words} This program does not write {best.name}: look for a ready-made one at {_listed(best.found_at)}, "
        f"loaded by {_listed(best.loaded_by)}; GGUF is what can be made here."
    )


def _ranked(rows: Sequence[Candidate] | Any, chosen: Candidate | None) -> tuple[Candidate, ...]:
    def key(row: Candidate) -> tuple[bool, bool, int, int]:
        rank = row.facts.rank if row.facts else 0
        return row is not chosen, bool(row.facts and row.facts.special), _FITS[row.fits], rank

    return tuple(sorted(rows, key=key))


def _formats(walk: Walk) -> tuple[Format, ...]:
    keys = next((result.formats for result in walk.results if result.formats), ("gguf",))
    return tuple(data.formats()[key] for key in keys)


def _settled(walk: Walk, chosen: Candidate | None) -> tuple[Settled, ...]:
    facts, outcome = walk.facts, {"chosen_is_good": chosen is not None and _is_good(chosen)}
    settled = []
    for each in data.disagreements():
        decision = next(d for d in each.decisions if d.condition.evaluate(lambda n: outcome.get(n, facts.get(n))))
        settled.append(Settled(each.topic, each.claims, facts.words(decision.text)))
    return tuple(settled)


def _obstacle(rows: Mapping[str, Candidate], names: Sequence[str]) -> str:
    known = [rows[name] for name in names if name in rows]
    if any(row.fits != "no" and not row.writable for row in known):
        return "this version cannot make it yet"
    missing = min((-row.placement.spare for row in known), default=0)
    return f"{size(max(0, missing))} of memory are missing"


def _hints(walk: Walk, rows: Mapping[str, Candidate], chosen: Candidate | None) -> list[str]:
    """What to do where nothing fits, or only a poor level does."""
    if chosen and _is_good(chosen) and chosen.fits == "yes":
        return []
    hints = [*_shorter_context(walk, rows), *_smaller_cache(walk, rows), *_smaller_model(walk, rows)]
    made_elsewhere = [row for row in rows.values() if row.fits == "yes" and not row.writable and not _may(row)]
    made_elsewhere = [row for row in made_elsewhere if not (row.facts and row.facts.special)]
    if chosen is None and made_elsewhere:
        places = _listed(data.formats()["gguf"].found_at)
        hints.append(
            f"{made_elsewhere[0].level} would fit, but cannot be made here yet: look for a ready-made file at {places}."
        )
    if walk.machine.kind == "cpu":
        hints.append("A graphics card can take some of the layers: each one moved there frees that much RAM.")
    hints.append(
        "llama.cpp maps files into memory, so a model a little too large still runs, but reads the disk all the time."
    )
    return hints


def _shorter_context(walk: Walk, rows: Mapping[str, Candidate]) -> list[str]:
    level, setup = _target(rows), walk.setup
    context = setup.context // 2
    while context >= 512:
        shorter = Setup(context, setup.slots, setup.kv_type)
        if walk.estimator.candidate(level, walk.machine, shorter).fits == "yes":
            return [f"With a context of {context:,} tokens {level} fits."]
        context //= 2
    return []


def _smaller_cache(walk: Walk, rows: Mapping[str, Candidate]) -> list[str]:
    level, setup = _target(rows), walk.setup
    if setup.kv_type != "F16" or not walk.facts.cache_can_be_quantized:
        return []
    for kind in ("Q8_0", "Q4_0"):
        quantized = Setup(setup.context, setup.slots, kind)
        if walk.estimator.candidate(level, walk.machine, quantized).fits == "yes":
            return [f"With the KV cache in {kind} {level} fits."]
    return []


def _smaller_model(walk: Walk, rows: Mapping[str, Candidate]) -> list[str]:
    """How large a model of this kind may be at the usual level: its running memory is taken to shrink with it."""
    row = rows.get(USUAL) or next(iter(rows.values()))
    share = 0.9 * walk.machine.budget.usable / max(1, row.memory.total)
    weights = walk.estimator.model.n_weights * min(1.0, share)
    return [f"A smaller model fits: up to about {count(weights)} weights at {row.level}."] if weights >= 1 else []


def _target(rows: Mapping[str, Candidate]) -> str:
    """The level to make fit: the usual one if it can be made, else the smallest that can, else the usual one."""
    possible = _possible(rows)
    if USUAL in rows and (_may(rows[USUAL]) or not possible):
        return USUAL
    return min(possible, key=lambda row: row.n_bytes).level


def _as_it_is(walk: Walk, wish: Wish, row: Candidate) -> Advice:
    why = [
        f"This model is already quantized ({row.level}, {row.bits_per_weight:.2f} bits a weight): doing it again would "
        "lose more than it saves, so start from the 16-bit original for another level.",
        _on_memory(walk, row),
        *_on_place(row),
        _on_speed(row),
    ]
    return Advice(
        format="gguf",
        level=row.level,
        why=tuple(why),
        candidates=(row,),
        formats=_formats(walk),
        settled=(),
        hints=() if row.fits == "yes" else ("Use a shorter context, or get the model at a lower level.",),
        path=walk.path,
        setup=walk.setup,
        machine=walk.machine,
        wish=wish,
    )


def _row(row: Candidate) -> dict[str, Any]:
    need = row.memory
    return {
        "level": row.level,
        "bytes": row.n_bytes,
        "bits_per_weight": round(row.bits_per_weight, 4),
        "memory": {
            "weights": need.weights,
            "kv_cache": need.kv_cache,
            "compute": need.compute,
            "total": need.total,
        },
        "fits": row.fits,
        "tokens_per_second": round(row.tokens_per_second, 2),
        "quality": row.facts.quality if row.facts else "",
        "spare": row.placement.spare,
        "gpu_layers": row.placement.gpu_layers,
        "layers": row.placement.all_layers,
        "speed_source": row.speed_source,
        "prompt": row.prompt,
        "writable": row.writable,
        "needs_imatrix": row.needs_imatrix,
        "notes": list(row.notes),
    }


def _format(each: Format) -> dict[str, Any]:
    return {
        "format": each.key,
        "name": each.name,
        "words": each.words,
        "runs_on": each.runs_on,
        "loaded_by": list(each.loaded_by),
        "found_at": list(each.found_at),
        "writes": each.writes,
    }


def _listed(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def _speed(tokens: float) -> str:
    return f"{tokens:.0f}" if tokens >= COMFORTABLE_SPEED else f"{tokens:.1f}"
