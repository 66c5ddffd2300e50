"""Colour themes from TOML files: ours and the user's, checked when they are read, each on its own."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .text import printable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from importlib.abc import Traversable

_LARGEST_FILE = 1 << 18
_LONGEST_NAME = 40
_STYLES = {"none", "bold", "underline", "reverse", "italic"}
_HUES = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
ANSI_COLOURS = ("ansi_default", *(f"ansi_{hue}" for hue in _HUES), *(f"ansi_bright_{hue}" for hue in _HUES))


@dataclass(frozen=True)
class Colours:
    """What each colour is for: `#rrggbb`, or a name in ANSI_COLOURS in a theme for 16 colours.

    Grounds are `background` (the screen), `surface` (what lies on it), `panel` (bars), `cursor` (the chosen row) and
    `selection` (marked text). All others are text on any of them, except `cursor_text`, which is for `cursor` alone,
    and `border`. `fit_ok`, `fit_tight` and `fit_no` say whether a model fits into memory. Colours that a file leaves
    out follow the one that `_FOLLOWS` names.
    """

    background: str
    foreground: str
    primary: str
    success: str
    warning: str
    error: str
    surface: str
    panel: str
    muted: str
    secondary: str
    accent: str
    border: str
    cursor: str
    cursor_text: str
    selection: str
    fit_ok: str
    fit_tight: str
    fit_no: str


_FOLLOWS = {
    "surface": "background",
    "panel": "surface",
    "muted": "foreground",
    "secondary": "primary",
    "accent": "secondary",
    "border": "primary",
    "cursor": "panel",
    "cursor_text": "foreground",
    "selection": "cursor",
    "fit_ok": "success",
    "fit_tight": "warning",
    "fit_no": "error",
}


@dataclass(frozen=True)
class Theme:
    """One theme. `ansi` means the terminal's own 16 colours; `cursor_style` is how text on the cursor stands out."""

    name: str
    description: str
    colours: Colours
    dark: bool = True
    ansi: bool = False
    cursor_style: str = "bold"


@dataclass(frozen=True)
class Problem:
    """Why a theme file was left out, for a person: where, and what to write instead."""

    file: str
    key: str
    advice: str

    def __str__(self) -> str:
        advice = self.advice if self.advice.endswith(("?", ".")) else f"{self.advice}."
        return printable(f"{self.file}: {self.key} {advice}" if self.key else f"{self.file}: {advice}")


@dataclass(frozen=True)
class LoadedThemes:
    """The good themes in the order of their folders and file names, and what was wrong with the others."""

    themes: tuple[Theme, ...]
    problems: tuple[Problem, ...]

    def get(self, name: str) -> Theme | None:
        """The theme of this name."""
        return next((theme for theme in self.themes if theme.name == name), None)


def builtin_folder() -> Traversable:
    """Our own themes, wherever the package is installed."""
    return files(__package__.rpartition(".")[0]).joinpath("themes")


def load_themes(folders: Iterable[Traversable]) -> LoadedThemes:
    """Every `*.toml` in the folders; a theme of a later folder replaces an earlier one of the same name.

    Never raises: a folder that is not there has no themes, and a bad file is left out with its problems.
    """
    themes: dict[str, Theme] = {}
    problems: list[Problem] = []
    for folder in folders:
        seen: dict[str, str] = {}
        for file in _theme_files(folder, problems):
            theme = _load(file, problems)
            if theme is None:
                continue
            if theme.name in seen:
                advice = f'must differ from that of {seen[theme.name]}, which is "{theme.name}" too'
                problems.append(Problem(file.name, "name", advice))
                continue
            seen[theme.name] = file.name
            themes[theme.name] = theme
    return LoadedThemes(tuple(themes.values()), tuple(problems))


