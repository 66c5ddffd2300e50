"""What lies over a room and is dismissed again."""

from __future__ import annotations

from typing import TypeVar

from textual.await_complete import AwaitComplete
from textual.screen import ModalScreen

Result = TypeVar("Result")


class Sheet(ModalScreen[Result]):
    """A modal screen that closes once, however many keys ask for it."""

    _was_dismissed = False

    def dismiss(self, result: Result | None = None) -> AwaitComplete:
        """Close with `result`. A key that was typed ahead may ask again before the first one has taken effect."""
        if self._was_dismissed:
            return AwaitComplete()
        self._was_dismissed = True
        return super().dismiss(result)
