"""The footer with the keys of a room."""

from __future__ import annotations

from textual.widgets import Footer


class Keys(Footer):
    """A footer that is made anew only when it has something new to say.

    Textual makes it anew whenever a room is entered or the focus moves, which is a fifth of the work of a key press.
    """

    def __init__(self) -> None:
        super().__init__(show_command_palette=False, compact=True)
        self._said: list[tuple[object, ...]] = []

    async def recompose(self) -> None:
        """Compare first; nothing happens if keys, words and what is enabled are as they were."""
        says: list[tuple[object, ...]] = [
            (active.binding, active.enabled, active.tooltip)
            for active in self.screen.active_bindings.values()
            if active.binding.show
        ]
        if says != self._said:
            self._said = says
            await super().recompose()
