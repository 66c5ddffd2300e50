"""The Hub's room in a real pseudo-terminal, against the loopback Hub."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.hub_files import quantized, sample
from support.hub_server import HubServer
from support.terminal import Terminal

Start = Callable[..., Terminal]
NAME = "bartowski/Small-4M-Instruct-GGUF"


@pytest.fixture
def server(loopback_hub: HubServer) -> HubServer:
    stem = "Small-4M-Instruct"
    files = {f"{stem}-{level}.gguf": quantized(level) for level in ("Q8_0", "Q4_K_M")}
    loopback_hub.add(NAME, {**files, f"{stem}-F16.gguf": sample()}, downloads=1000)
    loopback_hub.add("unsloth/Other-GGUF", {}, downloads=5, gated="auto")
    return loopback_hub


@pytest.fixture
def workbench(start: Start, server: HubServer) -> Start:
    """Open the workbench where the Hub is ours; it has looked at the machine."""

    def run(columns: int = 80, rows: int = 24) -> Terminal:
        terminal = start(columns=columns, rows=rows)
        terminal.wait_for("usable of")
        return terminal

    return run


def test_from_an_empty_machine_to_a_chat_with_a_fitting_quant(workbench: Start) -> None:
    terminal = workbench()
    terminal.press("2")
    terminal.wait_for("Find one on the Hub")
    terminal.press("up", "enter")
    terminal.wait_for("Search the Hub")
    terminal.type("small")
    terminal.press("enter")
    terminal.wait_for("1 repository")
    terminal.press("enter")
    terminal.wait_for("Q8_0 fits here")
    terminal.press("enter")
    terminal.wait_for("Download Small-4M-Instruct-Q8_0.gguf")
    terminal.press("y")
    terminal.wait_for("Enter talks to it", 60)
    terminal.press("enter")
    terminal.wait_for("context 512 tokens", 60)
    assert terminal.presses <= 15
    terminal.type("What is the capital of France?")
    terminal.press("enter")
    terminal.wait_for("tokens/s ·", 60)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
def test_the_room_fits_the_terminal(workbench: Start, size: tuple[int, int]) -> None:
    terminal = workbench(*size)
    terminal.press("7")
    terminal.wait_for("bartowski")
    assert "7 Hub" in terminal.text().splitlines()[0]
    terminal.press("esc")
    terminal.wait_for("Quit")
    assert not terminal.text().splitlines()[-1].endswith("…")
    terminal.press("u")
    terminal.wait_for("1 repository of unsloth")
    terminal.wait_for("gated")
    terminal.press("o")
    terminal.wait_for("by likes")


def test_progress_pause_and_cancel(workbench: Start, server: HubServer) -> None:
    terminal = workbench()
    terminal.press("7")
    terminal.wait_for("Search the Hub")
    terminal.type(NAME)
    terminal.press("enter")
    terminal.wait_for("Q8_0 fits here", 40)
    terminal.press("enter")
    terminal.wait_for("Download Small")
    server.bytes_per_second = 400_000
    terminal.press("y")
    terminal.wait_for("/s · ")
    terminal.wait_for(" left")
    terminal.press("p")
    terminal.wait_for("p goes on")
    terminal.press("p")
    terminal.wait_for("/s · ")
    terminal.press("c")
    terminal.wait_for("Cancel the download")
    terminal.press("y")
    terminal.wait_for("cancelled")


def test_ready_made_quants_of_a_model(workbench: Start, server: HubServer) -> None:
    server.add("meta/Base", {"model.safetensors": sample(), "config.json": b"{}"}, tags=("safetensors",))
    server.add("someone/Base-quants", {}, tags=("gguf", "base_model:quantized:meta/Base"))
    terminal = workbench()
    terminal.press("7")
    terminal.wait_for("Search the Hub")
    terminal.type("meta/Base")
    terminal.press("enter")
    terminal.wait_for("one can be made here", 40)
    terminal.wait_for("Quit")
    terminal.press("f")
    terminal.wait_for("quants of meta/Base")
    terminal.wait_for("someone/Base-quants")


def test_failures_are_sentences_and_the_room_stands(workbench: Start, server: HubServer) -> None:
    terminal = workbench()
    terminal.press("7")
    terminal.wait_for("Search the Hub")
    terminal.type("no/body")
    terminal.press("enter")
    terminal.wait_for("hf auth login")
    server.add("x/pickled", {"pytorch_model.bin": b"x"})
    terminal.press("esc", "/", "ctrl+u")
    terminal.type("x/pickled")
    terminal.press("enter")
    terminal.wait_for("pickled weights alone")
    terminal.press("esc", "1")
    terminal.wait_for("usable of")


def test_a_level_behind_the_name_is_where_the_cursor_stands(workbench: Start) -> None:
    terminal = workbench()
    terminal.press("7")
    terminal.wait_for("Search the Hub")
    terminal.type(f"hf.co/{NAME}:q4_k_m\r")
    terminal.wait_for("Q8_0 fits here", 40)
    terminal.press("enter")
    terminal.wait_for("Download Small-4M-Instruct-Q4_K_M.gguf")
    terminal.press("n", "esc", "/", "ctrl+u")
    terminal.type(f"{NAME}:Q2_K\r")
    terminal.wait_for("has no Q2_K; it has", 40)
    terminal.wait_for("Q8_0 fits here")
