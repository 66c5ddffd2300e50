"""Perplexity and KL divergence, held against figures of llama.cpp's own tool, as in llama-cpp-python 0.3.36:

llama-quantize sample-f16.gguf q4.gguf Q4_K_M
llama-perplexity -m sample-f16.gguf -f eval.txt -c 512 --chunks 8 -t 2 --save-all-logits base
llama-perplexity -m q4.gguf -f eval.txt -c 512 --chunks 8 -t 2 --kl-divergence-base base --kl-divergence
llama-perplexity -m sample-f16.gguf -f eval.txt -c 96 --chunks 40 -t 2    (and -c 301 --chunks 12)
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from quantdeck.workbench.errors import BadArgument
from quantdeck.workbench.llama import Cancelled, Llama, LlamaFailed, LoadSettings
from quantdeck.workbench.llama.evaluate import (
    KEPT_DAYS,
    EvaluationSettings,
    QuestionScore,
    ask_questions,
    evaluate,
    forget_unused,
    reference_logits,
)
from quantdeck.workbench.llama.reference_file import reference_bytes
from quantdeck.workbench.llama.scoring import FIELDS, pack, packed_width, score
from quantdeck.workbench.llama.summary import summarize
from quantdeck.workbench.sample import SAMPLE
from support import llama_quantize
from support.models import make_model
from support.sample_variants import with_bytes, with_tokens

EIGHT = EvaluationSettings(chunks=8, threads=1, parse_special=False)
TOOL = {
    "perplexity": (227.6558, 35.36704),
    "quantized": (232.893875, 36.182211),
    "base": (126.130730, 15.536700),
    "ln_ratio": (0.613264, 0.045972),
    "kl": (0.036030, 0.001841),
    "kl_max": 1.194286,
    "kl_999": 0.816282,
    "kl_99": 0.421087,
    "kl_median": 0.009635,
    "rms": (0.03629, 0.00255),
    "top": (0.89510, 0.00679),
}

SHORT = [(96, 40, (154.8203, 26.06382)), (301, 12, (378.8615, 70.07791))]


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    path = tmp_path_factory.mktemp("quantized") / "q4.gguf"
    llama_quantize.quantize(SAMPLE.model, path, "Q4_K_M")
    return path


@pytest.fixture(scope="module")
def against_file(quantized, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    heard = []
    done = evaluate(quantized, SAMPLE.eval_file, cache, cache, EIGHT, SAMPLE.model, on_progress=heard.append)
    return done, heard, cache


def close(estimate, figure, error=0.001):
    assert estimate.value == pytest.approx(figure[0], rel=error)
    assert estimate.error == pytest.approx(figure[1], rel=0.01)


def test_perplexity_equals_the_tool(tmp_path):
    done = evaluate(SAMPLE.model, SAMPLE.eval_file, tmp_path, tmp_path, EIGHT)
    close(done.perplexity, TOOL["perplexity"], 1e-5)
    assert (done.chunks, done.tokens, done.scored, done.divergence) == (8, 4096, 8 * 255, None)
    assert not done.parse_special and done.resumed == 0
    assert not list(tmp_path.glob("*.scores"))


@pytest.mark.parametrize(("context", "chunks", "figure"), SHORT)
def test_short_windows_equal_the_tool(context, chunks, figure, tmp_path):
    """The tool computes many of them together, and attention over few tokens of each rounds otherwise."""
    settings = EvaluationSettings(context, chunks, parse_special=False, threads=1)
    done = evaluate(SAMPLE.model, SAMPLE.eval_file, tmp_path, tmp_path, settings)
    close(done.perplexity, figure, 1e-5)


def test_markers_are_read_as_the_model_knows_them(tmp_path):
    settings = EvaluationSettings(chunks=8, threads=1)
    done = evaluate(SAMPLE.model, SAMPLE.eval_file, tmp_path, tmp_path, settings)
    assert done.parse_special and done.perplexity.value < 4


def test_divergence_equals_the_tool(against_file):
    done, _, _ = against_file
    close(done.perplexity, TOOL["quantized"], 1e-4)
    divergence = done.divergence
    close(divergence.kl, TOOL["kl"])
    close(divergence.reference_perplexity, TOOL["base"], 1e-4)
    close(divergence.ln_ratio, TOOL["ln_ratio"])
    close(divergence.rms_p, TOOL["rms"])
    close(divergence.same_top, TOOL["top"])
    for name in ("kl_max", "kl_999", "kl_99", "kl_median"):
        assert getattr(divergence, name) == pytest.approx(TOOL[name], rel=1e-3), name


def test_the_reference_is_computed_once(against_file, quantized):
    done, heard, cache = against_file
    assert {p.what for p in heard} == {"reference", "model"}
    written = reference_logits(cache, SAMPLE.model, SAMPLE.eval_file, EIGHT)
    assert written.stat().st_size == reference_bytes(2048, 512, 8)
    assert {p.disk_bytes for p in heard if p.what == "reference"} == {reference_bytes(2048, 512, 8)}
    again = []
    second = evaluate(quantized, SAMPLE.eval_file, cache, cache, EIGHT, SAMPLE.model, on_progress=again.append)
    assert {p.what for p in again} == {"model"}
    assert second.divergence == done.divergence


def test_lock_step_gives_the_same_figures_without_a_file(against_file, quantized, tmp_path):
    done = evaluate(quantized, SAMPLE.eval_file, tmp_path, tmp_path, EIGHT, SAMPLE.model, keep_reference=False)
    assert not list(tmp_path.glob("*.logits"))
    assert done.divergence.kl.value == pytest.approx(against_file[0].divergence.kl.value, rel=1e-6)
    assert done.divergence.same_top == against_file[0].divergence.same_top


def test_a_model_does_not_differ_from_itself(tmp_path):
    settings = EvaluationSettings(chunks=2, threads=1)
    done = evaluate(SAMPLE.model, SAMPLE.eval_file, tmp_path, tmp_path, settings, SAMPLE.model)
    assert abs(done.divergence.kl.value) < 1e-5
    assert done.divergence.same_top.value > 0.995
    assert done.divergence.rms_p.value < 1e-3


def test_a_cancelled_evaluation_goes_on(against_file, quantized, tmp_path):
    heard = []

    def stop():
        return len(heard) > 3

    with pytest.raises(Cancelled, match="goes on"):
        evaluate(quantized, SAMPLE.eval_file, tmp_path, tmp_path, EIGHT, SAMPLE.model, True, heard.append, stop)
    again = []
    done = evaluate(quantized, SAMPLE.eval_file, tmp_path, tmp_path, EIGHT, SAMPLE.model, on_progress=again.append)
    assert again[0].done >= 3
    assert done.divergence == against_file[0].divergence


def test_a_killed_evaluation_goes_on(tmp_path):
    def kill(progress):
        if progress.done == 4:
            for child in psutil.Process().children():
                if str(tmp_path) in child.cwd():
                    os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(LlamaFailed):
        evaluate(SAMPLE.model, SAMPLE.eval_file, tmp_path, tmp_path, EIGHT, on_progress=kill)
    done = evaluate(SAMPLE.model, SAMPLE.eval_file, tmp_path, tmp_path, EIGHT)
    assert done.resumed >= 4
    close(done.perplexity, TOOL["perplexity"], 1e-5)


@pytest.mark.parametrize("context", [100, 255, 1100])
def test_windows_of_other_sizes(context, tmp_path):
    settings = EvaluationSettings(context=context, chunks=2, threads=1)
    done = evaluate(SAMPLE.model, SAMPLE.eval_file, tmp_path, tmp_path, settings)
    assert done.scored == 2 * (context - 1 - context // 2)
    assert 1 < done.perplexity.value < 1e4


def test_what_cannot_be_evaluated(tmp_path):
    nan = with_bytes(tmp_path / "m.gguf", "output_norm.weight", np.full(256, np.nan, np.float32).tobytes())
    with pytest.raises(LlamaFailed, match="not numbers"):
        evaluate(nan, SAMPLE.eval_file, tmp_path, tmp_path, EIGHT)
    with pytest.raises(LlamaFailed, match="word by word"):
        evaluate(make_model(tmp_path / "b.gguf", "bert"), SAMPLE.eval_file, tmp_path, tmp_path, EIGHT)
    with pytest.raises(BadArgument, match="Windows of 3"):
        evaluate(SAMPLE.model, SAMPLE.eval_file, tmp_path, tmp_path, EvaluationSettings(context=3))


def test_a_reference_with_other_words_is_refused_before_it_computes(tmp_path):
    other = make_model(tmp_path / "o.gguf", "llama", n_layer=1)
    with pytest.raises(BadArgument, match=r"2048 and 320 words"):
        evaluate(SAMPLE.model, SAMPLE.eval_file, tmp_path, tmp_path, EIGHT, other)
    turned = with_tokens(tmp_path / "t.gguf", list.reverse)
    with pytest.raises(BadArgument, match=r"of 2048 words agree"):
        evaluate(SAMPLE.model, SAMPLE.eval_file, tmp_path, tmp_path, EIGHT, turned, keep_reference=False)
    assert not list(tmp_path.glob("*.partial")) and not list(tmp_path.glob("*.logits"))


def test_peak_memory_is_the_childs_own(tmp_path):
    """A parent that once was large does not make the child look large."""
    program = (
        "import numpy as np, sys; from pathlib import Path\n"
        "from quantdeck.workbench.llama import LoadSettings\n"
        "from quantdeck.workbench.llama.trial import try_out\n"
        "from quantdeck.workbench.sample import SAMPLE\n"
        "large = np.ones(60_000_000)\n"
        "folder = Path(sys.argv[1])\n"
        "print(try_out(SAMPLE.model, LoadSettings(context=512), folder).peak_memory)\n"
    )
    said = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert 10 << 20 < int(said.stdout) < 300 << 20


@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda whole: b"something else"])
def test_a_damaged_reference_is_made_anew(against_file, quantized, damage):
    done, _, cache = against_file
    logits = reference_logits(cache, SAMPLE.model, SAMPLE.eval_file, EIGHT)
    whole = logits.read_bytes()
    logits.write_bytes(damage(whole))
    again = evaluate(quantized, SAMPLE.eval_file, cache, cache, EIGHT, SAMPLE.model)
    assert again.divergence == done.divergence
    assert logits.read_bytes() == whole


def test_what_nobody_used_for_long_is_forgotten(against_file, quantized):
    _, _, cache = against_file
    logits = reference_logits(cache, SAMPLE.model, SAMPLE.eval_file, EIGHT)
    unused, recent = cache / "unused.logits", cache / "recent.scores"
    long_ago = time.time() - (KEPT_DAYS + 1) * 24 * 3600
    for file in (unused, recent):
        file.write_bytes(b"of another model")
    for file in (unused, logits):
        os.utime(file, (long_ago, long_ago))
    os.utime(recent, (long_ago + 2 * 24 * 3600,) * 2)
    forget_unused(cache)
    assert not unused.exists() and not logits.exists() and recent.exists()
    evaluate(quantized, SAMPLE.eval_file, cache, cache, EIGHT, SAMPLE.model)
    os.utime(logits, (long_ago + 2 * 24 * 3600,) * 2)
    evaluate(quantized, SAMPLE.eval_file, cache, cache, EIGHT, SAMPLE.model)
    assert logits.stat().st_mtime > time.time() - 600, "what is used stays"


def test_a_foreign_reference_is_named(against_file, quantized):
    _, _, cache = against_file
    logits = reference_logits(cache, SAMPLE.model, SAMPLE.eval_file, EIGHT)
    whole = logits.read_bytes()
    try:
        logits.write_bytes(whole[:20] + bytes(4) + whole[24:])  # the first token of the text
        with pytest.raises(LlamaFailed, match=rf"{logits.name} holds logits of another text"):
            evaluate(quantized, SAMPLE.eval_file, cache, cache, EIGHT, SAMPLE.model)
    finally:
        logits.write_bytes(whole)


def test_questions(tmp_path):
    with Llama.load(SAMPLE.model, LoadSettings(context=512, threads=1), tmp_path) as llama:
        scores = []
        done = ask_questions(llama, SAMPLE.questions[:12], lambda s, total: scores.append((s.total, total)))
    assert done.total == 12 and 9 <= done.exact <= done.contains <= 12
    assert scores[-1] == (12, 12)
    assert isinstance(done, QuestionScore)


# -- the arithmetic ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_scores_against_exact_probabilities(threads):
    rng = np.random.default_rng(1)
    n, n_vocab = 4000, 1001
    logits = (rng.standard_normal((n, n_vocab)) * 1.5).astype(np.float32)
    other = (logits + rng.standard_normal((n, n_vocab)) * 0.3).astype(np.float32)
    tokens = rng.integers(0, n_vocab, n)

    def log_softmax(x):
        x = x.astype(np.float64)
        return x - np.log(np.exp(x).sum(axis=1, keepdims=True))

    p, q = log_softmax(logits), log_softmax(other)
    packed = pack(logits, threads)
    assert packed.shape == (n, packed_width(n_vocab)) and packed.dtype == np.uint16
    scores = score(other, tokens, packed, threads)
    everyone = np.arange(n)
    np.testing.assert_allclose(scores.nll, -q[everyone, tokens], atol=1e-4)
    np.testing.assert_allclose(scores.nll_reference, -p[everyone, tokens], atol=4e-4)
    np.testing.assert_allclose(scores.kl, (np.exp(p) * (p - q)).sum(axis=1), atol=1e-3)
    np.testing.assert_allclose(
        scores.p_difference, np.exp(q)[everyone, tokens] - np.exp(p)[everyone, tokens], atol=1e-4
    )
    # Two words may become equal in 16 bits, as in llama.cpp.
    assert (scores.same_top != (q.argmax(axis=1) == p.argmax(axis=1))).sum() <= 3


def test_equal_logits_and_far_ones():
    flat = np.zeros((2, 8), np.float32)
    np.testing.assert_allclose(score(flat, np.array([0, 7]), pack(flat)).kl, 0, atol=1e-6)
    far = np.full((1, 8), -100, np.float32)
    far[0, 3] = 0
    scores = score(far, np.array([5]), pack(far))
    assert scores.nll[0] == pytest.approx(100) and scores.nll_reference[0] == pytest.approx(16, abs=0.01)


def test_summary_of_known_numbers():
    n = 100
    table = np.zeros((len(FIELDS), n))
    table[0], table[1] = 2.0, 1.0
    table[2] = np.arange(n) / n
    table[3], table[4] = 0.5, np.arange(n) % 4 > 0
    perplexity, divergence = summarize(table, True)
    assert perplexity.value == pytest.approx(np.exp(2)) and perplexity.error == 0
    assert divergence.kl.value == pytest.approx(0.495) and divergence.kl_max == 0.99
    assert divergence.same_top.value == 0.75 and divergence.same_top.error == pytest.approx(np.sqrt(0.75 * 0.25 / 99))
    assert divergence.rms_p.value == 0.5 and divergence.ln_ratio.value == pytest.approx(1.0)
    assert summarize(table, False)[1] is None


def test_a_log_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with Llama.load(SAMPLE.model, LoadSettings(), Path(tmp_path / "file" / "logs")) as llama:
        assert llama.log.is_file() and not llama.log.is_relative_to(tmp_path)
