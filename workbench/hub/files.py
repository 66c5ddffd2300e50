"""What a repository offers: its files decoded and grouped, and how each would do on a machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from ..advice import Corrections, DecodedName, MemoryNeed, Placement, Setup, decode_name
from ..advice import data as level_data
from ..advice.candidates import COMFORTABLE_SPEED, SPARE_SHARE
from ..advice.fit import Footprint, footprint, place, running
from ..advice.machine import Machine
from ..advice.speed import tokens_per_second
from ..errors import ModelNotFound, ValidationFailed
from ..model import Model
from ..model.wording import shown
from .client import RemoteFile, Repository
from .names import local_name

SIXTEEN_BIT = frozenset({"F16", "BF16", "F32"})
GOOD = frozenset({"lossless", "near lossless", "excellent", "good"})
BEST_WORTH_WHILE = "Q6_K"
"""A chat gains nothing that people notice from more than this; the rest is for those who ask for it."""

_MOST_NAMED = 5
_SAFETENSORS, _INDEX = ".safetensors", ".safetensors.index.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_CHECKPOINT_FILES = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "chat_template.jinja",
        "chat_template.json",
        "README.md",
        "model.safetensors.index.json",
    }
)


@dataclass(frozen=True)
class Offer:
    """One thing to download: a GGUF file with all of its shards, a checkpoint, or what goes with a model.

    `kind` is "model" (GGUF), "checkpoint" (safetensors with configuration and tokenizer), "projector" (mmproj),
    "imatrix" or "other". `missing` counts shards that are not in the repository.
    """

    path: str
    kind: str
    parts: tuple[RemoteFile, ...]
    decoded: DecodedName
    missing: int = 0

    @property
    def level(self) -> str:
        """The level as the publisher writes it: UD-Q4_K_XL, Q4_K_M; "" if the name does not say."""
        return f"UD-{self.decoded.level}" if self.decoded.dynamic else self.decoded.level

    @property
    def is_plain(self) -> bool:
        """True for a known level without a publisher's own mix."""
        return self.level == self.decoded.nearest

    @property
    def n_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.n_bytes for part in self.parts)

    @property
    def name(self) -> str:
        """The file's name without folders."""
        return PurePosixPath(self.path).name or self.path

    @property
    def has_proper_names(self) -> bool:
        """False if a part is named in a way that keeps it from being downloaded."""
        try:
            return all(local_name(part.path) for part in self.parts)
        except ValidationFailed:
            return False

    @property
    def can_be_quantized(self) -> bool:
        """True for 16 and 32 bits: what the wizard begins with."""
        return self.kind == "checkpoint" or (self.kind == "model" and self.decoded.level in SIXTEEN_BIT)


@dataclass(frozen=True)
class Fitted:
    """An offer on a machine. `placement` and speed are None where the memory cannot be told.

    They are estimates: cache and buffers are those of one file of the repository, weights go by the size.
    """

    offer: Offer
    placement: Placement | None = None
    tokens_per_second: float | None = None
    comfortable: bool = False

    @property
    def fits(self) -> str:
        """ "yes", "tight", "no", or "" where it cannot be told."""
        return self.placement.fits if self.placement else ""

    @property
    def memory(self) -> MemoryNeed | None:
        """What it takes while running."""
        return self.placement.need if self.placement else None


def offers(repository: Repository) -> tuple[Offer, ...]:
    """What can be downloaded from a repository: models the smallest first, then what goes with them."""
    found = [*_ggufs(repository.files), *_checkpoint(repository), *_matrices(repository.files)]
    order = {"model": 0, "checkpoint": 1, "projector": 2, "imatrix": 3}
    return tuple(sorted(found, key=lambda offer: (order.get(offer.kind, 9), offer.n_bytes, offer.path)))


def find_offer(repository: Repository, path: str) -> Offer | None:
    """The offer that a file belongs to, None if it belongs to none."""
    return next((o for o in offers(repository) if any(part.path == path for part in o.parts)), None)


def offer_of_level(repository: Repository, level: str) -> Offer:
    """The GGUF model that OWNER/NAME:LEVEL means, in any case; the plain level comes before UD-LEVEL.

    ModelNotFound, which says what there is, for a level that none or several have.
    """
    wanted, tag = decode_name(level), level.lower().removesuffix(".gguf")
    published = f"UD-{wanted.level}" if wanted.dynamic else wanted.level
    models = [offer for offer in offers(repository) if offer.kind == "model"]

    def likeness(offer: Offer) -> tuple[bool, bool, bool]:
        ends = re.search(rf"(?<![a-z0-9_]){re.escape(tag)}(?:-\d{{5}}-of-\d{{5}})?\.gguf$", offer.name.lower())
        return wanted.level != "" and offer.level == published, bool(ends), offer.decoded.level == wanted.level != ""

    most = max(map(likeness, models), default=(False, False, False))
    found = [offer for offer in models if likeness(offer) == most] if any(most) else []
    if len(found) == 1:
        return found[0]
    if found:
        listed = _a_few([shown(offer.path) for offer in found])
        raise ModelNotFound(
            f"{repository.id} has {len(found)} files at {shown(level)}: {listed}; name one as OWNER/NAME/FILE."
        )
    levels, facts = dict.fromkeys(offer.level for offer in models if offer.level), level_data.levels()
    near = facts.get(wanted.nearest)

    def distance(name: str) -> int:
        other = facts.get(decode_name(name).nearest)
        return abs(other.rank - near.rank) if near and other else 0

    has = f"it has {_a_few(sorted(levels, key=distance))}" if levels else "no file of it names its level"
    raise ModelNotFound(f"{repository.id} has no {shown(level)}; {has}.")


