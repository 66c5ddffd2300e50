"""Keys one after the other: each takes effect before the next is looked at.

A slow line brings several keys at once. Textual hands each to what has the keys at that instant, so those behind a key
that opens a sheet, enters a room or moves the focus would go where the focus was before.
"""

from __future__ import annotations

import asyncio

from textual.app import App
from textual.events import Event, Key, Paste
from textual.message_pump import MessagePump

PATIENCE = 1.0
"""Seconds that a key waits for a part of the screen that is busy with the one before."""


class KeysInTurn(App[None]):
    """An app that holds keys (and pastes) back until the ones before them are done with."""

    def __init__(self, ansi_color: bool | None = None) -> None:
        super().__init__(ansi_color=ansi_color)
        self._typed: asyncio.Queue[Key | Paste] = asyncio.Queue()
        self._due: Event | None = None

    def on_mount(self) -> None:
        """Begin to take keys."""
        self.run_worker(self._take_keys())

    async def on_event(self, event: Event) -> None:
        """Queue what was typed; act on everything else, and on what was typed when it is due."""
        if isinstance(event, Key | Paste) and not event.is_forwarded and event is not self._due:
            self._typed.put_nowait(event)
        else:
            await super().on_event(event)

    async def _take_keys(self) -> None:
        while True:
            self._due = await self._typed.get()
            self.post_message(self._due)
            await _reached(self)
            await self._wait_until_settled()

    async def _wait_until_settled(self) -> None:
        """Come back when the last key, what it led to, and a sheet or room that it opened are done with.

        Messages climb from what has the focus up to the app, each waiting its turn at every step. A first visit on
        that way comes behind the key, a second one behind what the key made the parts say to one another.
        """
        before = None
        while (target := self.focused or self.screen) is not before:
            before = target
            for _ in range(2):
                for node in target.ancestors_with_self:
                    await _reached(node)


async def _reached(node: MessagePump) -> None:
    """Come back when a part of the screen has nothing before us left to do, or is gone, or does not come to it."""
    turn = asyncio.Event()
    if node.call_later(turn.set):
        try:
            await asyncio.wait_for(turn.wait(), PATIENCE)
        except asyncio.TimeoutError:
            return
