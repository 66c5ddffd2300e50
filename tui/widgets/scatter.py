"""A plot of points with names, in letters: quality over size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from textual.content import Content
from textual.widget import Widget

from ...workbench.text import printable


@dataclass(frozen=True)
class Point:
    """A point with its name; `strong` ones stand out."""

    x: float
    y: float
    name: str
    strong: bool


Canvas = list[list[tuple[str, str]]]
_AXIS = 9


class Scatter(Widget):
    """Points over two logarithmic axes, small values at the left and below; names where there is room for them.

    Strong points are filled and coloured, and are drawn over the others.
    """

    def __init__(self, x_title: str, id: str | None = None) -> None:
        super().__init__(id=id)
        self._x_title, self._y_title = x_title, ""
        self._points: tuple[Point, ...] = ()

    def show(self, points: Sequence[Point], y_title: str) -> None:
        """Draw these points; those that are not above zero cannot be drawn."""
        drawn = tuple(p for p in points if p.x > 0 and p.y > 0 and math.isfinite(p.x) and math.isfinite(p.y))
        if (drawn, y_title) != (self._points, self._y_title):
            self._points, self._y_title = drawn, y_title
            self.refresh()

    def render(self) -> Content:
        """The plot at the size that there is."""
        width, height = self.size.width, self.size.height
        if height < 4 or width < 30:
            return Content("")
        if not self._points:
            return Content.styled("Nothing to plot yet: press e to measure the model under the cursor.", "$text-muted")
        canvas: Canvas = [[(" ", "")] * (width - _AXIS - 1) for _ in range(height - 1)]
        self._draw(canvas)
        return Content("\n").join([*self._lines(canvas), self._foot(width)])

    def _draw(self, canvas: Canvas) -> None:
        columns, rows = len(canvas[0]), len(canvas)
        xs, ys = ([getattr(p, axis) for p in self._points] for axis in "xy")
        for point in sorted(self._points, key=lambda p: p.strong):
            column = round(_place(point.x, xs) * (columns - 1))
            row = rows - 1 - round(_place(point.y, ys) * (rows - 1))
            style = "bold $accent" if point.strong else "$text-muted"
            canvas[row][column] = ("●" if point.strong else "○", style)
        for point in sorted(self._points, key=lambda p: not p.strong):
            column = round(_place(point.x, xs) * (columns - 1))
            row = rows - 1 - round(_place(point.y, ys) * (rows - 1))
            _name(canvas[row], column, printable(point.name), "$accent" if point.strong else "$text-muted")

    def _lines(self, canvas: Canvas) -> list[Content]:
        ys = [p.y for p in self._points]
        marks = {0: f"{max(ys):.4g}", len(canvas) - 1: f"{min(ys):.4g}", 1: self._y_title}
        lines = []
        for number, cells in enumerate(canvas):
            label = marks.get(number, "").rjust(_AXIS - 1)[: _AXIS - 1] + " │"
            lines.append(Content.assemble((label, "$text-muted"), *_runs(cells)))
        return lines

    def _foot(self, width: int) -> Content:
        line = " " * _AXIS + "└" + f" {self._x_title} → (● efficient: nothing is smaller and better) "
        return Content.styled(line[:width].ljust(width, "─")[:width], "$text-muted")


def _place(value: float, values: Sequence[float]) -> float:
    """Where a value lies between the smallest and the largest, from 0 to 1, on a logarithmic scale."""
    low, high = math.log(min(values)), math.log(max(values))
    return 0.5 if high - low < 1e-12 else (math.log(value) - low) / (high - low)


def _name(cells: list[tuple[str, str]], column: int, name: str, style: str) -> None:
    """Write a name right of its point, or left of it, if all of the place is free."""
    for first in (column + 1, column - len(name)):
        place = range(first, first + len(name))
        if first >= 0 and place.stop <= len(cells) and all(cells[i][0] == " " for i in place):
            for i, letter in zip(place, name, strict=True):
                cells[i] = (letter, style)
            return


def _runs(cells: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Neighbours of one style together."""
    runs: list[tuple[str, str]] = []
    for letter, style in cells:
        if runs and runs[-1][1] == style:
            runs[-1] = runs[-1][0] + letter, style
        else:
            runs.append((letter, style))
    return runs
