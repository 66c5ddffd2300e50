"""Models side by side: one row each with what was measured, sorted, the efficient ones marked, and written out."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .library import Entry, Figure
from .text import printable, size

Number = float | None

_ABSURD = 1e5
_SAME_SIZE = 1.001  # metadata alone, such as the name of an importance matrix, makes nothing larger
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_MARKUP = re.compile(r"([\\|`*\[\]<>])")


@dataclass(frozen=True)
class Compared:
    """One model in a comparison; None for what was not measured on this text. Errors are standard errors.

    `efficient`: no other model is both smaller and better. Sizes in bytes, shares from 0 to 1, divergence in nats.
    """

    sha256: str
    path: str
    name: str
    level: str
    imatrix: bool
    n_bytes: int
    bits_per_weight: float
    perplexity: Number = None
    perplexity_error: Number = None
    kl: Number = None
    kl_error: Number = None
    same_top: Number = None
    questions: Number = None
    tokens_per_second: Number = None
    prompt_tokens_per_second: Number = None
    peak_memory: Number = None
    efficient: bool = False

    @property
    def label(self) -> str:
        """The level, with a mark where an importance matrix was used."""
        return self.level + ("+im" if self.imatrix else "")


@dataclass(frozen=True)
class Basis:
    """On what the figures of a comparison were taken: figures on another basis are not comparable."""

    text: str
    text_sha256: str
    context: int
    chunks: int
    parse_special: bool

    @property
    def words(self) -> str:
        """In a line."""
        special = ", markers parsed" if self.parse_special else ""
        chunks = "1 chunk" if self.chunks == 1 else f"{self.chunks} chunks"
        return f"{one_line(self.text)}, {chunks} of {self.context} tokens{special}"


@dataclass(frozen=True)
class Asked:
    """How figures were asked for, so that others can be had on the same basis.

    `text_path` and `reference_path` may be gone, and are empty where they are not known. `chunks` 0 is the whole text,
    `parse_special` None left it to the text.
    """

    text_path: str
    context: int
    chunks: int
    parse_special: bool | None
    reference_path: str


@dataclass(frozen=True)
class Comparison:
    """Rows on one basis; `basis` is None where nothing was measured yet. `reference` is what divergence is from."""

    rows: tuple[Compared, ...]
    basis: Basis | None
    reference: str = ""
    reference_path: str = ""


@dataclass(frozen=True)
class Column:
    """A column: its title on screen, its field, whether more is better, and how a value is written."""

    title: str
    field: str
    more_is_better: bool
    words: Callable[[float], str]


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _decimals(digits: int) -> Callable[[float], str]:
    """With so many digits after the point, unless the number is absurdly large."""
    return lambda value: f"{value:.{digits}f}" if abs(value) < _ABSURD else f"{value:.1e}"


COLUMNS: tuple[Column, ...] = (
    Column("size", "n_bytes", False, size),
    Column("bits/w", "bits_per_weight", False, "{:.2f}".format),
    Column("ppl", "perplexity", False, _decimals(3)),
    Column("KL", "kl", False, _decimals(4)),
    Column("top-1", "same_top", True, _share),
    Column("quest.", "questions", True, _share),
    Column("tok/s", "tokens_per_second", True, "{:.0f}".format),
)


def compare(entries: Iterable[Entry], basis: Basis | None = None) -> Comparison:
    """All entries on one basis: the given one, or that of the latest measurement among them.

    Divergences are from one reference too, the latest one; a row that was held against another model has none.
    """
    listed = list(entries)
    basis = basis or _latest_basis(listed)
    figures = [figure for entry in listed for figure in entry.figures]
    latest = _latest(figures, "kl_divergence", basis) if basis else None
    rows = [_row(entry, basis, _reference(latest)) for entry in listed]
    return Comparison(tuple(_marked(rows)), basis, *_reference(latest))


def bases(entries: Iterable[Entry]) -> tuple[Basis, ...]:
    """All bases on which something was measured, the latest one first."""
    figures = [figure for entry in entries for figure in entry.figures if figure.kind == "perplexity"]
    newest = sorted(figures, key=lambda figure: figure.measured_at, reverse=True)
    return tuple(dict.fromkeys(map(_basis, newest)))


def asked_for(entries: Iterable[Entry], table: Comparison) -> Asked | None:
    """How the figures of a table were asked for; None for a table without any.

    Asked for again in the same words, a reference's logits that are kept are found again.
    """
    basis = table.basis
    if basis is None:
        return None
    figures = [figure for entry in entries for figure in entry.figures]
    figure = _latest(figures, "kl_divergence", basis) or _latest(figures, "perplexity", basis)
    details = figure.details if figure else {}
    special = details.get("asked_special", basis.parse_special)
    return Asked(
        text_path=str(details.get("text_path", "")),
        context=basis.context,
        chunks=int(_number(details, "asked_chunks", basis.chunks)),
        parse_special=special if isinstance(special, bool) else None,
        reference_path=str(details.get("asked_reference", table.reference_path)),
    )


def ordered(rows: Sequence[Compared], column: Column) -> list[Compared]:
    """Rows by a column, the best first, rows without a figure at the end, ties by size."""
    known = [row for row in rows if getattr(row, column.field) is not None]
    unknown = [row for row in rows if getattr(row, column.field) is None]
    sign = -1 if column.more_is_better else 1
    known.sort(key=lambda row: (sign * getattr(row, column.field), row.n_bytes, row.name))
    return known + unknown


def quality(row: Compared, rows: Sequence[Compared]) -> Number:
    """What the plot and the mark go by, less is better: divergence where more than one row has it, else perplexity."""
    return row.kl if sum(other.kl is not None for other in rows) > 1 else row.perplexity


def measured_quality(entries: Iterable[Entry], source: Path) -> dict[str, str]:
    """What was measured of quantizations of `source`, in words by level; the latest figure of the latest file."""
    found: dict[str, tuple[str, str]] = {}
    for entry in entries:
        if not entry.source or Path(entry.source) != source:
            continue
        for kind, words in (("perplexity", "ppl {:.3f}"), ("kl_divergence", "KL {:.4f}")):
            figure = _latest(entry.figures, kind)
            if figure and (entry.level not in found or figure.measured_at >= found[entry.level][0]):
                found[entry.level] = figure.measured_at, words.format(figure.value)
    return {level: words for level, (_, words) in found.items()}


def as_markdown(comparison: Comparison) -> str:
    """A table for a README; names cannot break out of their cells."""
    header = ["model", "level", *(column.title for column in COLUMNS), "memory", "efficient"]
    lines = [" | ".join(header), " | ".join(["---", "---", *["---:"] * (len(header) - 3), "---"])]
    for row in comparison.rows:
        memory = size(row.peak_memory) if row.peak_memory else ""
        cells = [_plain(row.name), _plain(row.label), *cells_of(row), memory, "yes" if row.efficient else ""]
        lines.append(" | ".join(cells))
    about = f"\nMeasured on {_plain(comparison.basis.words)}." if comparison.basis else ""
    against = f" Divergence (KL, nats) from {_plain(comparison.reference)}." if comparison.reference else ""
    return "\n".join(f"| {line} |" for line in lines) + f"\n{about}{against}\n"


def as_csv(comparison: Comparison) -> str:
    """All fields, empty where not measured.

    Names that a spreadsheet would compute (they begin with =, +, - or @) get an apostrophe in front, as is usual.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, [*Compared.__dataclass_fields__], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in _fields(row).items()} for row in comparison.rows)
    return out.getvalue()


