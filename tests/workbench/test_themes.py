"""Themes: the built-in ones are readable everywhere, and no file of a user can stop the start."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.color import Color as RichColor
from rich.color import ColorSystem
from textual.app import App, ComposeResult
from textual.color import Color
from textual.widgets import DataTable, Footer, Input, OptionList

from quantdeck.tui.theme import DARK, PLAIN, SIXTEEN, builtin_themes, default_theme, textual_theme
from quantdeck.workbench.themes import (
    ANSI_COLOURS,
    Colours,
    builtin_folder,
    colour_problem,
    load_themes,
    parse_theme,
)

BUILTIN = load_themes([builtin_folder()])
NAMES = [theme.name for theme in BUILTIN.themes]
TRUE_COLOUR = [theme for theme in BUILTIN.themes if not theme.ansi]

GROUNDS = ("background", "surface", "panel", "cursor", "selection")
TEXTS = (
    "foreground", "primary", "secondary", "accent", "success", "warning", "error", "fit_ok", "fit_tight", "fit_no",
)  # fmt: skip
PAIRS = [(text, ground) for text in (*TEXTS, "muted") for ground in GROUNDS] + [("cursor_text", "cursor")]

# The consoles' own sixteen: Linux (VGA) and xterm.
CONSOLES = {
    "linux": "000000 aa0000 00aa00 aa5500 0000aa aa00aa 00aaaa aaaaaa "
    "555555 ff5555 55ff55 ffff55 5555ff ff55ff 55ffff ffffff",
    "xterm": "000000 cd0000 00cd00 cdcd00 0000ee cd00cd 00cdcd e5e5e5 "
    "7f7f7f ff0000 00ff00 ffff00 5c5cff ff00ff 00ffff ffffff",
}


def rgb(colour: str) -> tuple[int, int, int]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def to_256(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """What a terminal of 256 colours shows, by the arithmetic that Textual's driver uses."""
    return tuple(RichColor.from_rgb(*colour).downgrade(ColorSystem.EIGHT_BIT).get_truecolor())