def _a_few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _ggufs(files: Iterable[RemoteFile]) -> list[Offer]:
    groups: dict[tuple[str, str], list[tuple[DecodedName, RemoteFile]]] = {}
    for file in files:
        if file.path.lower().endswith(".gguf"):
            decoded = decode_name(file.path)
            shards = f"-of-{decoded.shards:05}" if decoded.shards else ""
            stem = file.path[: -len("-00001-of-00001.gguf")] if shards else file.path
            groups.setdefault((stem, shards), []).append((decoded, file))
    return [_gguf(group) for group in groups.values()]


def _gguf(group: Sequence[tuple[DecodedName, RemoteFile]]) -> Offer:
    group = sorted(group, key=lambda each: each[0].shard or 0)
    decoded, first = group[0]
    kind = "projector" if decoded.projector else "imatrix" if _is_matrix(first.path) else "model"
    present = {each.shard for each, _ in group}
    missing = sum(number not in present for number in range(1, (decoded.shards or 0) + 1)) if decoded.shards else 0
    return Offer(first.path, kind, tuple(file for _, file in group), decoded, missing)


def _is_matrix(path: str) -> bool:
    name = PurePosixPath(path).name.lower()
    return name.startswith("imatrix") or name.endswith((".imatrix", ".imatrix.gguf", "-imatrix.gguf", "_imatrix.gguf"))


def _matrices(files: Iterable[RemoteFile]) -> list[Offer]:
    names = ((file, PurePosixPath(file.path).name.lower()) for file in files)
    return [
        Offer(file.path, "imatrix", (file,), decode_name(file.path))
        for file, name in names
        if name.endswith((".dat", ".imatrix")) and "imatrix" in name
    ]


def _checkpoint(repository: Repository) -> list[Offer]:
    """The checkpoint at the top of the repository; adapters, and folders such as `original/`, are not it."""
    top = [file for file in repository.files if "/" not in file.path]
    weights = [file for file in top if file.path.endswith(_SAFETENSORS) and not file.path.startswith("adapter_")]
    if not weights or not any(file.path == "config.json" for file in top):
        return []
    parts = [*weights, *(file for file in top if file.path in _CHECKPOINT_FILES)]
    decoded = replace(decode_name(repository.id), level="", known=False)
    return [Offer("", "checkpoint", tuple(sorted(parts, key=lambda file: file.path)), decoded)]


def only_pickled(repository: Repository) -> bool:
    """True if its weights are pickled files alone, which are never opened."""
    return not offers(repository) and any(file.path.lower().endswith(_PICKLED) for file in repository.files)


def fitted(
    all_offers: Sequence[Offer],
    model: Model | None,
    machine: Machine,
    setup: Setup,
    corrections: Corrections | None = None,
) -> tuple[Fitted, ...]:
    """Each offer with the memory that it needs on `machine`; `model` is the header of one file of the repository."""
    if model is None:
        return tuple(Fitted(offer) for offer in all_offers)
    bare, run = footprint(model), running(model, setup)
    rows = []
    for offer in all_offers:
        if offer.kind not in ("model", "checkpoint") or offer.missing:
            rows.append(Fitted(offer))
            continue
        weights = _scaled(bare, offer.n_bytes / max(1, bare.total))
        placement = place(weights, run, machine.budget)
        facts = level_data.levels().get(offer.decoded.level)
        tables = facts is not None and facts.table_driven
        speed = tokens_per_second(weights, run, placement, machine, table_driven=tables, corrections=corrections)
        modest = placement.need.total <= SPARE_SHARE * machine.budget.room(placement.where)
        comfortable = placement.fits == "yes" and modest and speed >= COMFORTABLE_SPEED
        rows.append(Fitted(offer, placement, speed, comfortable))
    return tuple(rows)


def _scaled(bare: Footprint, factor: float) -> Footprint:
    def some(n_bytes: int) -> int:
        return int(n_bytes * factor)

    return Footprint(
        layers=tuple(map(some, bare.layers)),
        active=tuple(map(some, bare.active)),
        tables=some(bare.tables),
        output=some(bare.output),
        tied=bare.tied,
        output_read=some(bare.output_read),
    )


def best(rows: Sequence[Fitted]) -> Fitted | None:
    """The ready-made file to take, None if none fits.

    Of those that are comfortable and good, the one nearest to Q6_K; else of the good ones that fit the smallest; else
    the best quality that fits. A publisher's own mix counts as the level nearest to it. Files whose names do not tell
    their level, and levels that suit only models trained for them, are never it.
    """
    facts = level_data.levels()
    worth = facts[BEST_WORTH_WHILE].rank

    def rank(row: Fitted) -> tuple[int, int, int]:
        level = facts[row.offer.decoded.nearest]
        if level.quality in GOOD and row.comfortable:
            return 0, abs(level.rank - worth), row.offer.n_bytes
        if level.quality in GOOD and row.fits == "yes":
            return 1, row.offer.n_bytes, 0
        return (2 if row.fits == "yes" else 3), level.rank, row.offer.n_bytes

    known = [row for row in rows if row.offer.kind == "model" and row.offer.decoded.nearest]
    known = [row for row in known if row.offer.has_proper_names]
    fitting = [row for row in known if row.fits in ("yes", "tight") and not facts[row.offer.decoded.nearest].special]
    return min(fitting, key=rank, default=None)


def header_offer(all_offers: Sequence[Offer]) -> Offer | None:
    """The offer whose header stands for the repository: 16 bits first, then a checkpoint, then the largest file."""
    whole = [offer for offer in all_offers if offer.kind in ("model", "checkpoint") and not offer.missing]
    return max(
        whole,
        key=lambda offer: (offer.kind == "model" and offer.can_be_quantized, offer.can_be_quantized, offer.n_bytes),
        default=None,
    )
