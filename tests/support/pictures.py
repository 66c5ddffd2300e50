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


async def draw(folder: Path, size: tuple[int, int], theme: str | None) -> None:
    """Walk from the first screen to an answer, and keep a picture of each room."""
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

        def keep(name: str) -> None:
            (folder / f"{name}.svg").write_text(app.export_screenshot(title="quantdeck"), encoding="utf-8")

        await until("usable of")
        keep("machine")
        await pilot.press("enter", "enter")
        await until("Which machine")
        await pilot.press("enter")
        await until("What matters")
        keep("question")
        await pilot.press("enter")
        await until("How long")
        await pilot.press("enter")
        await until("recommended")
        keep("result")
        await pilot.press("w")
        await until("The way here")
        keep("why")
        await pilot.press("escape", "enter")
        await until("begins")
        keep("plan")
        await pilot.press("enter")
        await until("talks to it")
        keep("jobs")
        await pilot.press("enter")
        await until("512 tokens")
        await pilot.press(*"What is Q4_K_M?")
        await pilot.press("enter")
        await until("tokens/s ·")
        keep("chat")
        await pilot.press("ctrl+s")
        await until("Chat settings")
        keep("settings")
        await pilot.press("escape", "ctrl+t")
        await until("answers are")
        keep("smoke")
        await pilot.press("escape", "6")
        await until("verified")
        keep("library")
        await pilot.press("question_mark")
        await until("Keys everywhere")
        keep("help")


if __name__ == "__main__":
    columns, rows = map(int, (sys.argv[2] if len(sys.argv) > 2 else "80x24").split("x"))
    with tempfile.TemporaryDirectory() as home:
        os.environ["QUANTDECK_HOME"] = home
        asyncio.run(draw(Path(sys.argv[1]), (columns, rows), sys.argv[3] if len(sys.argv) > 3 else None))
