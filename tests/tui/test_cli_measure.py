"""`quantdeck calibrate` and `quantdeck evaluate` as a script sees them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from quantdeck.workbench.imatrix import read_imatrix
from quantdeck.workbench.model import read_model
from quantdeck.workbench.sample import SAMPLE
from support.command import COMMAND, Said
from support.models import make_model

Run = Callable[..., Said]


def test_calibrate_tells_what_it_made(quantdeck: Run, tmp_path: Path) -> None:
    said = quantdeck("calibrate", "sample", "-o", "im.gguf", "--chunks", "3", "--context", "256", "--json")
    document = said.document
    assert said.code == 0 and document["chunks"] == 3 and document["tokens"] == 768 and document["parse_special"]
    assert document["coverage"]["complete"] and document["coverage"]["covered"] == 35
    matrix = read_imatrix(tmp_path / "im.gguf")
    assert (matrix.chunk_count, matrix.chunk_size, matrix.datasets) == (3, 256, ("calibration.txt",))


def test_calibrate_without_an_output_keeps_it_in_our_folder(quantdeck: Run, environ: dict[str, str]) -> None:
    made = Path(quantdeck("calibrate", "sample", "--chunks", "1", "--json").document["imatrix"])
    assert made.parent == Path(environ["QUANTDECK_HOME"]) / "imatrices" and made.is_file()


def test_calibrate_writes_the_old_form(quantdeck: Run, tmp_path: Path) -> None:
    said = quantdeck("calibrate", "sample", "-o", "im.dat", "--chunks", "2")
    assert said.code == 0 and "All 35 weights were reached" in said.out and "fewer" not in said.out
    assert quantdeck("calibrate", "sample", "-o", "im.gguf", "--chunks", "2").code == 0
    old, new = read_imatrix(tmp_path / "im.dat"), read_imatrix(tmp_path / "im.gguf")
    assert old.entries.keys() == new.entries.keys()
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["im.dat", "im.gguf"]


@pytest.mark.parametrize("name", ["model.gguf", "text.txt", "other.dat"])
def test_calibrate_destroys_no_other_file(name: str, quantdeck: Run, tmp_path: Path) -> None:
    make_model(tmp_path / "model.gguf", "llama", n_layer=1)
    for other in ("text.txt", "other.dat"):
        (tmp_path / other).write_text("words " * 400)
    before = (tmp_path / name).read_bytes()
    said = quantdeck("calibrate", "model.gguf", "-d", "text.txt", "-o", name, "--context", "64", "--chunks", "1")
    assert f"{name} exists and is no importance matrix" in said.fails_in_one_sentence(2)
    assert (tmp_path / name).read_bytes() == before


def test_experts_that_were_never_reached_are_named(quantdeck: Run, tmp_path: Path) -> None:
    make_model(tmp_path / "moe.gguf", "qwen3moe", n_layer=1, n_expert=32)
    (tmp_path / "dull.txt").write_text("a" * 300)
    arguments = ("calibrate", "moe.gguf", "-d", "dull.txt", "-o", "im.gguf", "--context", "32", "--chunks", "1")
    said = quantdeck(*arguments)
    assert said.code == 0 and "blk.0.ffn_down_exps.weight: experts never reached" in said.out
    assert "more text" in said.out
    experts = quantdeck(*arguments, "--json").document["coverage"]["experts"]["blk.0.ffn_down_exps.weight"]
    counts = read_imatrix(tmp_path / "im.gguf").entries["blk.0.ffn_down_exps.weight"].counts
    assert experts == [i for i, count in enumerate(counts) if count == 0]


def test_ctrl_c_keeps_what_was_computed(environ: dict[str, str], quantdeck: Run, tmp_path: Path) -> None:
    arguments = ["calibrate", "sample", "-o", "im.gguf", "--context", "64", "--threads", "1"]
    child = subprocess.Popen([*COMMAND, *arguments], env=environ, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    partial = tmp_path / ".im.gguf.partial"
    while not partial.exists():
        time.sleep(0.002)
        assert child.poll() is None
    os.kill(child.pid, signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130, said
    assert "goes on there" in said and "Traceback" not in said
    document = quantdeck(*arguments, "--json").document
    assert document["resumed"] > 0 and (tmp_path / "im.gguf").is_file()


def test_evaluate_gives_every_figure(quantdeck: Run, tmp_path: Path) -> None:
    assert quantdeck("quantize", "sample", "gguf", "-q", "Q4_K_M", "-o", "q4.gguf").code == 0
    assert quantdeck("quantize", "sample", "gguf", "-q", "Q8_0", "-o", "q8.gguf").code == 0
    questions = [{"question": q.question, "answer": q.answer} for q in SAMPLE.questions[:5]]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, questions)))
    arguments = ["--reference", "sample", "--chunks", "3", "--questions", "q.jsonl"]
    said = quantdeck("evaluate", "q4.gguf", "q8.gguf", *arguments, "--csv", "t.csv", "--markdown", "t.md", "--json")
    assert said.code == 0, said.err
    assert "logits take" in said.err and said.err.count("logits take") == 1
    q4, q8 = said.document["models"]
    assert q8["divergence"]["kl"]["value"] < q4["divergence"]["kl"]["value"] < 0.1
    assert {"kl_median", "kl_99", "kl_max", "same_top", "rms_p"} <= set(q4["divergence"])
    assert q4["questions"]["total"] == 5 and 0 < q4["perplexity"]["error"] < q4["perplexity"]["value"]
    for figure in ("tokens_per_second", "prompt_tokens_per_second", "load_seconds", "peak_memory"):
        assert q4[figure] > 0
    assert q4["estimated"]["memory"] > 0 and q4["efficient"]
    rows = {row["name"]: row for row in csv.DictReader((tmp_path / "t.csv").open())}
    assert float(rows["q4.gguf"]["kl"]) == pytest.approx(q4["divergence"]["kl"]["value"])
    assert "| q4.gguf | Q4_K_M |" in (tmp_path / "t.md").read_text()
    advised = quantdeck("advise", "sample", "--json").document["candidates"]
    measured = {row["level"]: row["measured"] for row in advised}
    assert measured["Q4_K_M"] == f"KL {q4['divergence']['kl']['value']:.4f}" and measured["Q6_K"] is None


def test_evaluate_in_lock_step_writes_no_logits(quantdeck: Run, environ: dict[str, str], tmp_path: Path) -> None:
    assert quantdeck("quantize", "sample", "gguf", "-q", "Q4_0", "-o", "q.gguf").code == 0
    arguments = ["--reference", "sample", "--chunks", "2", "--questions", "none", "--json"]
    kept = quantdeck("evaluate", "q.gguf", *arguments).document["divergence"]["kl"]["value"]
    cache = Path(environ["QUANTDECK_HOME"]) / "cache" / "evaluations"
    for logits in cache.glob("*.logits"):
        logits.unlink()
    said = quantdeck("evaluate", "q.gguf", *arguments, "--lock-step", "--no-speed")
    document = said.document
    assert document["tokens_per_second"] is document["peak_memory"] is document["estimated"] is None
    assert "tokens/s" not in said.err
    assert document["divergence"]["kl"]["value"] == pytest.approx(kept, rel=1e-6) and document["questions"] is None
    assert not list(cache.glob("*.logits"))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["calibrate", "none.gguf"], 3, "none.gguf"),
        (["calibrate", "sample", "-d", "none.txt"], 3, "none.txt"),
        (["calibrate", "sample", "-o", "no/folder/im.gguf"], 2, "no folder"),
        (["calibrate", "sample", "--context", "8"], 2, "Chunks of 8"),
        (["evaluate", "none.gguf"], 3, "none.gguf"),
        (["evaluate", "sample", "--questions", "none.jsonl"], 3, "none.jsonl"),
        (["evaluate", "sample", "-d", "none.txt"], 3, "none.txt"),
        (["evaluate", "sample", "--reference", "none.gguf"], 3, "none.gguf"),
        (["evaluate", "sample", "-d", "bad.txt"], 2, "UTF-8"),
        (["evaluate", "sample", "--chunks", "-1", "--json"], 2, "negative"),
        (["evaluate", "sample", "-d", "tiny.txt"], 2, "fewer than one chunk of 512"),
        (["evaluate", "sample", "-d", "tiny.jsonl", "--no-speed"], 2, "fewer than one chunk of 512"),
        (["calibrate", "sample", "-d", "tiny.txt", "-o", "im.gguf"], 2, "fewer than one chunk of 512"),
        (["calibrate", "sample", "-d", "tiny.jsonl", "-o", "im.gguf"], 2, "fewer than one chunk of 512"),
        (["evaluate", "sample", "bert.gguf"], 2, "bert.gguf has no perplexity"),
        (["evaluate", "sample", "--reference", "bert.gguf"], 2, "bert.gguf has no perplexity"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    arguments: list[str], code: int, says: str, quantdeck: Run, tmp_path: Path
) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00" * 100)
    (tmp_path / "tiny.txt").write_text("far too short")
    (tmp_path / "tiny.jsonl").write_text('{"messages": [{"role": "user", "content": "far too short"}]}')
    if "bert.gguf" in arguments:
        make_model(tmp_path / "bert.gguf", "bert")
    assert says in quantdeck(*arguments).fails_in_one_sentence(code)


def test_quantize_takes_what_calibrate_makes(quantdeck: Run, tmp_path: Path) -> None:
    assert quantdeck("calibrate", "sample", "-o", "im.gguf", "--chunks", "2").code == 0
    said = quantdeck("quantize", "sample", "gguf", "-q", "IQ3_XXS", "--imatrix", "im.gguf", "-o", "q.gguf", "--json")
    assert said.code == 0, said.err
    metadata = read_model(tmp_path / "q.gguf").metadata
    assert metadata["quantize.imatrix.file"].python == "im.gguf"
    assert metadata["quantize.imatrix.dataset"].python == "calibration.txt"
    assert metadata["quantize.imatrix.chunks_count"].python == 2


def test_a_table_never_replaces_a_model(quantdeck: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / "precious.gguf").write_text("precious")
    for flag in ("--markdown", "--csv"):
        quantdeck("evaluate", "sample", flag, "precious.gguf").fails_in_one_sentence(2)
        quantdeck("evaluate", "sample", flag, "no/folder/table.md").fails_in_one_sentence(2)
    assert (tmp_path / "precious.gguf").read_text() == "precious"
