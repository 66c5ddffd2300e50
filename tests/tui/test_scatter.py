"""The plot of quality over size, as letters."""

from __future__ import annotations

import math

import pytest
from textual.app import App, ComposeResult

from quantdeck.tui.widgets.scatter import Point, Scatter


class _Plot(App[None]):
    def compose(self) -> ComposeResult:
        yield Scatter("size")


async def _lines(points: list[Point], size: tuple[int, int] = (60, 12)) -> list[str]:
    app = _Plot()
    async with app.run_test(size=size) as pilot:
        plot = app.query_one(Scatter)
        plot.show(points, "KL")
        await pilot.pause()
        return plot.render().plain.splitlines()


async def test_small_is_left_and_good_is_below() -> None:
    lines = await _lines([Point(100, 1.0, "small", True), Point(1000, 0.001, "large", False)])
    top, bottom = lines[0], lines[-2]
    assert "●small" in top and "1" in top.split("│")[0]
    assert "large○" in bottom and "0.001" in bottom.split("│")[0]
    assert top.index("●") < bottom.index("○") and lines[1].startswith("      KL")
    assert all(len(line) == 60 for line in lines[-1:])


async def test_names_never_cover_points_or_one_another() -> None:
    points = [Point(100 + i, 0.1, f"level{i}", i % 2 == 0) for i in range(12)]
    lines = await _lines(points)
    text = "\n".join(lines[:-1])
    assert text.count("●") + text.count("○") == 12
    assert all(text.count(f"level{i}") <= 1 for i in range(12))


@pytest.mark.parametrize("bad", [Point(0, 1, "a", True), Point(1, -1, "b", True), Point(1, math.nan, "c", True)])
async def test_what_cannot_be_drawn_is_left_out(bad: Point) -> None:
    assert "Nothing to plot" in "\n".join(await _lines([bad]))
    lines = await _lines([bad, Point(5, 5, "good", False)])
    assert sum("○" in line for line in lines) == 1


async def test_no_room_no_plot() -> None:
    assert await _lines([Point(1, 1, "a", True)], (20, 3)) == []
