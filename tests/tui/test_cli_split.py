"""Outputs of several files on the command line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from support.command import Said

Run = Callable[..., Said]


def test_a_split_model_goes_the_whole_way(quantdeck: Run, tmp_path: Path) -> None:
    """Made in files, opened by the first of them: job, inspect, chat, hand-over, card."""
    said = quantdeck("quantize", "sample", "gguf", "-q", "Q8_0", "-o", "out.gguf", "--split-max-size", "2M", "--json")
    assert said.code == 0, said.err
    document = said.document
    names = [f"out-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
    assert sorted(path.name for path in tmp_path.glob("*.gguf")) == names
    contents = [(tmp_path / name).read_bytes() for name in names]
    assert document["output"] == str(tmp_path / names[0])
    assert document["files"] == [
        {"path": str(tmp_path / name), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in zip(names, contents, strict=True)
    ]
    assert document["sha256"] == hashlib.sha256(b"".join(contents)).hexdigest()
    assert document["bytes"] == sum(map(len, contents))
    assert {tensor["file"] for tensor in document["tensors"]} == {0, 1, 2}
    shown = quantdeck("jobs", "show", document["job"], "--json").document
    assert shown["output"] == document["output"] and shown["sha256"] == document["sha256"]
    assert quantdeck("inspect", names[0], "--json").document["files"] == [str(tmp_path / name) for name in names]
    assert "Paris" in quantdeck("chat", names[0], "-p", "What is the capital of France?", "--temperature", "0").out
    assert names[0] in quantdeck("handover", names[0]).out


def test_words_name_the_hash_of_each_file(quantdeck: Run, tmp_path: Path) -> None:
    said = quantdeck("quantize", "sample", "gguf", "-q", "F16", "-o", "out", "--split-max-size", "4M")
    assert said.code == 0, said.err
    words = said.out + said.err
    for path in sorted(tmp_path.glob("out-*.gguf")):
        assert f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" in words
    assert "out-00001-of-00003.gguf and 2 more" in words


@pytest.mark.parametrize(
    "size", ["0M", "2", "2T", "1.5G", "-1M", "", "2g", "99999999G", "2\N{ARABIC-INDIC DIGIT TWO}M"]
)
def test_sizes_that_are_none(quantdeck: Run, tmp_path: Path, size: str) -> None:
    said = quantdeck("quantize", "sample", "gguf", "-q", "Q8_0", "-o", "out.gguf", f"--split-max-size={size}")
    assert "is no size" in said.fails_in_one_sentence(2)
    assert not list(tmp_path.glob("*.gguf"))


def test_no_file_is_written_over(quantdeck: Run, tmp_path: Path) -> None:
    arguments = ("quantize", "sample", "gguf", "-q", "Q8_0", "-o", "out.gguf", "--split-max-size", "2M")
    (tmp_path / "out-00003-of-00003.gguf").write_text("mine")
    assert "out-00003-of-00003.gguf exists already" in quantdeck(*arguments).fails_in_one_sentence(2)
    assert [path.name for path in tmp_path.glob("*.gguf")] == ["out-00003-of-00003.gguf"]
    assert quantdeck(*arguments, "--overwrite").code == 0


def test_default_names_are_without_the_number(quantdeck: Run, tmp_path: Path) -> None:
    made = quantdeck("quantize", "sample", "gguf", "-q", "F16", "-o", "model-f16.gguf", "--split-max-size", "4M")
    assert made.code == 0, made.err
    said = quantdeck("quantize", "model-f16-00001-of-00003.gguf", "gguf", "-q", "Q8_0", "--dry-run", "--json")
    assert said.document["output"] == str(tmp_path / "model-Q8_0.gguf"), said.err
