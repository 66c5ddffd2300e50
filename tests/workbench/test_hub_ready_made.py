"""Is there a ready-made quantization? Against the loopback Hub."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from quantdeck.workbench.advice import Setup
from quantdeck.workbench.advice.machine import this_machine
from quantdeck.workbench.hub import Hub, Origin, Patience, ReadyMade, look_for, origin, picks
from quantdeck.workbench.hub.ready_made import conventional_names
from quantdeck.workbench.model import Model, read_model, value
from quantdeck.workbench.sample import SAMPLE
from support.hub_files import quantized, sample, shards
from support.hub_server import HubServer
from support.machines import DDR5, machine

BASE = "meta/Small-4M-Instruct"
TREE = ("gguf", f"base_model:quantized:{BASE}")


@pytest.fixture
def hub(server: HubServer) -> Hub:
    return Hub(Patience(tries=2, first_wait=0.01), endpoint=server.endpoint)


def names(found: ReadyMade) -> list[str]:
    return [repository.id for repository in found.repositories]


def at(path: Path, **metadata: str) -> Model:
    """The sample at another place, with other metadata."""
    model = read_model(SAMPLE.model)
    changed = {key.replace("__", "."): value("string", text) for key, text in metadata.items()}
    return replace(model, path=path, metadata={**model.metadata, **changed})


# -- where it comes from -----------------------------------------------------------------------------------------------


def test_its_place_tells(tmp_path: Path) -> None:
    cached = tmp_path / "models--meta--Small-4M-Instruct" / "snapshots" / "c0" / "x.gguf"
    assert origin(at(cached)) == Origin(BASE)
    downloaded = tmp_path / BASE / "x.gguf"
    downloaded.parent.mkdir(parents=True)
    downloaded.write_bytes(b"")
    assert origin(at(downloaded), [tmp_path]) == Origin(BASE)
    assert origin(at(downloaded.parent), [tmp_path]) == Origin(BASE)
    assert origin(at(downloaded), [tmp_path / "meta"]) is None
    assert origin(at(tmp_path / "x.gguf"), [tmp_path]) is None


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"general__source__huggingface__repository": BASE}, Origin(BASE)),
        ({"general__source__url": f"https://huggingface.co/{BASE}"}, Origin(BASE)),
        (
            {
                "general__base_model__0__repo_url": f"https://huggingface.co/{BASE}",
                "general__name": "Small 4M Instruct",
            },
            Origin(BASE),
        ),
        (
            {
                "general__base_model__0__repo_url": "https://huggingface.co/meta/Small-4M",
                "general__name": "Small 4M It",
            },
            Origin("meta/Small-4M", is_parent=True),
        ),
        ({"general__source__url": "https://example.com/meta/Small"}, None),
        ({"general__source__url": "https://huggingface.co/../../etc"}, None),
        ({}, None),
    ],
)
def test_its_metadata_tell(tmp_path: Path, metadata: dict[str, str], expected: Origin | None) -> None:
    assert origin(at(tmp_path / "x.gguf", **metadata)) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"_name_or_path": BASE}, Origin(BASE, is_parent=True)),
        ({"_name_or_path": "/home/me/out"}, None),
        ({"_name_or_path": 3}, None),
        ([], None),
    ],
)
def test_its_configuration_tells(tmp_path: Path, config: object, expected: Origin | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert origin(at(tmp_path)) == expected


# -- what there is -----------------------------------------------------------------------------------------------------


def test_publishers_come_before_the_rest(server: HubServer, hub: Hub) -> None:
    server.add(BASE, {"model.safetensors": b"x"}, tags=())
    files = {"m-Q4_K_M.gguf": quantized("Q4_K_M")}
    server.add("somebody/mine", files, downloads=10**6, tags=TREE)
    server.add("unsloth/Small-4M-Instruct-GGUF", files, downloads=5)
    server.add("bartowski/meta_Small-4M-Instruct-GGUF", files, downloads=1)
    server.add("else/Small-4M-Instruct-GGUF", files, downloads=99)  # says nothing of where it comes from
    server.add("mlx/Small", {}, tags=("mlx", TREE[1]))
    assert names(look_for(hub, Origin(BASE))) == [
        "bartowski/meta_Small-4M-Instruct-GGUF",
        "unsloth/Small-4M-Instruct-GGUF",
        "somebody/mine",
    ]


def test_a_repository_of_quants_is_an_answer_itself(server: HubServer, hub: Hub) -> None:
    files = {"m-Q4_K_M.gguf": quantized("Q4_K_M"), "m-F16.gguf": sample()}
    server.add("somebody/mine", files, card={"base_model": BASE})
    server.add("bartowski/Small-4M-Instruct-GGUF", files)
    found = look_for(hub, Origin("somebody/mine"))
    assert names(found) == ["somebody/mine", "bartowski/Small-4M-Instruct-GGUF"] and found.origin.repository == BASE


def test_what_cannot_be_read_is_passed_over(server: HubServer, hub: Hub) -> None:
    server.add("bartowski/Small-4M-Instruct-GGUF", {"m-Q8_0.gguf": quantized("Q8_0")}, tags=TREE)
    server.add("a/empty", {"README.md": b""}, tags=TREE)
    server.add("a/half", dict(list(shards("m-Q4_0", 3).items())[:2]), tags=TREE)
    assert names(look_for(hub, Origin(BASE))) == ["bartowski/Small-4M-Instruct-GGUF"]
    assert names(look_for(hub, Origin("no/body"))) == []


def test_no_network_is_a_note(server: HubServer, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.fail("/api/", 503, times=9)
    found = look_for(hub, Origin(BASE))
    assert not found.repositories and "problem of its own" in found.note
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(server.requests)
    assert "HF_HUB_OFFLINE" in look_for(Hub(Patience(tries=1), endpoint=server.endpoint), Origin(BASE)).note
    assert len(server.requests) == asked


def test_nobody_waits_for_what_was_left(server: HubServer, hub: Hub) -> None:
    server.add("bartowski/Small-4M-Instruct-GGUF", {"m-Q8_0.gguf": quantized("Q8_0")})
    assert names(look_for(hub, Origin(BASE), lambda: True)) == []
    assert not server.asked("/api/models/bartowski")


def test_conventional_names() -> None:
    listed = conventional_names("meta/Small")
    assert listed[:2] == ["bartowski/Small-GGUF", "bartowski/meta_Small-GGUF"] and listed[-1] == "meta/Small-GGUF"


# -- which file --------------------------------------------------------------------------------------------------------


@pytest.fixture
def found(server: HubServer, hub: Hub) -> ReadyMade:
    files = {f"m-{level}.gguf": quantized(level) for level in ("Q8_0", "Q4_K_M")}
    odd = {"draft-Q6_K.gguf": sample()[:100_000], "../../m-Q5_K_M.gguf": quantized("Q4_K_M")}
    server.add("bartowski/Small-4M-Instruct-GGUF", {**files, **odd, "m-F16.gguf": sample()})
    return look_for(hub, Origin(BASE))


@pytest.mark.parametrize(
    ("memory", "level", "expected"),
    [(16.0, "Q4_K_M", ("Q4_K_M", "yes")), (16.0, None, ("Q8_0", "yes")), (0.001, "Q8_0", ("Q4_K_M", "no"))],
)
def test_the_recommended_level_if_it_fits(
    found: ReadyMade, memory: float, level: str | None, expected: tuple[str, str]
) -> None:
    sizes = {"Q6_K": 3_700_000, "Q4_K_M": len(quantized("Q4_K_M")), "Q8_0": len(quantized("Q8_0"))}
    here = this_machine(machine(memory), DDR5)
    (pick,) = picks(found, read_model(SAMPLE.model), here, Setup(512), level=level, sizes=sizes)
    assert (pick.fitted.offer.level, pick.fitted.fits) == expected


@pytest.mark.parametrize(
    ("files", "level", "expected"),
    [
        ({"UD-Q4_K_XL": "Q4_K_M", "UD-Q2_K_XL": "Q2_K"}, "Q4_K_M", "UD-Q4_K_XL"),
        ({"Q4_K_L": "Q4_K_M", "Q6_K_L": "Q6_K"}, None, "Q6_K_L"),
        ({"Q4_K_L": "Q4_K_M", "Q4_K_M": "Q4_K_M"}, "Q4_K_M", "Q4_K_M"),
        ({"UD-Q4_K_XL": "Q4_K_M", "Q5_K_M": "Q5_K_M"}, "Q4_K_M", "UD-Q4_K_XL"),
    ],
)
def test_publishers_own_mixes_count(
    server: HubServer, hub: Hub, files: dict[str, str], level: str | None, expected: str
) -> None:
    server.add("unsloth/Small-4M-Instruct-GGUF", {f"m-{name}.gguf": quantized(made) for name, made in files.items()})
    sizes = {made: len(quantized(made)) for made in files.values()}
    model, here = read_model(SAMPLE.model), this_machine(machine(16.0), DDR5)
    (pick,) = picks(look_for(hub, Origin(BASE)), model, here, Setup(512), level=level, sizes=sizes)
    assert (pick.fitted.offer.level, pick.fitted.fits) == (expected, "yes")
    assert pick.fitted.memory and pick.fitted.memory.weights == pytest.approx(pick.fitted.offer.n_bytes, rel=0.01)


def test_other_programs_types_are_no_answer(server: HubServer, hub: Hub) -> None:
    files = {f"m-{level}.gguf": quantized("Q4_K_M") for level in ("IQ4_K", "Q4_0_4_8")}
    server.add("unsloth/Small-4M-Instruct-GGUF", files)
    assert names(look_for(hub, Origin(BASE))) == []
