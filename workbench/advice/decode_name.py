"""What the name of a GGUF file says: level, size, makers' marks, shards, in words."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..recipe import ALIASES
from ..text import printable
from . import data

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")
_LEVEL = re.compile(
    r"(?<![A-Za-z0-9])(UD-)?"
    r"(I?Q\d_K(?:_(?:XXS|XS|XL|S|M|L))?|I?Q\d_(?:XXS|XS|XL|NL|S|M|L|0|1)(?:_\d_\d)?|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|F(?:P)?16|F(?:P)?32)"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_PARAMETERS = re.compile(
    r"(?<![A-Za-z0-9.])((?:\d+x)?\d+(?:\.\d+)?[BM])(?:-A(\d+(?:\.\d+)?B))?(?![A-Za-z0-9])", re.IGNORECASE
)
_IMATRIX = re.compile(r"(?<![A-Za-z])(?:i1|imat(?:rix)?)(?![A-Za-z0-9])", re.IGNORECASE)
_PROJECTOR = re.compile(r"(?<![A-Za-z])mmproj(?![A-Za-z])", re.IGNORECASE)
_PARTS = {
    "IQ": "looks weights up in a code book, best with an importance matrix",
    "TQ": "stores three values (-1, 0, 1)",
    "Q": "stores evenly spaced steps",
    "_K": "in super-blocks of 256 weights whose scales are quantized too",
    "_0": "with one scale for a block",
    "_1": "with scale and minimum for a block",
    "_NL": "with uneven steps",
    "_XXS": "the smallest mix",
    "_XS": "a very small mix",
    "_S": "the small mix: few tensors get more bits",
    "_M": "the middle mix: some tensors get more bits",
    "_L": "the large mix: many tensors get more bits",
    "_XL": "the largest mix: embedding and output keep 8 bits or so",
}
_FLOATS = {"F16", "BF16", "F32"}
_K_MIX = re.compile(r"(Q\d_K)(_XXS|_XS|_S|_M|_L|_XL)?")
_SIZES = ("_XXS", "_XS", "_S", "_M", "_L", "_XL")


@dataclass(frozen=True)
class DecodedName:
    """What a file name says; empty or None where it says nothing. `words` are sentences, harmless for a terminal."""

    level: str
    known: bool
    parameters: str
    active: str
    shard: int | None
    shards: int | None
    dynamic: bool
    imatrix: bool
    projector: bool
    words: tuple[str, ...]

    @property
    def nearest(self) -> str:
        """The known level to judge it by: Q4_K_M for a publisher's Q4_K_XL; "" if none is like it."""
        return nearest_level(self.level)


def nearest_level(level: str) -> str:
    """The known level nearest to a publisher's own mix of K types, a known one itself, "" for anything else.

    Other programs' types that are named alike (IQ4_K) and layouts that are read no more (Q4_0_4_8) are like none.
    """
    known = data.levels()
    mix = _K_MIX.fullmatch(level)
    if level in known or not mix:
        return level if level in known else ""
    # Where a type has one mix only, it bears no size; Q8_K itself is never stored.
    plain = "Q8_0" if mix[1] == "Q8_K" else mix[1]
    mixes = [f"{mix[1]}{size}" for size in _SIZES]
    mixes = [name if size != "_M" or name in known else plain for name, size in zip(mixes, _SIZES, strict=True)]
    wanted = _SIZES.index(mix[2] or "_M")
    near = sorted(range(len(mixes)), key=lambda number: abs(number - wanted))
    return next((mixes[number] for number in near if mixes[number] in known), "")


def decode_name(name: str) -> DecodedName:
    """Decode the name of a GGUF file, with or without a folder before it. Any string will do; nothing fails."""
    stem = re.sub(r"\.gguf$", "", re.split(r"[/\\]", printable(name))[-1], flags=re.IGNORECASE)
    shard = _SHARD.search(stem)
    if shard:
        stem = stem[: shard.start()]
    found = list(_LEVEL.finditer(stem))
    mark = found[-1] if found else None
    level = _canonical(mark[2]) if mark else ""
    size = _PARAMETERS.search(stem)
    decoded = DecodedName(
        level=level,
        known=level in data.levels(),
        parameters=size[1].upper().replace("X", "x") if size else "",
        active=(size[2] or "").upper() if size else "",
        shard=int(shard[1]) if shard else None,
        shards=int(shard[2]) if shard else None,
        dynamic=bool(mark and mark[1]),
        imatrix=bool(_IMATRIX.search(stem)),
        projector=bool(_PROJECTOR.search(stem)),
        words=(),
    )
    return DecodedName(**{**vars(decoded), "words": tuple(_words(decoded))})


def _canonical(mark: str) -> str:
    level = mark.upper().replace("FP16", "F16").replace("FP32", "F32")
    level = ALIASES.get(level, level)
    return "MXFP4_MOE" if level == "MXFP4" else level


def _words(decoded: DecodedName) -> list[str]:
    words = []
    if decoded.projector:
        words.append(
            "This is the projector of a vision model (mmproj): it goes with a language model, and cannot chat alone."
        )
    if decoded.level:
        words.append(f"{decoded.level}: {explain_level(decoded.level)}.")
    else:
        words.append("The name does not say how the weights are quantized.")
    if decoded.dynamic:
        words.append(
            "UD- marks Unsloth Dynamic: types chosen layer by layer for this model, so sizes differ from the usual mix."
        )
    if decoded.imatrix:
        words.append("It was made with an importance matrix.")
    if decoded.parameters:
        active = f", of which {decoded.active} are used for each token" if decoded.active else ""
        words.append(f"The model has {decoded.parameters} weights{active} (B: billions, M: millions).")
    if decoded.shards is not None:
        words.append(
            f"It is part {decoded.shard} of {decoded.shards}: all parts are needed, and the first one is opened."
        )
    return words


def explain_level(level: str) -> str:
    """A level's name taken apart, known or not: method, bits, variant."""
    facts = data.levels().get(level)
    if level in _FLOATS and facts:
        return facts.words
    match = re.match(r"(IQ|TQ|Q)(\d)((?:_[A-Z0-9]+)*)$", level)
    if not match:
        return facts.words if facts else "a level that this program does not know"
    parts = [f"about {match[2]} bits a weight", _PARTS[match[1]]]
    parts += [_PARTS[f"_{part}"] for part in match[3].split("_")[1:] if f"_{part}" in _PARTS]
    return ", ".join(parts)