def as_json(comparison: Comparison) -> str:
    """All fields, null where not measured."""
    basis = vars(comparison.basis) if comparison.basis else None
    models = [{key: _finite(value) for key, value in _fields(row).items()} for row in comparison.rows]
    document = {"basis": basis, "reference": comparison.reference, "models": models}
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


WRITERS: Mapping[str, Callable[[Comparison], str]] = {".md": as_markdown, ".csv": as_csv, ".json": as_json}


def cells_of(row: Compared) -> list[str]:
    """The figures under COLUMNS, in words."""
    values = [(column, getattr(row, column.field)) for column in COLUMNS]
    return ["" if value is None else column.words(value) for column, value in values]


def one_line(text: str) -> str:
    """Text from outside in one harmless line."""
    return " ".join(printable(text).split())


def _plain(text: str) -> str:
    return _MARKUP.sub(r"\\\1", one_line(text))


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    return ("'" if value.startswith(_FORMULA) else "") + printable(value)


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _fields(row: Compared) -> dict[str, object]:
    return {name: getattr(row, name) for name in Compared.__dataclass_fields__}


def _basis(figure: Figure) -> Basis:
    d = figure.details
    return Basis(
        str(d.get("text", "")),
        str(d.get("text_sha256", "")),
        int(_number(d, "context")),
        int(_number(d, "chunks")),
        bool(d.get("parse_special", False)),
    )


