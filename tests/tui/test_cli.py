"""The command line as a script sees it: documents, exit codes, one sentence for whatever is wrong."""

from __future__ import annotations

import hashlib
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from quantdeck.workbench.sample import SAMPLE
from support.command import Said

Run = Callable[..., Said]
COMMANDS = ["demo", "detect", "inspect", "advise", "quantize", "calibrate", "evaluate", "jobs", "chat", "completion"]


def test_help_names_every_command_and_exit_code(quantdeck: Run) -> None:
    said = quantdeck("--help")
    assert "a checkpoint folder" in said.out and "OWNER/NAME[/FILE|:LEVEL] on the Hub" in said.out
    assert said.code == 0
    assert all(command in said.out for command in COMMANDS)
    assert "6 validation failed" in said.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(quantdeck: Run, command: str) -> None:
    said = quantdeck(command, "--help")
    assert said.code == 0 and "usage: quantdeck" in said.out


def test_version(quantdeck: Run) -> None:
    assert quantdeck("--version").out.startswith("quantdeck 0.")


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_the_commands(quantdeck: Run, shell: str) -> None:
    said = quantdeck("completion", shell)
    assert said.code == 0 and "quantize" in said.out and "advise" in said.out


def test_detect(quantdeck: Run) -> None:
    document = quantdeck("detect", "--json").document
    assert document["cpu"]["logical_cores"] >= 1
    assert 0 < document["memory"]["usable"] <= document["memory"]["total"]
    assert document["bandwidth"]["bytes_per_second"] > 1e8


def test_bandwidth_is_measured_once_and_again_when_asked(quantdeck: Run) -> None:
    first = quantdeck("detect", "--json").document["bandwidth"]
    assert quantdeck("detect", "--json").document["bandwidth"] == first
    assert quantdeck("detect", "--measure", "--json").document["bandwidth"] != first


def test_inspect(quantdeck: Run) -> None:
    document = quantdeck("inspect", "sample", "--json").document
    assert document["architecture"] == "llama" and document["parameters"] == 4459264
    assert {"name", "shape", "type", "bytes"} <= set(document["tensors"][0])
    assert document["metadata"]["general.name"] == "Quantdeck sample 4M"


def test_advise_gives_what_the_design_promises(quantdeck: Run) -> None:
    document = quantdeck("advise", "sample", "--context", "256", "--goal", "quality", "--json").document
    assert set(document["recommendation"]) == {"format", "level", "why"}
    row = document["candidates"][0]
    assert {"level", "bytes", "bits_per_weight", "memory", "fits", "tokens_per_second", "quality"} <= set(row)
    assert set(row["memory"]) == {"weights", "kv_cache", "compute", "total"}


def test_advise_for_another_machine(quantdeck: Run) -> None:
    tiny = quantdeck("advise", "sample", "--memory", "1G", "--vram", "0", "--json")
    assert tiny.code == 0 and tiny.document["usable_memory"] <= 1 << 30


def test_advised_size_is_the_size_that_is_written(quantdeck: Run, tmp_path: Path) -> None:
    rows = {row["level"]: row for row in quantdeck("advise", "sample", "--json").document["candidates"]}
    made = quantdeck("quantize", "sample", "gguf", "-q", "q5_k_m", "-o", "made.gguf", "--json")
    assert made.code == 0, made.err
    assert (tmp_path / "made.gguf").stat().st_size == made.document["bytes"] == rows["Q5_K_M"]["bytes"]


def test_quantize_tells_what_it_made(quantdeck: Run, tmp_path: Path) -> None:
    said = quantdeck("quantize", "sample", "gguf", "-q", "Q4_K_M", "-o", "out.gguf", "--json")
    document = said.document
    assert said.code == 0 and document["status"] == "done"
    assert document["sha256"] == hashlib.sha256((tmp_path / "out.gguf").read_bytes()).hexdigest()
    assert {t["type"] for t in document["tensors"]} == {"Q4_K", "Q6_K", "F32"}
    shown = quantdeck("jobs", "show", document["job"], "--json").document
    assert shown["status"] == "done" and shown["sha256"] == document["sha256"]
    assert 0 < shown["relative_error"] < 0.2


def test_dry_run_writes_nothing(quantdeck: Run, tmp_path: Path) -> None:
    said = quantdeck("quantize", "sample", "gguf", "-q", "Q8_0", "-o", "out.gguf", "--dry-run", "--json")
    assert said.code == 0 and said.document["bytes"] > 4_000_000
    assert not list(tmp_path.glob("*.gguf")) and quantdeck("jobs", "--json").document["jobs"] == []


def test_detach_returns_and_watch_sees_the_end(quantdeck: Run, tmp_path: Path) -> None:
    started = quantdeck("quantize", "sample", "gguf", "-q", "Q6_K", "-o", "out.gguf", "--detach", "--json").document
    watched = quantdeck("jobs", "watch", started["job"], "--json")
    assert watched.code == 0 and watched.document["status"] == "done"
    assert (tmp_path / "out.gguf").is_file()


