"""Text for people, and text that cannot steer a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantdeck.workbench.text import count, duration, parse_size, printable, shortened, size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("", ""),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[2Jgone", "\ufffd[2Jgone"),
        ("\x9b31m", "\ufffd31m"),
        ("a\rb", "a\ufffdb"),
        ("a\x08b\x7f", "a\ufffdb\ufffd"),
        ("abc\u202egpj.exe", "abc\ufffdgpj.exe"),
        ("\u2066x\u2069", "\ufffdx\ufffd"),
        ("\ufeffx", "\ufffdx"),
        ("file\udcff", "file\ufffd"),
        ("\u2028\u2029", "\ufffd\ufffd"),
        ("\U000e0041", "\ufffd"),
        ("\x00", "\ufffd"),
        ("Grüße 你好 مرحبا", "Grüße 你好 مرحبا"),
        ("👩\u200d👧 می\u200cخواهم", "👩\u200d👧 می\u200cخواهم"),
        ("no-break\u00a0space", "no-break\u00a0space"),
    ],
)
def test_printable(text, expected):
    assert printable(text) == expected


@given(st.text())
def test_nothing_printable_controls_a_terminal(text):
    shown = printable(text)
    assert len(shown) == len(text)
    assert printable(shown) == shown
    assert not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in shown)
    shown.encode()


@pytest.mark.parametrize(
    ("n_bytes", "expected"),
    [
        (0, "0 B"), (1, "1 B"), (999, "999 B"), (1000, "0.98 KiB"), (1023, "1.00 KiB"), (1024, "1.00 KiB"),
        (10 * 1024, "10.0 KiB"), (100 * 1024, "100 KiB"), (1 << 20, "1.00 MiB"), (5_024_000_000, "4.68 GiB"),
        (999.4 * (1 << 20), "999 MiB"), (999.6 * (1 << 20), "0.98 GiB"), (-3 << 30, "-3.00 GiB"),
        (3 << 50, "3072 TiB"), (9.996 * 1024, "10.0 KiB"), (99.96 * 1024, "100 KiB"),
    ],
)  # fmt: skip
def test_size(n_bytes, expected):
    assert size(n_bytes) == expected


@given(st.text(max_size=30), st.integers(3, 30))
def test_shortened_keeps_both_ends(text, room):
    short = shortened(text, room)
    assert len(short) == min(len(text), room)
    if short != text:
        begin, end = short.split("…", 1) if text.count("…") == 0 else (short[: room // 2], short[room // 2 + 1 :])
        assert text.startswith(begin) and text.endswith(end) and abs(len(begin) - len(end)) <= 1


@given(st.floats(0, 1e15))
def test_size_has_about_three_digits_and_the_right_value(n_bytes):
    number, unit = size(n_bytes).split()
    factor = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}[unit]
    assert float(number) * factor == pytest.approx(n_bytes, rel=0.006, abs=0.5)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 ms"), (0.085, "85 ms"), (0.0994, "99 ms"), (0.0996, "0.1 s"),
        (4.2, "4.2 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"),
        (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3599.4, "59 min 59 s"), (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"), (86399, "23 h 59 min"), (86400, "1 d 0 h"), (3.2 * 86400, "3 d 4 h"),
    ],
)  # fmt: skip
def test_duration(seconds, expected):
    assert duration(seconds) == expected


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), -5.0])
def test_duration_of_what_is_no_duration(seconds):
    assert duration(seconds) == "?"


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_sizes_and_counts_of_what_is_no_number(value):
    assert size(value) == "?"
    assert count(value) == "?"


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (0, "0"), (512, "512"), (999, "999"), (1000, "1.00 K"), (999_994, "999.99 K"), (999_999, "1.00 M"),
        (4_460_000, "4.46 M"), (8_030_261_248, "8.03 B"), (1.04e12, "1.04 T"), (999_999_999, "1.00 B"),
    ],
)  # fmt: skip
def test_count(n, expected):
    assert count(n) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8192", 8192), ("0", 0), ("16G", 16 << 30), (" 16 GB ", 16 << 30), ("16gib", 16 << 30), ("32k", 32 << 10),
        ("1.5 MiB", 3 << 19), (".5g", 1 << 29), ("7 B", 7), ("2TiB", 2 << 40), ("1,024", 1024),
    ],
)  # fmt: skip
def test_parse_size(text, expected):
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    "text", ["", " ", "G", "12 apples", "1.2.3", "16 GiBs", "\x1b[2J", "nan", "inf", "-1", "1e999"]
)
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match=r"is not a number|cannot be negative") as caught:
        parse_size(text)
    assert "\x1b" not in str(caught.value)


@given(st.integers(0, 1 << 50))
def test_a_shown_size_can_be_typed_back(n_bytes):
    assert parse_size(size(n_bytes)) == pytest.approx(n_bytes, rel=0.006, abs=1)
