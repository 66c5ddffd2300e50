"""Has somebody made a quantization of this model already, and does it fit?

Two searches find the repositories: the model tree (those that say they are quantizations of it), and the names that
publishers give. One look at the files of a few of them does the rest; no header is read, since the model is known.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..advice import Corrections, Setup
from ..advice import data as level_data
from ..advice.machine import Machine
from ..errors import QuantdeckError
from ..model import Model
from .client import Found, Hub, Offline, Patience, Repository, Unreachable
from .files import Fitted, best, fitted, offers
from .names import is_repository, parse_reference
from .provider import providers

BRIEF = Patience(tries=2, first_wait=0.5, longest_wait=2.0)
"""Somebody waits, and can do without."""

LONGEST_SECONDS = 20.0
_LOOKED_AT, _TRIED = 3, 6
_MOST_LISTED = 100
_LARGEST_CONFIG = 1 << 20
_QUANTIZED = "base_model:quantized:"
_SOURCES = (
    "general.source.huggingface.repository",
    "general.source.repo_url",
    "general.source.url",
    "general.repo_url",
    "general.url",
)
_PARENTS = ("general.base_model.0.repo_url", "general.base_model.0.url")
_ODD = 1.8
"""A file this many times as large or small as its level makes this model belongs to another model."""


@dataclass(frozen=True)
class Origin:
    """The repository that a model comes from; `is_parent` if it is only the model that this one was trained from."""

    repository: str
    is_parent: bool = False


@dataclass(frozen=True)
class ReadyMade:
    """Repositories with GGUF files of the model in `origin`, the best known publishers first.

    `note` says in a sentence why none could be looked for, "" otherwise.
    """

    origin: Origin
    repositories: tuple[Repository, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Pick:
    """The file to take of one repository."""

    repository: Repository
    fitted: Fitted


# -- where a model here comes from -------------------------------------------------------------------------------------


def origin(model: Model, homes: Iterable[Path] = ()) -> Origin | None:
    """The repository that a model on this machine comes from, None if nothing tells.

    Its place tells (the Hub's cache, or OWNER/NAME in one of `homes`), else its metadata, else its configuration.
    """
    placed = _by_place(model.path.absolute(), homes)
    if placed:
        return Origin(placed)
    for key in _SOURCES:
        if named := _repository(model.get(key)):
            return Origin(named)
    for candidate in (*(model.get(key) for key in _PARENTS), _configured(model.path)):
        if named := _repository(candidate):
            return Origin(named, not _same_name(str(model.get("general.name") or ""), named))
    return None


def _by_place(path: Path, homes: Iterable[Path]) -> str:
    for folder in path.parents:
        owner, _, name = folder.name.removeprefix("models--").partition("--")
        if folder.name.startswith("models--") and is_repository(f"{owner}/{name}"):
            return f"{owner}/{name}"
    for home in homes:
        with suppress(ValueError):
            parts = path.relative_to(home.absolute()).parts
            if len(parts) >= 2 + path.is_file() and is_repository("/".join(parts[:2])):
                return "/".join(parts[:2])
    return ""


def _repository(named: object) -> str:
    reference = parse_reference(named) if isinstance(named, str) else None
    return reference.repository if reference else ""


def _configured(folder: Path) -> object:
    """What a checkpoint's configuration says that it was loaded from, unless that is a folder here."""
    with suppress(OSError, ValueError, RecursionError):
        config = folder / "config.json"
        content = json.loads(config.read_bytes()) if config.stat().st_size <= _LARGEST_CONFIG else {}
        named = content.get("_name_or_path") if isinstance(content, dict) else None
        return None if named is None or Path(str(named)).exists() else named
    return None


def _same_name(name: str, repository: str) -> bool:
    """Whether a model's name is its repository's; one that goes on, such as Instruct, is another model's."""
    mine, theirs = (re.sub(r"[^a-z0-9]", "", each.lower()) for each in (name, repository.partition("/")[2]))
    return not mine or theirs.endswith(mine)


# -- looking -----------------------------------------------------------------------------------------------------------


def look_for(hub: Hub, of: Origin, stopped: Callable[[], bool] = lambda: False) -> ReadyMade:
    """Repositories that offer `of` as GGUF; what stands in the way becomes the note. Ends soon after `stopped()`."""
    until = time.monotonic() + LONGEST_SECONDS
    try:
        return _look_for(hub, of, lambda: stopped() or time.monotonic() > until)
    except Offline:
        return ReadyMade(of, note="Ready-made quants are not looked for: HF_HUB_OFFLINE is set.")
    except QuantdeckError as error:
        return ReadyMade(of, note=f"Ready-made quants are not listed: {error}")


def _look_for(hub: Hub, of: Origin, stopped: Callable[[], bool]) -> ReadyMade:
    own = _seen(hub, of.repository)
    is_gguf = own is not None and _has_models(own)
    if own and is_gguf and own.base_models:
        of = Origin(own.base_models[0], of.is_parent)
    found = [own] if own and is_gguf else []
    for name in _listed(hub, of.repository)[:_TRIED]:
        if stopped() or len(found) >= _LOOKED_AT:
            break
        repository = None if name in (each.id for each in found) else _seen(hub, name)
        if repository and _has_models(repository):
            found.append(repository)
    return ReadyMade(of, tuple(found))


def _seen(hub: Hub, name: str) -> Repository | None:
    """A repository, None if there is none to be seen."""
    try:
        return hub.repository(name)
    except (Offline, Unreachable):
        raise
    except QuantdeckError:
        return None


def _has_models(repository: Repository) -> bool:
    return any(offer.kind == "model" and offer.decoded.nearest and not offer.missing for offer in offers(repository))


def _listed(hub: Hub, base: str) -> list[str]:
    """Names of repositories that may hold quantizations of `base`, in the order to try."""
    known = {name.lower(): number for number, name in enumerate(conventional_names(base))}
    named = hub.search(base.partition("/")[2], tag="gguf", limit=_MOST_LISTED)
    tree = hub.search(tag=_QUANTIZED + base, limit=_MOST_LISTED)
    usable = [each for each in tree if "gguf" in each.tags] + [each for each in named if each.id.lower() in known]

    def rank(found: Found) -> tuple[int, int]:
        return known.get(found.id.lower(), len(known)), -found.downloads

    return list(dict.fromkeys(each.id for each in sorted(usable, key=rank) if each.id != base))


def conventional_names(base: str) -> list[str]:
    """The names under which publishers offer OWNER/NAME as GGUF, the best known publisher first, the owner last."""
    owner, _, name = base.partition("/")
    named = [f"{each.author}/{form.format(owner=owner, name=name)}" for each in providers() for form in each.gguf]
    return [*named, f"{owner}/{name}-GGUF"]


# -- choosing ----------------------------------------------------------------------------------------------------------


def picks(
    found: ReadyMade,
    model: Model,
    machine: Machine,
    setup: Setup,
    corrections: Corrections | None = None,
    level: str | None = None,
    sizes: Mapping[str, int] | None = None,
) -> tuple[Pick, ...]:
    """One file of each repository, those that fit first: the one nearest to `level`, where none is wanted the best.

    Where nothing fits it is the smallest. `sizes` are the bytes of `model` at each level, to tell files of other models
    from its own.
    """
    chosen = []
    for repository in found.repositories:
        rows = fitted(offers(repository), model, machine, setup, corrections)
        pick = _pick([row for row in rows if _is_ready(row, sizes or {})], level)
        if pick:
            chosen.append(Pick(repository, pick))
    return tuple(sorted(chosen, key=lambda each: {"yes": 0, "tight": 1}.get(each.fitted.fits, 2)))


def _is_ready(row: Fitted, sizes: Mapping[str, int]) -> bool:
    offer = row.offer
    if offer.kind != "model" or offer.missing or offer.can_be_quantized or not offer.decoded.nearest:
        return False
    expected = sizes.get(offer.decoded.nearest, offer.n_bytes)
    return offer.has_proper_names and expected / _ODD <= offer.n_bytes <= expected * _ODD


def _pick(rows: Sequence[Fitted], level: str | None) -> Fitted | None:
    facts = level_data.levels()
    fitting = [row for row in rows if row.fits == "yes" and not facts[row.offer.decoded.nearest].special]
    if level and level in facts and fitting:
        wanted = facts[level].rank
        # Of equals the publisher's plain one, then the one of better quality.
        return min(fitting, key=lambda row: (abs(_rank(row) - wanted), not row.offer.is_plain, _rank(row)))
    return best(rows) or min(rows, key=lambda row: row.offer.n_bytes, default=None)


def _rank(row: Fitted) -> int:
    return level_data.levels()[row.offer.decoded.nearest].rank
