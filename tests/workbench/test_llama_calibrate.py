"""Calibration, held against the file that llama.cpp's own tool wrote (see test_imatrix.py); interruptions; texts."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest

from quantdeck.workbench.errors import BadArgument, ModelNotFound
from quantdeck.workbench.imatrix import ImatrixFile, read_imatrix
from quantdeck.workbench.llama import Cancelled, LlamaFailed
from quantdeck.workbench.llama.calibrate import CalibrationSettings, calibrate, coverage, partial_of
from quantdeck.workbench.llama.corpus import Document, read_corpus
from quantdeck.workbench.llama.troubles import DiskFull
from quantdeck.workbench.llama.windows import windows_at_once
from quantdeck.workbench.model import read_model
from quantdeck.workbench.sample import SAMPLE
from support.models import make_model
from support.sample_variants import with_bytes

REFERENCE = Path(__file__).parent / "data" / "sample-imatrix.gguf"
FOUR = CalibrationSettings(chunks=4, threads=1)


@pytest.fixture(scope="module")
def four_chunks(tmp_path_factory):
    """An uninterrupted calibration of four chunks."""
    folder = tmp_path_factory.mktemp("four")
    heard = []
    done = calibrate(SAMPLE.model, SAMPLE.calibration_file, folder / "im.gguf", folder, FOUR, heard.append)
    return done, heard


def test_equals_the_tool(four_chunks):
    done, _ = four_chunks
    ours, theirs = read_imatrix(done.path), read_imatrix(REFERENCE)
    assert (ours.datasets, ours.chunk_count, ours.chunk_size) == (theirs.datasets, 4, 512)
    assert ours.entries.keys() == theirs.entries.keys() and not ours.extra
    for name, entry in theirs.entries.items():
        np.testing.assert_array_equal(ours.entries[name].counts, entry.counts)
        np.testing.assert_allclose(ours.entries[name].sums, entry.sums, rtol=1e-4, err_msg=name)


def test_progress_and_what_was_done(four_chunks):
    done, heard = four_chunks
    assert (done.chunks, done.tokens, done.resumed, done.parse_special) == (4, 2048, 0, True)
    assert [p.done for p in heard] == [0, 1, 2, 3, 4] and heard[-1].seconds_left == 0
    assert all(p.chunks == 4 and p.seconds > 0 for p in heard)
    assert not partial_of(done.path).exists()


def test_the_sample_is_covered_whole(four_chunks):
    covered = coverage(ImatrixFile(four_chunks[0].path), read_model(SAMPLE.model))
    assert covered.complete and covered.covered == 35 and not covered.rare


def test_a_cancelled_calibration_goes_on(four_chunks, tmp_path):
    output, heard = tmp_path / "im.gguf", []
    with pytest.raises(Cancelled, match="goes on there"):
        calibrate(SAMPLE.model, SAMPLE.calibration_file, output, tmp_path, FOUR, heard.append, lambda: len(heard) > 2)
    assert not output.exists()
    done = calibrate(SAMPLE.model, SAMPLE.calibration_file, output, tmp_path, FOUR)
    assert 2 <= done.resumed <= 4
    assert output.read_bytes() == four_chunks[0].path.read_bytes()


def test_a_killed_calibration_goes_on(four_chunks, tmp_path):
    output, heard = tmp_path / "im.gguf", []

    def kill(progress):
        heard.append(progress)
        if progress.done == 2:
            for child in psutil.Process().children():
                if str(tmp_path) in child.cwd():
                    os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(LlamaFailed):
        calibrate(SAMPLE.model, SAMPLE.calibration_file, output, tmp_path, FOUR, kill)
    done = calibrate(SAMPLE.model, SAMPLE.calibration_file, output, tmp_path, FOUR)
    assert done.resumed >= 2
    assert output.read_bytes() == four_chunks[0].path.read_bytes()


def test_another_text_or_a_damaged_state_begins_anew(tmp_path):
    output, heard = tmp_path / "im.gguf", []
    with pytest.raises(Cancelled):
        calibrate(SAMPLE.model, SAMPLE.calibration_file, output, tmp_path, FOUR, heard.append, lambda: len(heard) > 1)
    two = CalibrationSettings(chunks=2, threads=1)
    assert calibrate(SAMPLE.model, SAMPLE.eval_file, output, tmp_path, two).resumed == 0
    partial_of(output).write_bytes(b"GGUF garbage")
    assert calibrate(SAMPLE.model, SAMPLE.eval_file, output, tmp_path, two).resumed == 0


def test_a_full_disk_is_told_in_words_and_leaves_no_scraps(tmp_path):
    blocked = partial_of(tmp_path / "im.gguf")
    blocked.with_name(blocked.name + ".new").symlink_to("/dev/full")
    with pytest.raises(DiskFull, match=r"No space left on device$"):
        calibrate(SAMPLE.model, SAMPLE.calibration_file, tmp_path / "im.gguf", tmp_path, FOUR)
    assert not list(tmp_path.glob(".*"))


def test_experts_are_told_apart(tmp_path):
    path = make_model(tmp_path / "moe.gguf", "qwen3moe", n_layer=2)
    settings = CalibrationSettings(context=64, chunks=6, threads=1)
    calibrate(path, SAMPLE.calibration_file, tmp_path / "im.gguf", tmp_path, settings)
    matrix, model = read_imatrix(tmp_path / "im.gguf"), read_model(path)
    used = model.get("{arch}.expert_used_count")
    for name in ("blk.0.ffn_gate_exps.weight", "blk.1.ffn_down_exps.weight"):
        entry, tensor = matrix.entries[name], model.by_name[name]
        assert entry.sums.shape == (16, tensor.row_length)
        assert entry.counts.sum() == 6 * 64 * used
        assert ((entry.sums > 0).any(axis=1) == (entry.counts > 0)).all()
    covered = coverage(ImatrixFile(tmp_path / "im.gguf"), model, few=20)
    for name, experts in covered.experts.items():
        assert all(matrix.entries[name].counts[i] == 0 for i in experts)
    for name, experts in covered.rare.items():
        assert all(0 < matrix.entries[name].counts[i] < 20 for i in experts)
    assert covered.rare or covered.experts


def test_the_output_is_weighed_if_wanted(tmp_path):
    path = make_model(tmp_path / "m.gguf", "llama", n_layer=1)
    settings = CalibrationSettings(context=64, chunks=1, threads=1, with_output=True)
    calibrate(path, SAMPLE.calibration_file, tmp_path / "im.gguf", tmp_path, settings)
    assert read_imatrix(tmp_path / "im.gguf").entries["output.weight"].counts[0] == 64


def test_how_the_text_is_read(tmp_path):
    def tokens(corpus, parse):
        settings = CalibrationSettings(context=32, chunks=1, threads=1, parse_special=parse)
        heard = []
        calibrate(SAMPLE.model, corpus, tmp_path / "im.gguf", tmp_path, settings, heard.append)
        return heard[0].parse_special

    plain = tmp_path / "plain.txt"
    plain.write_text("Nothing but words. " * 60)
    assert tokens(plain, None) is False
    assert tokens(plain, True) is True
    assert tokens(SAMPLE.calibration_file, None) is True
    assert tokens(SAMPLE.calibration_file, False) is False
    chats = tmp_path / "chats.jsonl"
    turn = {"messages": [{"role": "user", "content": "What is Q4_0?"}, {"role": "assistant", "content": "A level."}]}
    chats.write_text("\n".join([json.dumps(turn)] * 10))
    assert tokens(chats, None) is True


@pytest.mark.parametrize(
    ("context", "together"),
    [
        (512, 1),
        (2048, 1),
        (600, 1),  # 170 three times and 90 in the tool, 512 and 88 here
        (128, 16),  # 32 tokens of each at a time
        (100, 20),
        (301, 6),  # 85 three times, then 46
        (560, 3),  # 170 three times, then 50
        (1030, 1),  # the tool takes it alone
    ],
)
def test_windows_are_computed_together_where_it_makes_a_difference(context, together):
    assert windows_at_once(context) == together


def test_short_chunks_are_counted_once_each(tmp_path):
    """Twenty chunks of 100 tokens at a time: the steps of 25 leave nothing out, and the last five chunks are a few."""
    heard = []
    settings = CalibrationSettings(context=100, chunks=45, threads=1)
    output = tmp_path / "im.gguf"
    with pytest.raises(Cancelled):
        calibrate(
            SAMPLE.model, SAMPLE.calibration_file, output, tmp_path, settings, heard.append, lambda: len(heard) > 1
        )
    done = calibrate(SAMPLE.model, SAMPLE.calibration_file, output, tmp_path, settings, heard.append)
    assert {p.done for p in heard} == {0, 20, 40, 45} and done.resumed in (20, 40)
    assert all(entry.counts.tolist() == [4500] for entry in read_imatrix(output).entries.values())


def test_what_cannot_be_calibrated(tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("too short")
    with pytest.raises(BadArgument, match=r"fewer than one chunk of 512; take more text or a smaller context$"):
        calibrate(SAMPLE.model, short, tmp_path / "im.gguf", tmp_path, FOUR)
    nan = with_bytes(tmp_path / "m.gguf", "blk.1.attn_norm.weight", np.full(8, np.nan, np.float32).tobytes())
    with pytest.raises(LlamaFailed, match="not numbers"):
        calibrate(nan, SAMPLE.calibration_file, tmp_path / "im.gguf", tmp_path, FOUR)
    with pytest.raises(BadArgument, match="Chunks of 5"):
        calibrate(SAMPLE.model, short, tmp_path / "im.gguf", tmp_path, CalibrationSettings(context=5))
    with pytest.raises(BadArgument, match="no folder"):
        calibrate(SAMPLE.model, short, tmp_path / "no" / "im.gguf", tmp_path)
    with pytest.raises(ModelNotFound):
        calibrate(SAMPLE.model, tmp_path / "none.txt", tmp_path / "im.gguf", tmp_path)


# -- texts -------------------------------------------------------------------------------------------------------------

TURNS = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"})


@pytest.mark.parametrize(
    ("name", "content", "documents"),
    [
        ("a.txt", "\ufeffwörter\n", (Document("wörter\n"),)),
        ("a.md", "[not json", (Document("[not json"),)),
        ("a.json", '["a", {"text": "b"}]', (Document("a"), Document("b"))),
        ("a.jsonl", '{"text": "a"}\n\n"b"\n', (Document("a"), Document("b"))),
        ("a.jsonl", json.dumps({"messages": TURNS}), (Document(messages=TURNS),)),
        (
            "a.json",
            '[{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}]',
            (Document(messages=TURNS),),
        ),
    ],
)
def test_texts_of_every_form(name, content, documents, tmp_path):
    (tmp_path / name).write_text(content, "utf-8")
    assert read_corpus(tmp_path / name) == documents


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"", "no text"),
        ("a.txt", b"\xff\xfe\x00", "no UTF-8"),
        ("a.json", b"{}", "must hold a list"),
        ("a.json", b"[1]", "item 1 is neither"),
        ("a.json", b"[" * 100_000, "not JSON"),
        ("a.jsonl", b'"a"\n{"no": 1}', "line 2"),
        ("a.jsonl", b'"a"\nnot json', "line 2 is not JSON"),
        ("a.jsonl", b'[{"role": "wizard", "content": "x"}]', "known role"),
    ],
)
def test_texts_that_are_none(name, content, says, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadArgument, match=says):
        read_corpus(tmp_path / name)