def _number(details: Mapping[str, object], key: str, default: float = 0.0) -> float:
    """A number of a figure's details, `default` where there is none: others may have written the register."""
    value = details.get(key)
    try:
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else default
    except OverflowError:  # a whole number beyond all floats
        return default


def _reference(figure: Figure | None) -> tuple[str, str]:
    """Name and path of the model that a figure is a difference from."""
    details = figure.details if figure else {}
    return str(details.get("reference", "")), str(details.get("reference_path", ""))


def _latest_basis(entries: Iterable[Entry]) -> Basis | None:
    return next(iter(bases(entries)), None)


def _latest(figures: Iterable[Figure], kind: str, basis: Basis | None = None) -> Figure | None:
    found = [f for f in figures if f.kind == kind and (basis is None or _basis(f) == basis)]
    # Of equally old ones the last that was added counts.
    return max(reversed(found), key=lambda figure: figure.measured_at, default=None)


def _row(entry: Entry, basis: Basis | None, reference: tuple[str, str]) -> Compared:
    against = [figure for figure in entry.figures if _reference(figure) in (reference, ("", ""))]

    def value(kind: str, on_text: bool = False) -> Number:
        if on_text and basis is None:
            return None
        figure = _latest(against, kind, basis if on_text else None)
        return figure.value if figure else None

    def error(kind: str) -> Number:
        figure = _latest(against, kind, basis) if basis else None
        return _number(figure.details, "error") if figure else None

    return Compared(
        sha256=entry.sha256,
        path=entry.path,
        name=entry.name,
        level=entry.level,
        imatrix=bool(entry.imatrix),
        n_bytes=entry.n_bytes,
        bits_per_weight=entry.bits_per_weight,
        perplexity=value("perplexity", True),
        perplexity_error=error("perplexity"),
        kl=value("kl_divergence", True),
        kl_error=error("kl_divergence"),
        same_top=value("same_top", True),
        questions=value("question_score"),
        tokens_per_second=value("tokens_per_second"),
        prompt_tokens_per_second=value("prompt_tokens_per_second"),
        peak_memory=value("peak_memory"),
    )


def _marked(rows: Sequence[Compared]) -> list[Compared]:
    """Rows with `efficient` set for those on the Pareto front of size and quality."""
    known = [(row.n_bytes, q) for row in rows if (q := quality(row, rows)) is not None]

    def beaten(row: Compared, q: float) -> bool:
        return any(n <= _SAME_SIZE * row.n_bytes if other < q else other == q and n < row.n_bytes for n, other in known)

    return [replace(row, efficient=(q := quality(row, rows)) is not None and not beaten(row, q)) for row in rows]
