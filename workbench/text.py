"""Text for people: units, durations, and strings that came from outside made harmless for a terminal."""

from __future__ import annotations

import math
import unicodedata

_CONTROL = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_HARMLESS = {"\n", "\t", "\u200c", "\u200d"}  # line, tab, and the joiners that scripts and emoji need


def printable(text: str) -> str:
    """`text` without anything that could steer a terminal: escape sequences, direction marks, other controls."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in _HARMLESS or unicodedata.category(c) not in _CONTROL else "\ufffd" for c in text)


def shortened(text: str, room: int) -> str:
    """The text in at most `room` characters: without its middle if it is longer, since names differ at both ends."""
    if len(text) <= room:
        return text
    tail = (room - 1) // 2
    return f"{text[: room - 1 - tail]}…{text[len(text) - tail :]}"


def size(n_bytes: float) -> str:
    """Bytes with three significant digits in binary units, as llama.cpp counts: 4.68 GiB; "?" for no number."""
    if not math.isfinite(n_bytes):
        return "?"
    value, unit = float(n_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 999.5:
            break
        value, unit = value / 1024, larger
    if unit == "B":
        return f"{value:.0f} B"
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 85 ms, 4.2 s, 3 min 20 s, 2 h 05 min, 3 d 4 h; "?" for what is no duration."""
    if not 0 <= seconds < math.inf:
        return "?"
    if seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def count(n: float) -> str:
    """A number of weights as the field writes it: 8.03 B, 4.46 M, 512; "?" for what is no number."""
    if not math.isfinite(n):
        return "?"
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        # What would round to 1000.00 of the smaller unit is 1.00 of this one.
        if abs(n) >= limit * (1 if unit == "K" else 0.999995):
            return f"{n / limit:.2f} {unit}"
    return f"{n:.0f}"


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int:
    """A number with an optional unit: 32K is 32,768; 16G, 16 GiB and 16GB are the same, as memory is sold that way.

    ValueError with a sentence if it is none.
    """
    number = text.strip().upper().removesuffix("B").removesuffix("I").strip().replace(",", "")
    unit = number[-1:] if number[-1:] in _UNITS else ""
    try:
        value = int(float(number.removesuffix(unit)) * _UNITS[unit])
    except (ValueError, OverflowError):
        raise ValueError(f"{printable(text)!r} is not a number; write for example 8192, 32K or 16G") from None
    if value < 0:
        raise ValueError("it cannot be negative")
    return value
