"""The command `quantdeck` as a user runs it, and what it says."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "quantdeck.tui.cli"]


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    def fails_in_one_sentence(self, code: int) -> str:
        """It failed with this code, in one line of words and without a traceback; returns the line."""
        assert self.code == code, (self.code, self.err, self.out)
        assert "Traceback" not in self.err + self.out
        assert "should not have happened" not in self.err
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("quantdeck: ") and len(lines[0]) > 25
        return lines[0]
