"""Our themes as Textual's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from textual.theme import Theme as TextualTheme

from ..workbench.themes import Colours, LoadedThemes, Theme, builtin_folder, load_themes

PLAIN, SIXTEEN, DARK = "Plain", "Lantern", "Harbour"

# Terminals that know 16 colours at most when nothing else says better.
_FEW_COLOURS = ("linux", "xterm", "screen", "vt100", "vt220", "ansi", "cygwin")


def builtin_themes(user_folder: Path) -> LoadedThemes:
    """Our own themes, and the user's beside them; one of the user's replaces ours of the same name."""
    return load_themes([builtin_folder(), user_folder])


def default_theme(chosen: str, themes: LoadedThemes, environ: Mapping[str, str]) -> str:
    """The theme to start with: no colour if NO_COLOR asks so, else the chosen one, else what the terminal can show."""
    if environ.get("NO_COLOR"):
        return PLAIN
    if themes.get(chosen):
        return chosen
    few = environ.get("TERM", "") in _FEW_COLOURS and not environ.get("COLORTERM")
    return SIXTEEN if few else DARK


def textual_theme(theme: Theme) -> TextualTheme:
    """The same colours under the names that Textual's widgets and our style sheet use."""
    colours = theme.colours
    return TextualTheme(
        name=theme.name,
        primary=colours.primary,
        secondary=colours.secondary,
        warning=colours.warning,
        error=colours.error,
        success=colours.success,
        accent=colours.accent,
        foreground=colours.foreground,
        background=colours.background,
        surface=colours.surface,
        panel=colours.panel,
        dark=theme.dark,
        ansi=theme.ansi,
        variables=_variables(colours, theme.cursor_style) | (_ansi_variables(colours) if theme.ansi else {}),
    )


def _variables(colours: Colours, cursor_style: str) -> dict[str, str]:
    """Textual would mix most of these from the others; fixed, they stay readable with 256 colours too."""
    return {
        "text": colours.foreground,
        "text-muted": colours.muted,
        "text-disabled": colours.muted,
        "foreground-muted": colours.muted,
        "text-primary": colours.primary,
        "text-secondary": colours.secondary,
        "text-accent": colours.accent,
        "text-success": colours.success,
        "text-warning": colours.warning,
        "text-error": colours.error,
        "fit-ok": colours.fit_ok,
        "fit-tight": colours.fit_tight,
        "fit-no": colours.fit_no,
        "border": colours.border,
        "border-blurred": colours.border,
        "block-cursor-background": colours.cursor,
        "block-cursor-foreground": colours.cursor_text,
        "block-cursor-text-style": cursor_style,
        "block-cursor-blurred-background": colours.panel,
        "block-cursor-blurred-foreground": colours.foreground,
        "block-hover-background": colours.panel,
        "input-cursor-background": colours.foreground,
        "input-cursor-foreground": colours.background,
        "input-cursor-text-style": "reverse" if colours.foreground == colours.background else "none",
        "input-selection-background": colours.selection,
        "input-selection-foreground": colours.foreground,
        "screen-selection-background": colours.selection,
        "screen-selection-foreground": colours.foreground,
        "scrollbar": colours.border,
        "scrollbar-hover": colours.primary,
        "scrollbar-active": colours.primary,
        "scrollbar-background": colours.background,
        "scrollbar-background-hover": colours.background,
        "scrollbar-background-active": colours.background,
        "scrollbar-corner-color": colours.background,
        "footer-background": colours.panel,
        "footer-foreground": colours.foreground,
        "footer-key-foreground": colours.accent,
        "footer-key-background": colours.panel,
        "footer-description-foreground": colours.foreground,
        "footer-description-background": colours.panel,
        "footer-item-background": colours.panel,
        "link-color": colours.primary,
        "link-color-hover": colours.accent,
        "link-background-hover": colours.background,
        "button-foreground": colours.foreground,
        "button-color-foreground": colours.background,
        "markdown-h1-color": colours.primary,
        "markdown-h2-color": colours.primary,
        "markdown-h3-color": colours.secondary,
        "markdown-h4-color": colours.foreground,
        "markdown-h5-color": colours.foreground,
        "markdown-h6-color": colours.muted,
    }


def _ansi_variables(colours: Colours) -> dict[str, str]:
    """What Textual's own widgets ask for under an ansi theme, and Textual does not make for one."""
    return {
        "ansi-background": colours.background,
        "ansi-foreground": colours.foreground,
        "foreground-disabled": colours.muted,
        "surface-active": colours.surface,
    }