def test_overrides(quantdeck: Run, tmp_path: Path) -> None:
    arguments = ["--tensor-type", "ffn_down=Q8_0", "--embedding-type", "q5_k", "--pure", "--dry-run", "--json"]
    types = {
        t["name"]: t["type"]
        for t in quantdeck("quantize", "sample", "gguf", "-q", "Q4_K_M", *arguments).document["tensors"]
    }
    assert types["token_embd.weight"] == "Q5_K" and types["blk.0.ffn_down.weight"] == "Q8_0"
    assert types["blk.0.attn_v.weight"] == "Q4_K"


def test_chat_answers(quantdeck: Run) -> None:
    said = quantdeck("chat", "sample", "-p", "What is the capital of France?", "--temperature", "0", "--json")
    assert said.code == 0 and "Paris" in said.document["answer"]
    assert said.document["reason"] == "stop" and said.document["context_size"] == 512


def test_a_conversation_from_a_pipe(quantdeck: Run) -> None:
    said = quantdeck("chat", "sample", "--temperature", "0", stdin="What is the capital of France?\nWhat is Q4_K_M?\n")
    assert said.code == 0 and "Paris" in said.out and "Q4_K_M uses" in said.out


def test_smoke_test(quantdeck: Run) -> None:
    said = quantdeck("chat", "sample", "--smoke-test", "--json")
    assert said.code == 0 and said.document["ok"] and len(said.document["results"]) == 10


def test_demo(quantdeck: Run, tmp_path: Path) -> None:
    said = quantdeck("demo", "--headless", "-q", "Q4_K_M")
    assert said.code == 0, said.err
    for words in ["The machine", "The recommendation", "loaded by llama.cpp", "Paris", "Before and after", "try next"]:
        assert words in said.out
    again = quantdeck("demo", "--json", "-q", "Q4_K_M")
    assert again.code == 0 and len(again.document["answers"]) == 3


def test_the_workbench_wants_a_terminal(quantdeck: Run) -> None:
    assert "terminal" in quantdeck().fails_in_one_sentence(1)


# -- what is wrong with an input ---------------------------------------------------------------------------------------


def _truncated(path: Path, size: int) -> None:
    path.write_bytes(SAMPLE.model.read_bytes()[:size])


def _changed(path: Path, at: int, new: bytes) -> None:
    content = bytearray(SAMPLE.model.read_bytes())
    content[at : at + len(new)] = new
    path.write_bytes(content)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


BAD_INPUTS: dict[str, tuple[Callable[[Path], object], int]] = {
    "missing": (lambda path: None, 3),
    "empty": (lambda path: path.touch(), 6),
    "a folder": (lambda path: path.mkdir(), 3),
    "a pipe": (_fifo, 3),
    "a socket": (_socket, 3),
    "text": (lambda path: path.write_text("hello " * 1000), 6),
    "zip": (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(5000)), 6),
    "magic alone": (lambda path: _truncated(path, 4), 6),
    "cut in the counts": (lambda path: _truncated(path, 20), 6),
    "cut in the metadata": (lambda path: _truncated(path, 700), 6),
    "cut in the vocabulary": (lambda path: _truncated(path, 20000), 6),
    "cut in the data": (lambda path: _truncated(path, 5_000_000), 6),
    "one byte short": (lambda path: _truncated(path, SAMPLE.model.stat().st_size - 1), 6),
    "version 99": (lambda path: _changed(path, 4, b"\x63\0\0\0"), 6),
    "2^60 tensors": (lambda path: _changed(path, 8, (1 << 60).to_bytes(8, "little")), 6),
    "2^63 keys": (lambda path: _changed(path, 16, (1 << 63).to_bytes(8, "little")), 6),
    "a key of 2^40 bytes": (lambda path: _changed(path, 24, (1 << 40).to_bytes(8, "little")), 6),
}


@pytest.mark.parametrize("kind", BAD_INPUTS)
@pytest.mark.parametrize("command", ["inspect", "advise", "quantize", "chat"])
def test_bad_input_is_one_sentence(quantdeck: Run, tmp_path: Path, kind: str, command: str) -> None:
    make, code = BAD_INPUTS[kind]
    source = tmp_path / "model.gguf"
    make(source)
    before = source.read_bytes() if source.is_file() else None
    arguments = {"quantize": ["gguf", "-q", "Q4_0", "-o", "out.gguf"], "chat": ["-p", "hello"]}.get(command, [])
    said = quantdeck(command, "model.gguf", *arguments, timeout=60)
    said.fails_in_one_sentence(code)
    assert not list(tmp_path.glob("*out.gguf*"))
    assert (source.read_bytes() if source.is_file() else None) == before


