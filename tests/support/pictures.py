"""Draw the workbench's rooms as SVG, for the README and for a look.

python -m support.pictures FOLDER [COLUMNSxROWS] [THEME]
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")

WALK = (
    ((), "usable of", "machine"),
    (("enter", "enter"), "Which machine", ""),
    (("enter",), "What matters", "question"),
    (("enter",), "How long", ""),
    (("enter",), "recommended", "result"),
    (("w",), "The way here", "why"),
    (("escape", "enter"), "begins", "plan"),
    (("enter",), "talks to it", "jobs"),
    (("enter",), "512 tokens", ""),
    ((*"What is Q4_K_M?", "enter"), "tokens/s ·", "chat"),
    (("ctrl+s",), "Chat settings", "settings"),
    (("escape", "ctrl+t"), "answers are", "smoke"),
    (("escape", "6"), "verified", "library"),
    (("question_mark",), "Keys here", "help"),
)
"""From the first screen to an answer: keys, words that show where they lead, and the name of the picture kept there."""


async def draw(folder: Path, size: tuple[int, int], theme: str | None) -> None:
    """Walk, and keep a picture of each room."""
    from quantdeck.tui.app import Workbench
    from quantdeck.tui.theme import builtin_themes, default_theme
    from quantdeck.workbench.session import open_session

    folder.mkdir(parents=True, exist_ok=True)
    session = open_session(os.environ)
    themes = builtin_themes(session.paths.themes)
    app = Workbench(session, themes, theme or default_theme("", themes, {}))
    async with app.run_test(size=size, notifications=True) as pilot:

        async def until(words: str, seconds: float = 60) -> None:
            for _ in range(int(seconds * 10)):
                await pilot.pause(0.1)
                if words in app.export_screenshot().replace("&#160;", " "):
                    return
            raise AssertionError(f"{words!r} did not appear")

        for keys, words, name in WALK:
            await pilot.press(*keys)
            await until(words)
            if name:
                picture = app.export_screenshot(title="quantdeck")
                (folder / f"{name}.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    columns, rows = map(int, (sys.argv[2] if len(sys.argv) > 2 else "80x24").split("x"))
    with tempfile.TemporaryDirectory() as home:
        os.environ["QUANTDECK_HOME"] = home
        asyncio.run(draw(Path(sys.argv[1]), (columns, rows), sys.argv[3] if len(sys.argv) > 3 else None))
