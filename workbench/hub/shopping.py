"""Is there a ready-made quant that fits here? One repository's offers on one machine."""

from __future__ import annotations

from dataclasses import dataclass

from ..advice import Corrections, Setup
from ..advice.machine import this_machine
from ..errors import QuantdeckError
from ..hardware import Bandwidth, Hardware
from ..model import Model
from .client import Hub, Repository
from .files import Fitted, Offer, best, fitted, offers, only_pickled
from .remote import read_offer


@dataclass(frozen=True)
class Shop:
    """A repository's offers with fit marks for `setup`, and the one to take (None if no ready-made file fits).

    `note` is a sentence on what could not be found out, or what to do where nothing can be taken; "" if all is well.
    """

    repository: Repository
    rows: tuple[Fitted, ...]
    setup: Setup
    best: Fitted | None
    note: str


def shop(
    hub: Hub,
    repository: Repository,
    hardware: Hardware,
    bandwidth: Bandwidth | None,
    context: int,
    corrections: Corrections | None = None,
) -> Shop:
    """Look at all offers; one header is read for their memory. What it cannot tell becomes the note."""
    found, model, note = offers(repository), None, ""
    try:
        model = _header(hub, repository, found)
    except QuantdeckError as error:
        note = f"What it needs cannot be told: {error}"
    trained = model.get("{arch}.context_length") if model else None
    setup = Setup(min(context, trained) if isinstance(trained, int) and trained > 0 else context)
    try:
        rows = fitted(found, model, this_machine(hardware, bandwidth), setup, corrections)
    except QuantdeckError as error:
        rows, note = tuple(map(Fitted, found)), f"What it needs cannot be told: {error}"
    return Shop(repository, rows, setup, best(rows), note or _note(repository, found))


def _header(hub: Hub, repository: Repository, found: tuple[Offer, ...]) -> Model | None:
    """The header that costs least to read: of the smallest whole GGUF, or of the checkpoint."""
    whole = [offer for offer in found if offer.kind == "model" and not offer.missing and offer.has_proper_names]
    whole = whole or [offer for offer in found if offer.kind == "checkpoint"]
    return read_offer(hub, repository, min(whole, key=lambda o: (len(o.parts), o.n_bytes))) if whole else None


def _note(repository: Repository, found: tuple[Offer, ...]) -> str:
    if any(offer.kind in ("model", "checkpoint") for offer in found):
        return ""
    if only_pickled(repository):
        return "It holds pickled weights alone, which may run any code and are never opened; look for safetensors."
    return "It holds nothing that can be used here: no GGUF file and no safetensors checkpoint."
