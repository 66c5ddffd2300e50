"""A plot of points with names, in letters: quality over size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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

    Strong points are filled and coloured, and are drawn over the others. What lies above the ceiling, infinitely high
    too, is an arrow at the upper edge; what is not above zero, which no such axis shows, an arrow at the lower one.
    """

    def __init__(self, x_title: str, x_words: Callable[[float], str] = "{:.4g}".format, id: str | None = None) -> None:
        super().__init__(id=id)
        self._x_title, self._x_words, self._y_title = x_title, x_words, ""
        self._points: tuple[Point, ...] = ()
        self._ceiling = math.inf

    def show(self, points: Sequence[Point], y_title: str, ceiling: float = math.inf) -> None:
        """Draw these points, but for what is not a number or has no size."""
        drawn = tuple(p for p in points if 0 < p.x < math.inf and not math.isnan(p.y))
        if (drawn, y_title, ceiling) != (self._points, self._y_title, self._ceiling):
            self._points, self._y_title, self._ceiling = drawn, y_title, ceiling
            self.refresh()

    @property
    def _ys(self) -> list[float]:
        """What the upright axis spans."""
        return [p.y for p in self._points if 0 < p.y <= self._ceiling and p.y < math.inf]

    def render(self) -> Content:
        """The plot at the size that there is."""
        width, height = self.size.width, self.size.height
        if height < 4 or width < 30:
            return Content("")
        if not self._ys:
            return Content.styled("Nothing to plot yet: press e to measure the model under the cursor.", "$text-muted")
        canvas: Canvas = [[(" ", "")] * (width - _AXIS - 1) for _ in range(height - 1)]
        self._draw(canvas)
        return Content("\n").join([*self._lines(canvas), self._foot(width)])

    def _draw(self, canvas: Canvas) -> None:
        columns, rows = len(canvas[0]), len(canvas)
        xs, ys = [p.x for p in self._points], self._ys

        def cell(point: Point) -> tuple[list[tuple[str, str]], int]:
            height = 1.0 if point.y > max(ys) else 0.0 if point.y <= 0 else _place(point.y, ys)
            return canvas[rows - 1 - round(height * (rows - 1))], round(_place(point.x, xs) * (columns - 1))

        for point in sorted(self._points, key=lambda p: p.strong):
            line, column = cell(point)
            sign = "▲" if point.y > max(ys) else "▼" if point.y <= 0 else "●" if point.strong else "○"
            line[column] = (sign, "bold $accent" if point.strong else "$text-muted")
        for point in sorted(self._points, key=lambda p: not p.strong):
            line, column = cell(point)
            _name(line, column, printable(point.name), "$accent" if point.strong else "$text-muted")

    def _lines(self, canvas: Canvas) -> list[Content]:
        ys = self._ys
        ends = {0: f"{max(ys):.3g}", len(canvas) - 1: f"{min(ys):.3g}"}
        if ends[0] == ends[len(canvas) - 1]:
            ends = {round((len(canvas) - 1) / 2): ends[0]}
        marks = {0 if 1 in ends else 1: self._y_title, **ends}
        lines = []
        for number, cells in enumerate(canvas):
            label = marks.get(number, "").rjust(_AXIS - 1)[: _AXIS - 1] + " │"
            lines.append(Content.assemble((label, "$text-muted"), *_runs(cells)))
        return lines

    def _foot(self, width: int) -> Content:
        xs = [p.x for p in self._points]
        low, high = (self._x_words(x) for x in (min(xs), max(xs)))
        about = f" {self._x_title} → (● nothing is smaller and better) "
        first, last = ("", "") if low == high else (f" {low}", f" {high}")
        room = width - _AXIS - 1 - len(last)
        line = " " * _AXIS + "└" + (first + about)[:room].ljust(room, "─") + last
        return Content.styled(line[:width], "$text-muted")


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
