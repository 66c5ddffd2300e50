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


def _labels(lines: list[str]) -> list[str]:
    return [label for line in lines[:-1] if (label := line.split("│")[0].strip())]


async def test_one_point_has_one_label() -> None:
    lines = await _lines([Point(100, 5.25, "only", True)])
    assert sorted(_labels(lines)) == ["5.25", "KL"]
    row = next(line for line in lines if "●only" in line)
    assert row.split("│")[0].strip() == "5.25" and len(lines[-1]) == 60


async def test_two_equal_points_are_both_named() -> None:
    lines = await _lines([Point(100, 5.25, "this", True), Point(100, 5.25, "that", True)])
    assert any("that●this" in line or "this●that" in line for line in lines)
    assert sorted(_labels(lines)) == ["5.25", "KL"]


async def test_absurd_points_leave_the_others_apart() -> None:
    good = [Point(100 * i, 5 + i, f"good{i}", False) for i in range(3) if i]
    alone = await _lines(good)
    app = _Plot()
    async with app.run_test(size=(60, 12)) as pilot:
        plot = app.query_one(Scatter)
        plot.show([*good, Point(150, 1e300, "broken", False), Point(120, math.inf, "lost", False)], "ppl", 100)
        await pilot.pause()
        lines = plot.render().plain.splitlines()
    assert lines[0].count("▲") == 2 and "broken" in lines[0] and "lost" in lines[0]
    assert _labels(lines)[0] == _labels(alone)[0] == "7"
    assert [i for i, line in enumerate(lines[:-1]) if "○" in line] == [0, len(lines) - 2]


async def test_no_difference_at_all_lies_at_the_lower_edge() -> None:
    lines = await _lines([Point(100, 0.0, "same", True), Point(50, 0.1, "good", True), Point(20, 1, "bad", False)])
    assert "▼" in lines[-2] and "same" in lines[-2]


async def test_long_labels_are_whole() -> None:
    assert "3.16e-05" in _labels(await _lines([Point(1, 3.1584e-05, "a", True), Point(2, 1, "b", True)]))


async def test_no_room_no_plot() -> None:
    assert await _lines([Point(1, 1, "a", True)], (20, 3)) == []
