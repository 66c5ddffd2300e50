"""A real pseudo-terminal with a program in it, and an emulator that shows what a person would see."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyte

KEYS = {
    "enter": "\r",
    "esc": "\x1b",
    "tab": "\t",
    "backspace": "\x7f",
    "up": "\x1b[A",
    "down": "\x1b[B",
    "right": "\x1b[C",
    "left": "\x1b[D",
    "pageup": "\x1b[5~",
    "pagedown": "\x1b[6~",
    **{f"ctrl+{letter}": chr(ord(letter) - 96) for letter in "abcdefghijklmnopqrstuvwxyz"},
}


class Terminal:
    """A child on a pseudo-terminal of the given size; `presses` counts the keys that were pressed."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], columns: int = 80, rows: int = 24) -> None:
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.bytes_drawn = 0
        self.presses = 0
        self.exit_code: int | None = None
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            # The terminal's own size counts, not what a parallel test runner says of its.
            sized = {name: value for name, value in environ.items() if name not in ("COLUMNS", "LINES")}
            os.execvpe(command[0], list(command), sized)

    def pump(self, seconds: float = 0.05) -> bool:
        """Take what the program drew within `seconds`; False once it has closed the terminal."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self._fd], [], [], left)[0]:
                return True
            try:
                data = os.read(self._fd, 65536)
            except OSError:
                return False
            if not data:
                return False
            self.bytes_drawn += len(data)
            self._stream.feed(data)
        return True

    def text(self) -> str:
        """The screen as lines of text."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def wait_for(self, words: str, seconds: float = 60) -> float:
        """Wait until the screen shows `words`; returns how long that took."""
        return self.wait_until(lambda text: words in text, repr(words), seconds)

    def wait_until(self, wanted: Callable[[str], bool], what: str, seconds: float = 60) -> float:
        """Wait until the screen's text is as wanted, which is called `what`; returns how long that took."""
        start = time.monotonic()
        while not wanted(self.text()):
            assert time.monotonic() - start < seconds, f"{what} did not appear in {seconds} s on:\n{self.text()}"
            alive = self.pump(0.01)
            assert alive or wanted(self.text()), f"the program ended before {what} on:\n{self.text()}"
        took = time.monotonic() - start
        self.pump(0.1)  # the rest of the frame
        return took

    def press(self, *keys: str) -> None:
        """Press named keys or single characters, one after the other."""
        for key in keys:
            self.presses += 1
            self.send(key)
            # Escape begins every function key: a program waits a moment to see whether it is one.
            self.pump(0.3 if key == "esc" else 0.05)

    def send(self, key: str) -> None:
        """Press one key without waiting for what it does."""
        os.write(self._fd, KEYS.get(key, key).encode())

    def type(self, text: str) -> None:
        """Type a text, not counted as key presses."""
        os.write(self._fd, text.encode())
        self.pump(0.2)

    def name_to_wizard(self, model: str | Path) -> None:
        """From the first room: name a model to the wizard."""
        self.wait_for("usable of")
        self.press("2")
        self.wait_for("Find one on the Hub")
        self.press("down", "enter")
        self.wait_for("path of a GGUF")
        self.type(str(model))
        self.press("enter")

    def resize(self, columns: int, rows: int) -> None:
        """Another size of the window; the kernel tells the program."""
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)

    def close(self) -> None:
        """Pull the terminal away, as a line that drops does, and see the program end by itself."""
        os.close(self._fd)
        self._fd = -1
        for _ in range(500):
            if self._ended():
                return
            time.sleep(0.02)
        raise AssertionError("the program goes on without its terminal")

    def end(self) -> None:
        """Clean up: whatever is left goes."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if not self._ended():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def _ended(self) -> bool:
        if self.exit_code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.exit_code = os.waitstatus_to_exitcode(status)
        return self.exit_code is not None

    def wait(self, seconds: float = 10) -> int:
        """Wait for the program to end; returns its exit code."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.pump(0.05)
            if self._ended():
                assert self.exit_code is not None
                return self.exit_code
        raise AssertionError(f"the program did not end in {seconds} s:\n{self.text()}")