def linear(colour: tuple[int, int, int]) -> np.ndarray:
    """sRGB to linear light (IEC 61966-2-1)."""
    value = np.array(colour) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """WCAG 2.1: (lighter + 0.05) / (darker + 0.05) of the relative luminances."""
    bright, dark = sorted((float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_there_are_the_promised_themes():
    assert BUILTIN.problems == ()
    assert {DARK, PLAIN, SIXTEEN} <= set(NAMES)
    assert len(NAMES) == len(set(NAMES)) >= 5
    assert any(not theme.dark for theme in BUILTIN.themes)
    assert all(theme.description.endswith(".") and len(theme.description) < 90 for theme in BUILTIN.themes)


def test_contrast_knows_the_extremes():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("depth", [lambda c: c, to_256], ids=["16M", "256"])
@pytest.mark.parametrize("theme", TRUE_COLOUR, ids=lambda theme: theme.name)
def test_every_text_is_readable_on_every_ground(theme, depth):
    least = 7.0 if theme.name == "Beacon" else 4.5
    for text, ground in PAIRS:
        pair = [depth(rgb(getattr(theme.colours, name))) for name in (text, ground)]
        wanted = 3.0 if text == "muted" and least < 7 else least
        assert contrast(*pair) >= wanted, (text, ground, pair)
    border, background = (depth(rgb(getattr(theme.colours, name))) for name in ("border", "background"))
    assert contrast(border, background) >= 3.0


@pytest.mark.parametrize("theme", TRUE_COLOUR, ids=lambda theme: theme.name)
def test_the_cursor_shows_after_the_downgrade(theme):
    grounds = {to_256(rgb(getattr(theme.colours, name))) for name in ("background", "surface", "panel")}
    assert to_256(rgb(theme.colours.cursor)) not in grounds
    assert to_256(rgb(theme.colours.selection)) not in grounds


# Machado, Oliveira, Fernandes 2009, severity 1.0, for linear RGB.
DEFICIENCIES = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
    "none": np.eye(3),
}


def lab(light: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of linear RGB."""
    matrix = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    ratio = np.array(matrix) @ light / [0.95047, 1.0, 1.08883]
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("group", [("fit_ok", "fit_tight", "fit_no"), ("success", "warning", "error")])
@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_atoll_tells_its_three_states_apart_for_everybody(deficiency, group):
    colours = BUILTIN.get("Atoll").colours
    matrix = np.array(DEFICIENCIES[deficiency])
    seen = [lab(np.clip(matrix @ linear(rgb(getattr(colours, name))), 0, 1)) for name in group]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(seen[one] - seen[other]) >= 20


@pytest.mark.parametrize("console", CONSOLES)
def test_sixteen_colours_are_readable_on_plain_consoles(console):
    palette = dict(zip(ANSI_COLOURS[1:], (rgb(f"#{c}") for c in CONSOLES[console].split()), strict=True))
    colours = BUILTIN.get(SIXTEEN).colours
    assert all(getattr(colours, field.name) in palette for field in fields(Colours))
    for text, ground in PAIRS:
        if ground == "selection" and text != "foreground":
            continue  # marked text is shown in the foreground colour
        pair = palette[getattr(colours, text)], palette[getattr(colours, ground)]
        assert contrast(*pair) >= 4.5, (text, ground)


def test_plain_has_no_colour():
    theme = BUILTIN.get(PLAIN)
    assert {getattr(theme.colours, field.name) for field in fields(Colours)} == {"ansi_default"}
    assert "reverse" in theme.cursor_style


class Gallery(App[None]):
    """Something of everything that takes its colours from variables."""

    CSS = ".x { color: $fit-ok; } .y { color: $fit-tight; } .z { color: $fit-no; } Input { border: round $border; }"
    BINDINGS: ClassVar = [("x", "bell", "Ring")]

    def compose(self) -> ComposeResult:
        yield OptionList("one", "two")
        yield DataTable()
        yield Input("text")
        yield Footer()


async def test_every_theme_can_be_put_on(monkeypatch):
    app = Gallery()
    for theme in BUILTIN.themes:
        app.register_theme(textual_theme(theme))
    app.theme = DARK
    async with app.run_test() as pilot:
        for theme in BUILTIN.themes:
            app.theme = theme.name
            await pilot.pause()
            variables = app.get_css_variables()
            assert variables["text-error"] == theme.colours.error
            assert variables["fit-tight"] == theme.colours.fit_tight
            if not theme.ansi:
                assert app.screen.styles.background == Color.parse(theme.colours.background)


async def test_plain_sends_no_colour():
    app = Gallery(ansi_color=True)
    app.register_theme(textual_theme(BUILTIN.get(PLAIN)))
    app.theme = PLAIN
    async with app.run_test() as pilot:
        await pilot.pause()
        styles = [segment.style for strip in app.screen._compositor.render_strips() for segment in strip]
        colours = [colour for style in styles if style for colour in (style.color, style.bgcolor) if colour]
        assert any(style and style.reverse for style in styles)
        assert {colour.name for colour in colours} <= {"default"}


@pytest.mark.parametrize("theme", TRUE_COLOUR, ids=lambda theme: theme.name)
def test_every_pair_of_textuals_own_variables_is_readable(theme):
    """What Textual derives, or leaves to us, for the widgets that we use: resolved, and measured again."""
    made = textual_theme(theme)
    variables = {**made.to_color_system().generate(), **made.variables}
    pairs = [
        ("block-cursor-foreground", "block-cursor-background"),
        ("block-cursor-blurred-foreground", "block-cursor-blurred-background"),
        ("foreground", "block-hover-background"),
        ("footer-key-foreground", "footer-background"),
        ("footer-description-foreground", "footer-background"),
        ("input-cursor-foreground", "input-cursor-background"),
        ("input-selection-foreground", "input-selection-background"),
        ("screen-selection-foreground", "screen-selection-background"),
        ("text", "surface-active"),
        ("link-color", "background"),
        ("link-color-hover", "link-background-hover"),
        *[(f"text-{name}", "background") for name in ("primary", "secondary", "accent", "success", "warning", "error")],
        *[(f"markdown-h{level}-color", "background") for level in range(1, 7)],
        *[("button-color-foreground", name) for name in ("primary", "success", "warning", "error")],
    ]
    for text, ground in pairs:
        for depth in (lambda c: c, to_256):
            pair = [depth(Color.parse(variables[name]).rgb) for name in (text, ground)]
            wanted = 3.0 if variables[text] == theme.colours.muted else 4.5
            assert contrast(*pair) >= wanted, (text, ground, variables[text], variables[ground])


GOOD = """
[colours]
background = "#000000"
foreground = "#ffffff"
primary = "#00ffff"
success = "#00ff00"
warning = "#ffff00"
error = "#FF8888"
"""


def write(folder: Path, name: str, content: str | bytes) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def test_a_small_theme_is_enough(tmp_path):
    write(tmp_path, "mine.toml", GOOD)
    loaded = load_themes([tmp_path])
    (theme,) = loaded.themes
    assert loaded.problems == ()
    assert (theme.name, theme.dark, theme.ansi) == ("mine", True, False)
    assert theme.colours.fit_no == theme.colours.error == "#ff8888"
    assert theme.colours.cursor == theme.colours.panel == theme.colours.surface == "#000000"


def test_users_theme_replaces_ours_of_the_same_name(tmp_path):
    write(tmp_path, "x.toml", f'name = "{DARK}"\n{GOOD}')
    loaded = builtin_themes(tmp_path)
    assert loaded.problems == ()
    assert loaded.get(DARK).colours.foreground == "#ffffff"
    assert [theme.name for theme in loaded.themes] == NAMES


def test_two_of_one_name_in_one_folder(tmp_path):
    write(tmp_path, "a.toml", f"name = 'x'\n{GOOD}")
    write(tmp_path, "b.toml", f"name = 'x'\n{GOOD}")
    loaded = load_themes([tmp_path])
    assert len(loaded.themes) == 1
    assert str(loaded.problems[0]).startswith("b.toml: name must differ from that of a.toml")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('"#000000"', '"black"'), 'colours.background must be like "#1b2c3d"'),
        (('"#000000"', '"#123"'), 'colours.background must have six digits: write "#112233"'),
        (('"#000000"', '"#12345g"'), 'colours.background must be like "#1b2c3d"'),
        (('"#000000"', "3"), 'colours.background must be like "#1b2c3d"'),
        (('"#000000"', '"ansi_red"'), "ansi = true"),
        (('error = "#FF8888"', ""), "colours.error is missing"),
        (("error =", "eror ="), "colours.eror is not known; did you mean colours.error?"),
        (("[colours]", "[colors]"), "colors is not known; did you mean colours?"),
        (("[colours]", "dark = 1\n[colours]"), "dark must be true or false"),
        (("[colours]", "name = 3\n[colours]"), "name must be text in quotes"),
        (("[colours]", "name = ''\n[colours]"), "name must be 1 to 40 printable characters"),
        (("[colours]", 'name = "\\u001b[2J"\n[colours]'), "name must be 1 to 40 printable characters"),
        (("[colours]", "cursor_style = 'blink'\n[colours]"), "cursor_style must be made of bold"),
        (("[colours]", "ansi = true\n[colours]"), "must be one of ansi_default"),
        ((GOOD, 'ansi = true\n[colours]\nbackground = "ansi_rde"'), 'did you mean "ansi_red"?'),
        ((GOOD, "colours = 3"), "colours must be a table"),
        ((GOOD, ""), "colours.background is missing"),
        ((GOOD, "["), "it is not TOML"),
        ((GOOD, "a = " + "[" * 5000), "it is not TOML"),
    ],
)
def test_a_bad_theme_says_what_to_write_and_the_others_load(tmp_path, change, words):
    write(tmp_path, "bad.toml", GOOD.replace(*change))
    write(tmp_path, "good.toml", GOOD)
    loaded = load_themes([builtin_folder(), tmp_path])
    assert [theme.name for theme in loaded.themes] == [*NAMES, "good"]
    assert all(problem.file == "bad.toml" for problem in loaded.problems)
    assert any(words in str(problem) for problem in loaded.problems)
    assert "\x1b" not in "".join(map(str, loaded.problems))


def test_strange_files(tmp_path):
    write(tmp_path, "latin.toml", b"name = '\xe9'")
    write(tmp_path, "huge.toml", b"#" * (1 << 20))
    write(tmp_path, "bom.toml", b"\xef\xbb\xbf" + GOOD.encode())
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    os.mkfifo(tmp_path / "pipe.toml")
    write(tmp_path, "notes.txt", "not a theme")
    loaded = load_themes([tmp_path, tmp_path / "not there"])
    assert [theme.name for theme in loaded.themes] == ["bom"]
    assert sorted(problem.file for problem in loaded.problems) == [
        "folder.toml", "huge.toml", "latin.toml", "loop.toml", "pipe.toml",
    ]  # fmt: skip


@given(st.text(max_size=300))
def test_any_text_is_a_theme_or_problems(text):
    theme, problems = parse_theme(text, "x.toml")
    assert (theme is None) == bool(problems)


@given(st.from_regex(r"#[0-9a-fA-F]{6}", fullmatch=True))
def test_every_good_colour_is_one_for_textual_too(colour):
    assert colour_problem(colour, ansi=False) is None
    assert Color.parse(colour).hex6.lower() == colour.lower()


@pytest.mark.parametrize("name", ANSI_COLOURS)
def test_every_ansi_name_is_one_for_textual_too(name):
    assert colour_problem(name, ansi=True) is None
    assert Color.parse(name).ansi is not None


@pytest.mark.parametrize(
    ("chosen", "environ", "expected"),
    [
        ("", {"TERM": "xterm-256color"}, DARK),
        ("Paper", {"TERM": "xterm-256color"}, "Paper"),
        ("gone", {"TERM": "xterm-256color"}, DARK),
        ("", {"TERM": "linux"}, SIXTEEN),
        ("Paper", {"TERM": "linux"}, "Paper"),
        ("", {"TERM": "xterm", "COLORTERM": "truecolor"}, DARK),
        ("Paper", {"NO_COLOR": "1"}, PLAIN),
        ("", {"NO_COLOR": ""}, DARK),
    ],
)
def test_which_theme_to_start_with(chosen, environ, expected):
    assert default_theme(chosen, BUILTIN, environ) == expected
