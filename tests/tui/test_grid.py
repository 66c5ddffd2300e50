"""The table of the rooms: every column is seen, whatever the names are."""

from __future__ import annotations

from textual.app import App, ComposeResult

from quantdeck.tui.widgets.grid import Grid

LONG = "Somebodys-Extremely-Long-Model-Name-70B-Instruct-v0.3-Q4_K_M-00001-of-00009.gguf"
ROWS = [("a", ("Q4_K_M", LONG, "2.70 MiB", "verified")), ("b", ("F16", "short.gguf", "8.57 MiB", ""))]


class Rows(App[None]):
    def compose(self) -> ComposeResult:
        yield Grid(["level", "model", "size", "state"], [2], names="model")


def model_cells(grid: Grid) -> list[str]:
    return [str(grid.get_cell(key, "model")) for key, _ in ROWS]


def width(grid: Grid) -> int:
    return sum(column.get_render_width(grid) for column in grid.columns.values())


async def test_long_names_lose_their_middle_where_there_is_no_room():
    app = Rows()
    async with app.run_test(size=(70, 20)) as pilot:
        grid = app.query_one(Grid)
        grid.show(ROWS)
        await pilot.pause()
        long, short = model_cells(grid)
        assert long.startswith("Somebodys-") and long.endswith("-of-00009.gguf") and "…" in long
        assert short == "short.gguf"
        assert 60 < width(grid) <= 70
        await pilot.resize_terminal(140, 20)
        await pilot.pause()
        assert model_cells(grid) == [LONG, "short.gguf"]
        await pilot.resize_terminal(50, 20)
        await pilot.pause()
        assert len(model_cells(grid)[0]) < len(long) and width(grid) <= 50
        grid.show([(key, (*cells[:3], "forgotten")) for key, cells in ROWS])
        await pilot.pause()
        assert width(grid) <= 50 and str(grid.get_cell("b", "state")) == "forgotten"