def test_no_permission(quantdeck: Run, tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(SAMPLE.model.read_bytes())
    source.chmod(0)
    if os.access(source, os.R_OK):
        pytest.skip("this user may read everything")
    quantdeck("inspect", "model.gguf").fails_in_one_sentence(1)


def test_already_quantized(quantdeck: Run) -> None:
    assert quantdeck("quantize", "sample", "gguf", "-q", "Q8_0", "-o", "once.gguf").code == 0
    assert "already quantized" in quantdeck(
        "quantize", "once.gguf", "gguf", "-q", "Q4_0", "-o", "twice.gguf"
    ).fails_in_one_sentence(2)


def test_output_exists_and_stays(quantdeck: Run, tmp_path: Path) -> None:
    (tmp_path / "out.gguf").write_text("precious")
    said = quantdeck("quantize", "sample", "gguf", "-q", "Q8_0", "-o", "out.gguf")
    said.fails_in_one_sentence(2)
    assert (tmp_path / "out.gguf").read_text() == "precious"


def test_output_is_the_source(quantdeck: Run, tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(SAMPLE.model.read_bytes())
    (tmp_path / "link.gguf").symlink_to(source)
    for output in ("model.gguf", "link.gguf"):
        quantdeck("quantize", "model.gguf", "gguf", "-q", "Q8_0", "-o", output, "--overwrite").fails_in_one_sentence(2)
    assert source.read_bytes() == SAMPLE.model.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-q", "Q4_K_X"], "Q4_K_M"),
        (["-q", "Q4_0", "--tensor-type", "ffn_down"], "REGEX=TYPE"),
        (["-q", "Q4_0", "--tensor-type", "(=Q8_0"], ""),
        (["-q", "Q4_0", "--tensor-type", "nothing_like_it=Q8_0"], ""),
        (["-q", "Q4_0", "--output-type", "Q9_9"], ""),
        (["-q", "IQ2_XXS"], "importance matrix"),
        (["-q", "Q4_0", "--workers", "5000"], "workers"),
        (["-q", "Q4_0", "-o", "no/such/folder/out.gguf"], "folder"),
        (["-q", "Q4_0", "--imatrix", "no-such-file"], ""),
    ],
)
def test_bad_wishes_fail_before_anything_is_written(
    quantdeck: Run, tmp_path: Path, arguments: list[str], words: str
) -> None:
    said = quantdeck("quantize", "sample", "gguf", *arguments)
    assert said.code in (2, 3, 6), said
    assert words in said.fails_in_one_sentence(said.code)
    assert not list(tmp_path.glob("*.gguf*"))
    assert not list((tmp_path / "home" / "jobs").glob("*")) if (tmp_path / "home" / "jobs").exists() else True


def test_failures_are_documents_too(quantdeck: Run) -> None:
    said = quantdeck("inspect", "nothing.gguf", "--json")
    assert said.code == 3 and said.document["exit_code"] == 3 and "nothing.gguf" in said.document["error"]


def test_escape_sequences_in_names_never_reach_the_terminal(quantdeck: Run, tmp_path: Path) -> None:
    said = quantdeck("inspect", "evil\x1b]0;title\x07.gguf")
    assert "\x1b" not in said.err and "\x07" not in said.err


def test_unknown_job(quantdeck: Run) -> None:
    quantdeck("jobs", "show", "nothing").fails_in_one_sentence(2)
    quantdeck("jobs", "watch").fails_in_one_sentence(2)


def test_a_prompt_that_does_not_fit(quantdeck: Run) -> None:
    said = quantdeck("chat", "sample", "-p", "word " * 3000)
    assert said.code == 2 and "Traceback" not in said.err
    assert "does not fit into the context of 512 tokens" in said.err


def test_a_name_with_line_breaks_stays_in_its_line(quantdeck: Run, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_name("nice\n  Size             1 B\x1b[31m")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    said = quantdeck("inspect", "m.gguf")
    assert said.code == 0 and "\x1b" not in said.out
    assert [line.split()[0] for line in said.out.splitlines()].count("Size") == 1


def test_usage_errors_are_documents_too(quantdeck: Run) -> None:
    said = quantdeck("quantize", "--json")
    assert said.code == 2 and said.document["exit_code"] == 2 and "MODEL" in said.document["error"]


def test_requantizing_on_demand(quantdeck: Run) -> None:
    assert quantdeck("quantize", "sample", "gguf", "-q", "Q8_0", "-o", "once.gguf").code == 0
    said = quantdeck("quantize", "once.gguf", "gguf", "-q", "Q4_0", "-o", "twice.gguf", "--allow-requantize", "--json")
    assert said.code == 0 and said.document["status"] == "done"


def test_a_home_that_cannot_be_written_does_not_stop_a_chat(quantdeck: Run, environ: dict[str, str]) -> None:
    environ["QUANTDECK_HOME"] = "/proc/nowhere"
    assert "Paris" in quantdeck("chat", "sample", "-p", "What is the capital of France?", "--temperature", "0").out


@pytest.mark.parametrize("closed", ["<&-", "<&- >&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_the_caller_closed(environ: dict[str, str], tmp_path: Path, closed: str) -> None:
    made = tmp_path / "made.gguf"
    line = f"exec {shlex.quote(sys.executable)} -m quantdeck.tui.cli quantize sample -q Q8_0 -o {made} {closed}"
    done = subprocess.run(["/bin/bash", "-c", line], env=environ, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert made.is_file()
