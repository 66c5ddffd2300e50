"""Importance matrix files, held against those of llama.cpp's own tool.

`data/sample-imatrix.gguf` was written by llama.cpp's imatrix tool, of the version inside llama-cpp-python 0.3.36:
    llama-imatrix -m sample-f16.gguf -f calibration.txt -c 512 --chunks 4 -t 2 --parse-special --no-ppl -o out.gguf
and LEGACY_SHA256 is the hash of what the same command wrote with `--output-format dat`.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quantdeck.workbench.errors import BadArgument, ModelNotFound, ValidationFailed
from quantdeck.workbench.imatrix import (
    Entry,
    Imatrix,
    ImatrixFile,
    read_imatrix,
    write_imatrix,
    write_legacy_imatrix,
)
from quantdeck.workbench.model import Tensor

REFERENCE = Path(__file__).parent / "data" / "sample-imatrix.gguf"
LEGACY_SHA256 = "1aaf1ced9697e5b8a6623b89987f0448a7e6a7c14837c7366daa04532fd89d84"


def tensor(name="w", *shape):
    return Tensor(name, shape, "F16", 0)


@pytest.fixture
def reference():
    return read_imatrix(REFERENCE)


@pytest.fixture
def experts():
    sums = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    return Imatrix({"w": Entry(sums, np.array([2, 0, 600]))}, ("text",), 2, 512)


def test_reads_what_the_tool_writes(reference):
    assert (reference.datasets, reference.chunk_count, reference.chunk_size) == (("calibration.txt",), 4, 512)
    assert len(reference.entries) == 5 * 7
    assert reference.entries["blk.4.ffn_down.weight"].sums.shape == (1, 768)
    assert list(reference.entries["blk.0.attn_q.weight"].counts) == [2048]


def test_writes_the_same_bytes_as_the_tool(reference, tmp_path):
    write_imatrix(tmp_path / "again.gguf", reference)
    assert (tmp_path / "again.gguf").read_bytes() == REFERENCE.read_bytes()
    write_legacy_imatrix(tmp_path / "again.dat", reference)
    assert hashlib.sha256((tmp_path / "again.dat").read_bytes()).hexdigest() == LEGACY_SHA256


def test_both_forms_give_the_same_weights(reference, tmp_path):
    write_legacy_imatrix(tmp_path / "im.dat", reference)
    legacy = read_imatrix(tmp_path / "im.dat")
    assert legacy.chunk_count == 4 and legacy.datasets == ("calibration.txt",)
    for name, entry in reference.entries.items():
        shape = tensor(name, entry.sums.size, 8)
        ours, theirs = reference.weights_for(shape), legacy.weights_for(shape)
        assert ours.shape == (1, entry.sums.size) and ours.dtype == np.float32
        np.testing.assert_array_equal(ours[0], entry.sums[0] / np.float32(2048))
        np.testing.assert_array_equal(ours, theirs)


def test_experts_keep_their_counts(experts, tmp_path):
    write_imatrix(tmp_path / "im.gguf", experts)
    file = ImatrixFile(tmp_path / "im.gguf")
    weights = file.weights_for(tensor("w", 4, 8, 3))
    np.testing.assert_array_equal(weights[0], np.array([0.5, 1, 1.5, 2], np.float32))
    np.testing.assert_array_equal(weights[1], np.ones(4, np.float32))
    np.testing.assert_array_equal(weights[2], experts.entries["w"].sums[2] / np.float32(600))
    facts = file.facts()
    assert (facts.names, facts.dataset, facts.chunks) == ({"w"}, "text", 2)


def test_one_count_serves_all_matrices_of_a_dense_weight(tmp_path):
    sums = np.arange(8, dtype=np.float32).reshape(1, 8)
    matrix = Imatrix({"w": Entry(sums, np.array([4]))})
    np.testing.assert_array_equal(matrix.weights_for(tensor("w", 4, 9, 2)), sums.reshape(2, 4) / 4)


def test_what_it_does_not_cover(experts):
    assert experts.weights_for(tensor("other", 4, 8)) is None
    with pytest.raises(BadArgument, match="another model"):
        experts.weights_for(tensor("w", 4, 8))
    # llama.cpp passes over a token embedding of another size, and so do we.
    assert Imatrix({"token_embd.weight": experts.entries["w"]}).weights_for(tensor("token_embd.weight", 4, 8)) is None


def test_values_that_are_not_numbers(experts):
    sums = experts.entries["w"].sums.copy()
    sums[2, 1] = np.nan
    with pytest.raises(ValidationFailed, match="not numbers"):
        Imatrix({"w": replace(experts.entries["w"], sums=sums)}).weights_for(tensor("w", 4, 8, 3))


@pytest.mark.parametrize("form", ["gguf", "dat"])
def test_every_truncation_is_refused_in_words(experts, tmp_path, form):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    (write_imatrix if form == "gguf" else write_legacy_imatrix)(whole, experts)
    content = whole.read_bytes()
    read_imatrix(whole)
    last_needed = len(content) - (struct.calcsize("<ii") + 4 if form == "dat" else 20)
    for length in range(last_needed):
        cut.write_bytes(content[:length])
        with pytest.raises(ValidationFailed):
            read_imatrix(cut)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        b"\x7fELF" + bytes(200),
        struct.pack("<i", -1) + bytes(100),
        struct.pack("<i", 1 << 30) + bytes(100),
        struct.pack("<ii", 1, 1 << 30) + bytes(100),
        struct.pack("<ii", 1, -5) + bytes(100),
        struct.pack("<ii1sii", 1, 1, b"w", 1, -1) + bytes(100),
        struct.pack("<ii1sii", 1, 1, b"w", 1, 1 << 30) + bytes(100),
    ],
)
def test_hostile_files(content, tmp_path):
    path = tmp_path / "im"
    path.write_bytes(content)
    with pytest.raises(ValidationFailed):
        read_imatrix(path)


def test_counts_that_cannot_be(experts, tmp_path):
    path = tmp_path / "im.gguf"
    for bad in (np.nan, np.inf, -1.0, 1e30):
        write_imatrix(path, experts)
        content = bytearray(path.read_bytes())
        at = content.rindex(np.float32(600).tobytes())
        content[at : at + 4] = np.float32(bad).tobytes()
        path.write_bytes(content)
        with pytest.raises(ValidationFailed, match="counts"):
            read_imatrix(path)


def test_a_model_is_no_imatrix(tmp_path):
    from quantdeck.workbench.sample import SAMPLE

    with pytest.raises(ValidationFailed, match=r"no imatrix\.datasets"):
        read_imatrix(SAMPLE.model)
    with pytest.raises(ModelNotFound):
        read_imatrix(tmp_path / "nothing")
