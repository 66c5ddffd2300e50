"""Where llama.cpp computes otherwise than the original, the conversion goes on, and whoever looks is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantdeck.workbench import jobs
from quantdeck.workbench.advice import Walk, Wish, advise
from quantdeck.workbench.advice.machine import this_machine
from quantdeck.workbench.checkpoint import with_matrices
from quantdeck.workbench.handover import model_card, run_setting
from quantdeck.workbench.jobs import JobStore
from quantdeck.workbench.library import Library
from quantdeck.workbench.model import read_model
from quantdeck.workbench.recipe import Request
from support.checkpoints import build, change_json
from support.machines import DDR5, machine

SLIDING = {"use_sliding_window": True, "sliding_window": 64}
WINDOWED: dict[str, tuple[str, dict[str, Any], int]] = {
    "Mistral 0.1": ("mistral", {"sliding_window": 64}, 64),
    "Mistral 0.2": ("mistral", {"sliding_window": None}, 0),
    "a window as long as the context": ("mistral", {"sliding_window": 512}, 0),
    "Mixtral": ("mixtral", {"sliding_window": 64}, 64),
    "Phi-3": ("phi3", {"sliding_window": 63}, 63),
    "StarCoder 2": ("starcoder2", {"sliding_window": 64}, 64),
    "Qwen, off": ("qwen2", {"sliding_window": 64}, 0),
    "Qwen, on": ("qwen2", SLIDING | {"layer_types": ["sliding_attention"] * 2}, 64),
    "Qwen, on from layer 28": ("qwen2", SLIDING | {"layer_types": None}, 0),
    "Qwen, on from layer 1": ("qwen3", SLIDING | {"layer_types": None, "max_window_layers": 1}, 64),
    "Llama, which has none": ("llama3", {"sliding_window": 64}, 0),
    "Gemma 2, whose windows llama.cpp keeps": ("gemma2", {}, 0),
    "Gemma 3, whose windows llama.cpp keeps": ("gemma3", {}, 0),
}


@pytest.mark.parametrize("case", WINDOWED)
def test_windows_that_llama_cpp_ignores_are_noted(case: str, tmp_path: Path):
    family, changes, window = WINDOWED[case]
    folder = build(family, tmp_path / "model")
    change_json(folder / "config.json", **changes)
    model = read_model(folder)
    assert model.window == with_matrices(model, "F32").window == window
    assert [note for note in model.notes if f"a window of {window}" in note] == list(model.notes[: bool(window)])


def test_a_note_reaches_plan_library_and_model_card(tmp_path: Path):
    folder = build("mistral", tmp_path / "model")
    change_json(folder / "config.json", sliding_window=64)
    store, library = JobStore(tmp_path / "store"), tmp_path / "library"
    proposal = jobs.prepare(store, folder, Request("Q8_0"), tmp_path / "out.gguf", jobs.JobOptions(1, library=library))
    assert any("Beyond 64 tokens llama.cpp attends to everything" in note for note in proposal.spec.notes)
    job = jobs.submit(store, proposal)
    jobs.start(store, job)
    assert list(store.follow(job))[-1].status == "done"
    entry = Library(library).entries().entries[0]
    assert entry.notes == proposal.spec.notes
    model = read_model(tmp_path / "out.gguf")
    card = model_card(model, run_setting(model, this_machine(machine(16), DDR5), 512), entry)
    assert "## To know" in card and "trained with a window of 64: keep the context at 64 tokens" in card


def test_advice_keeps_to_the_window(tmp_path: Path):
    folder = build("mistral", tmp_path / "model")
    model = read_model(folder)
    change_json(folder / "config.json", sliding_window=300)
    windowed = read_model(folder)
    assert Walk.begin(model, machine(16), DDR5).facts.suggested_context == 512
    walk = Walk.begin(windowed, machine(16), DDR5)
    assert walk.facts.suggested_context == 300
    assert walk.facts.context_in_words.startswith("the model looks back 300 tokens")
    for context, said in ((300, False), (512, True)):
        why = advise(windowed, machine(16), Wish(context=context), DDR5).why
        assert any("looks back 300 tokens" in sentence for sentence in why) == said


NORMALIZED = [
    ("qwen2", {"type": "NFC"}, "accents as separate characters"),
    ("qwen2", {"type": "Sequence", "normalizers": [{"type": "NFKC"}]}, "wide letters"),
    ("qwen2", None, ""),
]


@pytest.mark.parametrize(("family", "normalizer", "words"), NORMALIZED)
def test_what_llama_cpp_does_not_do_to_a_text_is_noted(family: str, normalizer: Any, words: str, tmp_path: Path):
    folder = build(family, tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8")) | {"normalizer": normalizer}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    notes = read_model(folder).notes
    assert len(notes) == bool(words) and all(words in note for note in notes)
