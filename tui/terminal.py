"""What a command says: words for people, or exactly one JSON document for scripts."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from ..workbench.text import printable
from .describe import one_line

PLAIN_PROGRESS_SECONDS = 10.0


class Terminal:
    """Standard output and error of one command.

    With `as_json` the one document goes to standard output and every word to standard error, so that a pipe gets
    nothing but the document.
    """

    def __init__(self, as_json: bool = False, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self.as_json = as_json
        self._stdout = stdout or sys.stdout
        self._stderr = stderr or sys.stderr
        self._words = self._stderr if as_json else self._stdout
        self._progress_open = False
        self._progress_at = time.monotonic()

    def say(self, text: str = "") -> None:
        """A line of words; control characters in it are made harmless."""
        self._end_progress()
        print(printable(text), file=self._words, flush=True)

    def warn(self, text: str) -> None:
        """A line on standard error, whatever the mode."""
        self._end_progress()
        print(f"quantdeck: {printable(text)}", file=self._stderr, flush=True)

    def stream(self, text: str) -> None:
        """A piece of a line, at once: an answer as it comes."""
        self._end_progress()
        print(printable(text), end="", file=self._words, flush=True)

    def heading(self, text: str) -> None:
        """A heading, bold where the terminal can, with an empty line above it."""
        self._end_progress()
        line = printable(text)
        print(f"\n\x1b[1m{line}\x1b[0m" if self._styled(self._words) else f"\n{line}", file=self._words, flush=True)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
        """Aligned columns; those whose numbers are in `right` are aligned to the right."""
        lines = [list(header), *[[one_line(cell) for cell in row] for row in rows]]
        widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
        for line in lines:
            cells = [
                c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
            ]
            self.say("  " + "  ".join(cells).rstrip())

    def facts(self, rows: Mapping[str, str]) -> None:
        """Label and value, one a line, values aligned."""
        width = max(map(len, rows), default=0)
        for label, value in rows.items():
            self.say(f"  {label.ljust(width)}  {one_line(value)}")

    def progress(self, text: str) -> None:
        """Where a long task stands: one line redrawn in place, or now and then a line in a log or pipe."""
        if self._stderr.isatty():
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{printable(text)[:width]}", end="", file=self._stderr, flush=True)
            self._progress_open = True
        elif time.monotonic() - self._progress_at >= PLAIN_PROGRESS_SECONDS:
            self._progress_at = time.monotonic()
            print(printable(text), file=self._stderr, flush=True)

    def log(self, text: str) -> None:
        """A line that only a log or a pipe gets: on a terminal the line that is redrawn in place says enough."""
        if not self._stderr.isatty():
            print(printable(text), file=self._stderr, flush=True)

    def document(self, content: Any) -> None:
        """The one JSON document, if that is what was asked for."""
        if self.as_json:
            self._end_progress()
            print(json.dumps(content, indent=2, ensure_ascii=True, default=str), file=self._stdout, flush=True)

    def _end_progress(self) -> None:
        if self._progress_open:
            print("\r\x1b[K", end="", file=self._stderr, flush=True)
            self._progress_open = False

    @staticmethod
    def _styled(stream: TextIO) -> bool:
        return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
