"""What the Hub offers, in words and rows: the same on the screen and in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..workbench.text import count, duration, size
from .describe import fit_words, speed_words

if TYPE_CHECKING:
    from ..workbench.hub import DownloadSnapshot, Fitted, Found, Pick, ReadyMade, Shop

FOUND_COLUMNS = ["repository", "downloads", "likes", "updated", "access"]
FOUND_COLUMNS_RIGHT = [1, 2]
OFFER_COLUMNS = ["level", "size", "memory", "fits", "t/s", "note", "file"]
OFFER_COLUMNS_RIGHT = [1, 2, 4]
KINDS = {"projector": "vision part", "imatrix": "imatrix", "checkpoint": "16 bits", "other": "other"}


def found_cells(found: Found) -> list[str]:
    """A repository as a row."""
    marks = ["gated" if found.gated else "", "private" if found.private else ""]
    return [
        found.id,
        count(found.downloads).replace(" ", ""),
        count(found.likes).replace(" ", ""),
        found.updated[:10],
        " ".join(filter(None, marks)),
    ]


def offer_cells(row: Fitted, best: Fitted | None) -> list[str]:
    """An offer as a row: what it takes here."""
    offer = row.offer
    shards = f" ({len(offer.parts)} files)" if len(offer.parts) > 1 else ""
    note = "to quantize here" if offer.can_be_quantized else "take this" if row is best else ""
    if offer.missing:
        note = f"{offer.missing} shards missing"
    return [
        offer.level or KINDS.get(offer.kind, "?"),
        size(offer.n_bytes),
        size(row.memory.total) if row.memory else "",
        row.fits,
        speed_words(row.tokens_per_second) if row.tokens_per_second is not None else "",
        note,
        (offer.name or "checkpoint") + shards,
    ]


def shop_headline(shop: Shop) -> str:
    """The answer to "is there a ready-made quant that fits?" in a line."""
    if shop.best:
        fits = "fits" if shop.best.fits == "yes" else "fits tightly"
        return f"{shop.best.offer.level} {fits} here with a context of {shop.setup.context:,} tokens"
    if any(row.offer.can_be_quantized for row in shop.rows):
        return "No ready-made quant that fits, but one can be made here"
    if any(row.offer.kind == "model" for row in shop.rows) and not any(row.fits for row in shop.rows):
        return "Whether something in this repository fits here cannot be told"
    return "Nothing in this repository fits here"


def ready_words(found: ReadyMade, picks: Sequence[Pick], context: int) -> str:
    """What there is ready made, in a sentence."""
    origin = found.origin
    what = f"its base model {origin.repository}" if origin.is_parent else origin.repository
    if found.note:
        return found.note
    if not picks:
        return f"No ready-made quant of {what} was found on the Hub."
    row, of = picks[0].fitted, f" of {what}" if origin.is_parent else ""
    file = f"{row.offer.level}, {size(row.offer.n_bytes)}, in {picks[0].repository.id}"
    if row.fits == "no":
        return f"Ready made{of}, but even this does not fit at {context:,} tokens: {file}"
    return f"Ready made{of}: {file}, {'fits' if row.fits == 'yes' else 'fits tightly'} at {context:,} tokens"


def ready_cells(pick: Pick) -> list[str]:
    """A ready-made file as cells under LEVEL_COLUMNS."""
    offer, placement = pick.fitted.offer, pick.fitted.placement
    assert placement is not None
    return [
        f"  {offer.level}",
        size(offer.n_bytes),
        "ready",
        size(placement.need.total),
        fit_words(placement),
        speed_words(pick.fitted.tokens_per_second or 0.0),
        pick.repository.id.partition("/")[0],
    ]


def download_words(snapshot: DownloadSnapshot) -> str:
    """How a download stands, in one line."""
    done = f"{100 * snapshot.fraction:.0f} % · {size(snapshot.bytes_done)} of {size(snapshot.request.n_bytes)}"
    if snapshot.status == "running":
        left = f"{duration(snapshot.seconds_left)} left" if snapshot.seconds_left is not None else "time left not known"
        return f"{done} · {size(snapshot.rate)}/s · {left}"
    if snapshot.status == "checking":
        return f"{done} · checking the hash"
    if snapshot.status == "done":
        return f"done, {size(snapshot.request.n_bytes)}, hash checked"
    words = "cut off" if snapshot.status == "interrupted" else snapshot.status
    return f"{words} at {done}" + (f" · {snapshot.message}" if snapshot.message else "")
