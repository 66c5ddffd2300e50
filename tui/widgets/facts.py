"""Labels and values, aligned."""

from __future__ import annotations

from collections.abc import Mapping

from textual.content import Content
from textual.widgets import Static

from ..describe import one_line


class Facts(Static):
    """A block of `label  value` lines; values wrap under themselves."""

    def show(self, facts: Mapping[str, str]) -> None:
        """Replace the lines."""
        width = max(map(len, facts), default=0)
        lines = [
            Content.assemble((f"{label:<{width}}  ", "$text-muted"), one_line(value)) for label, value in facts.items()
        ]
        self.update(Content("\n").join(lines))
