"""The wizard's first answer, in a real pseudo-terminal: is there a ready-made quant that fits? On loopback."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.hub_files import quantized, sample
from support.hub_server import HubServer
from support.terminal import Terminal

Start = Callable[..., Terminal]
BASE = "owner/Small-4M"
READY = "bartowski/Small-4M-GGUF"


@pytest.fixture
def server(loopback_hub: HubServer) -> HubServer:
    loopback_hub.add(BASE, {"Small-4M-F16.gguf": sample()})
    loopback_hub.add(READY, {f"Small-4M-{level}.gguf": quantized(level) for level in ("Q8_0", "Q4_K_M")})
    return loopback_hub


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """The original, as a download leaves it."""
    path = tmp_path / "home" / "models" / BASE / "Small-4M-F16.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(sample())
    return path


def answered(terminal: Terminal) -> None:
    """Answer all questions as they are filled in."""
    terminal.wait_for("Which machine shall run")
    for _ in range(6):
        terminal.press("enter")
        terminal.pump(0.7)
        if "is recommended" in terminal.text():
            return
    terminal.wait_for("is recommended")


def test_from_a_name_to_a_chat(start: Start, server: HubServer) -> None:
    terminal = start()
    terminal.name_to_wizard(BASE)
    terminal.wait_for("Ready made: Q8_0", 60)
    terminal.wait_for("Which machine shall run")
    terminal.press("r")
    terminal.wait_for("take this")
    terminal.press("enter")
    terminal.wait_for("Download Small-4M-Q8_0.gguf")
    terminal.press("y")
    terminal.wait_for("Enter talks to it", 60)
    terminal.press("enter")
    terminal.wait_for("context 512 tokens", 60)
    assert terminal.presses <= 8


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
def test_a_file_here_keeps_its_levels(start: Start, server: HubServer, local: Path, size: tuple[int, int]) -> None:
    terminal = start(columns=size[0], rows=size[1])
    terminal.name_to_wizard(local)
    terminal.wait_for(f"in {READY}, fits", 60)
    answered(terminal)
    lines = terminal.text().splitlines()
    header = next(number for number, line in enumerate(lines) if "bits/w" in line)
    assert "ready" in lines[header + 1] and "bartowski" in lines[header + 1] and "▶" in lines[header + 2]
    terminal.press("up", "enter")
    terminal.wait_for("with a context of 512 tokens")
    assert READY in terminal.text()


def test_levels_of_a_model_that_is_not_here_lead_to_its_download(start: Start, server: HubServer) -> None:
    del server.repos[READY]
    terminal = start()
    terminal.name_to_wizard(f"https://huggingface.co/{BASE}/tree/main")
    terminal.wait_for(f"No ready-made quant of {BASE}", 60)
    answered(terminal)
    terminal.press("enter")
    terminal.wait_for("to quantize here")
    terminal.press("enter")
    terminal.wait_for("Download Small-4M-F16.gguf")


def test_nobody_waits_for_a_hub_that_hangs(start: Start, server: HubServer, local: Path) -> None:
    server.silence = 30
    terminal = start()
    terminal.name_to_wizard(local)
    answered(terminal)
    terminal.wait_for("Looking on the Hub for ready-made quants")
    while not server.requests:
        terminal.pump(0.1)
    left = time.monotonic()
    terminal.press("q")
    assert terminal.wait(8) == 0 and time.monotonic() - left < 5


@pytest.mark.parametrize("room", ["wizard", "hub"])
def test_a_hub_that_hangs_lets_the_program_end(start: Start, server: HubServer, room: str) -> None:
    server.silence = 30
    terminal = start()
    if room == "wizard":
        terminal.name_to_wizard(BASE)
        terminal.wait_for("Reading")
    else:
        terminal.wait_for("usable of")
        terminal.press("7")
        terminal.wait_for("Search the Hub")
        terminal.type("small\r")
        terminal.wait_for("Searching")
    while not server.requests:
        terminal.pump(0.1)
    left = time.monotonic()
    terminal.press("esc", "q")
    assert terminal.wait(8) == 0 and time.monotonic() - left < 5


def test_without_a_network_it_says_so(start: Start, server: HubServer, local: Path) -> None:
    terminal = start(HF_HUB_OFFLINE="1")
    terminal.name_to_wizard(local)
    terminal.wait_for("not looked for: HF_HUB_OFFLINE", 60)
    answered(terminal)
    assert not server.requests


def test_the_sample_is_no_business_of_the_hub(start: Start, server: HubServer) -> None:
    terminal = start()
    terminal.name_to_wizard("sample")
    answered(terminal)
    assert not server.requests


def test_what_is_typed_into_the_field_is_text(start: Start, server: HubServer) -> None:
    terminal = start()
    terminal.wait_for("usable of")
    terminal.press("7")
    terminal.wait_for("Search the Hub")
    terminal.type("/a/b?q1 2ot")
    terminal.wait_for("/a/b?q1 2ot")
    terminal.press("esc", "/")
    terminal.type("/x/")
    terminal.wait_for("│  /x/")


def test_why_a_search_failed_stays_on_the_screen(start: Start, server: HubServer) -> None:
    server.fail("/api/", 429, times=99, retry_after="90")
    terminal = start()
    terminal.wait_for("usable of")
    terminal.press("7")
    terminal.wait_for("Search the Hub")
    terminal.type("small\r")
    terminal.wait_for("too many requests from here; try again in 1 min 30 s")
    assert "▌" not in terminal.text()  # no notice that goes away
    server.faults.clear()
    terminal.type("\r")
    terminal.wait_for("2 repositories, GGUF")
    assert "too many" not in terminal.text()


def test_hundreds_of_files_are_shown(start: Start, server: HubServer) -> None:
    content = quantized("Q4_K_M")
    server.add("many/Files-GGUF", {f"part{n}/m{n:03}-Q4_K_M.gguf": content[:-1] + bytes([n]) for n in range(100)})
    terminal = start()
    terminal.wait_for("usable of")
    terminal.press("7")
    terminal.wait_for("Search the Hub")
    terminal.type("https://huggingface.co/many/Files-GGUF/blob/main/part80/m080-Q4_K_M.gguf\r")
    terminal.wait_for("with a context of 512 tokens")
    terminal.wait_for("yes   1000+             m080-Q4_K_M.gguf")
    terminal.press("enter")
    terminal.wait_for("Download m080-Q4_K_M.gguf")


def test_the_wizard_takes_a_level_and_publishers_own_mixes(start: Start, server: HubServer) -> None:
    server.add(READY, {"Small-4M-UD-Q4_K_XL.gguf": quantized("Q4_K_M")})
    terminal = start()
    terminal.name_to_wizard(f"hf.co/{BASE}:f16")
    terminal.wait_for("Ready made: UD-Q4_K_XL", 60)