def parse_theme(text: str, file: str) -> tuple[Theme | None, list[Problem]]:
    """A theme from TOML, or None and everything that is wrong with it. `file` is the name to put into problems."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        return None, [Problem(file, "", f"it is not TOML: {error}".rstrip("."))]
    problems: list[Problem] = []

    def wrong(key: str, advice: str) -> None:
        problems.append(Problem(file, key, advice))

    known = {"name": str, "description": str, "dark": bool, "ansi": bool, "cursor_style": str, "colours": dict}
    values = {key: table[key] for key in known if key in table}
    for key, kind in known.items():
        if key in values and not isinstance(values[key], kind):
            wrong(key, {str: "must be text in quotes", bool: "must be true or false", dict: "must be a table"}[kind])
            del values[key]
    _check_names(table, list(known), "", wrong)
    name = values.get("name", file.removesuffix(".toml"))
    if not 0 < len(name) <= _LONGEST_NAME or printable(name) != name or "\n" in name or name != name.strip():
        wrong("name", f"must be 1 to {_LONGEST_NAME} printable characters")
    if not set(values.get("cursor_style", "bold").split()) <= _STYLES:
        wrong("cursor_style", f"must be made of {', '.join(sorted(_STYLES))}")
    colours = _colours(values.pop("colours", {}), values.get("ansi", False), wrong)
    if problems or colours is None:
        return None, problems
    return Theme(**{"description": "", **values, "name": name, "colours": colours}), []


def _colours(table: Mapping[str, Any], ansi: bool, wrong: Any) -> Colours | None:
    """The colours of the table, those left out filled in; None if one is wrong or missing."""
    names = [field.name for field in fields(Colours) if field.default is MISSING]
    _check_names(table, names, "colours.", wrong)
    found: dict[str, str] = {}
    bad = False
    for name in names:
        value = table.get(name, found.get(_FOLLOWS.get(name, "")))
        advice = colour_problem(value, ansi)
        if advice and (name in table or name not in _FOLLOWS):
            wrong(f"colours.{name}", advice)
        bad = bad or advice is not None
        if advice is None:
            found[name] = value if value.startswith("ansi_") else value.lower()
    return None if bad else Colours(**found)


def colour_problem(value: Any, ansi: bool) -> str | None:
    """What is wrong with a colour, as advice; None for a good one."""
    if ansi:
        if value in ANSI_COLOURS:
            return None
        close = difflib.get_close_matches(str(value), ANSI_COLOURS, 1) if isinstance(value, str) else []
        return f"must be one of {', '.join(ANSI_COLOURS)}" + (f'; did you mean "{close[0]}"?' if close else "")
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return None
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{3}", value):
        return f'must have six digits: write "#{"".join(2 * digit for digit in value[1:])}"'
    if value in ANSI_COLOURS:
        return 'must be like "#1b2c3d"; names such as ansi_red need "ansi = true"'
    return 'is missing; write it like "#1b2c3d"' if value is None else 'must be like "#1b2c3d"'


def _check_names(table: Mapping[str, Any], known: list[str], where: str, wrong: Any) -> None:
    """A key that we do not know is a mistake in so small a file."""
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, [*known, "colours"], 1)
            hint = f"did you mean {where}{close[0]}?" if close else f"known are {', '.join(known)}"
            wrong(f"{where}{printable(key)[:60]}", f"is not known; {hint}")


def _theme_files(folder: Traversable, problems: list[Problem]) -> list[Traversable]:
    try:
        if not folder.is_dir():
            return []
        return sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    except OSError as error:
        problems.append(Problem(str(folder), "", f"the folder cannot be read: {error.strerror}"))
        return []


def _load(file: Traversable, problems: list[Problem]) -> Theme | None:
    try:
        if not file.is_file():
            raise ValueError("it is no file")
        if isinstance(file, Path) and file.stat().st_size > _LARGEST_FILE:
            raise ValueError("it is too large for a theme")
        text = file.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        reason = (error.strerror or reason) if isinstance(error, OSError) else reason
        problems.append(Problem(file.name, "", reason))
        return None
    theme, wrong = parse_theme(text, file.name)
    problems.extend(wrong)
    return theme
