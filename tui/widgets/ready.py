"""The wizard's first answer: whether somebody has made a quantization that fits already."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from textual.message import Message
from textual.widgets import Static

from ...workbench.errors import QuantdeckError
from ...workbench.session import Session
from ...workbench.text import printable
from ..fault import sentence
from ..hub_words import ready_cells, ready_words
from .grid import Row

if TYPE_CHECKING:
    from ...workbench.advice import Advice, Walk
    from ...workbench.hub import Pick, ReadyMade

KEY = "ready:"
MOST_ROWS = 2


class ReadyMadeLine(Static):
    """One line that fills in while the user answers questions; `picks` are the files to take, the best first."""

    class Told(Message):
        """The Hub has answered."""

    def __init__(self, session: Session, id: str | None = None) -> None:
        super().__init__("", id=id, markup=False)
        self.display = False
        self._session = session
        self._stop = threading.Event()
        self._found: ReadyMade | None = None
        self.picks: tuple[Pick, ...] = ()

    def look_for(self, walk: Walk, repository: str) -> None:
        """Begin to look for the model of `walk`, which was named by `repository` on the Hub, or is a file here ("").

        What was looked for before is dropped. The thread is one that nobody waits for: a Hub that hangs must not keep
        the program from ending.
        """
        self.forget()
        stop, app = self._stop, self.app

        def tell(found: ReadyMade | None, words: str) -> None:
            with suppress(RuntimeError):  # the program has ended meanwhile
                app.call_later(self._heard, stop, found, words)

        def work() -> None:
            try:
                if origin := self._session.origin(walk.estimator.model, repository):
                    tell(None, f"Looking on the Hub for ready-made quants of {origin.repository} …")
                    tell(self._session.look_for_ready_made(origin, stop.is_set), "")
            except Exception as error:
                tell(None, f"Ready-made quants are not listed: {sentence(error)}")

        threading.Thread(target=work, daemon=True).start()

    def forget(self) -> None:
        """Look no further, and show nothing."""
        self._stop.set()
        self._stop = threading.Event()
        self._found, self.picks = None, ()
        self._say("")

    def on_unmount(self) -> None:
        """Nobody looks any more."""
        self._stop.set()

    def _heard(self, stop: threading.Event, found: ReadyMade | None, words: str) -> None:
        if stop is self._stop and not stop.is_set():
            self._found = found
            self._say(words)
            self.post_message(self.Told())

    def _say(self, words: str) -> None:
        self.update(printable(words))
        self.display = bool(words)

    def fit(self, walk: Walk, advice: Advice | None = None) -> None:
        """Choose among what was found, on the machine and with the context that the walk has come to."""
        if self._found is None:
            return
        model, machine, setup = walk.estimator.model, walk.machine, walk.setup
        try:
            self.picks = self._session.ready_made(self._found, model, machine, setup, advice)
        except QuantdeckError as error:
            self.picks = ()
            self._say(f"Whether ready-made quants fit cannot be told: {error}")
            return
        self._say(ready_words(self._found, self.picks, setup.context))

    @property
    def rows(self) -> list[Row]:
        """The files to take as rows of the table of levels."""
        return [(f"{KEY}{number}", ready_cells(pick)) for number, pick in enumerate(self.picks[:MOST_ROWS])]

    def pick(self, key: str) -> Pick | None:
        """The file that a row stands for, None for the row of a level."""
        return self.picks[int(key.removeprefix(KEY))] if key.startswith(KEY) else None
