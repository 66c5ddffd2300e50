"""Whole output files, byte for byte those of `llama_model_quantize`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quantdeck.workbench import jobs
from quantdeck.workbench.imatrix import Entry, Imatrix, write_imatrix
from quantdeck.workbench.library import Library
from quantdeck.workbench.model import read_model
from quantdeck.workbench.recipe import Request
from quantdeck.workbench.sample import SAMPLE
from support import llama_quantize
from support.jobs import Bench
from support.models import make_model

LEVELS = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "F16", "BF16", "F32")


def _quantize(bench: Bench, source: Path, request: Request, output: str, **options):
    proposal = jobs.prepare(bench.store, source, request, bench.folder / output, jobs.JobOptions(2, **options))
    job = jobs.submit(bench.store, proposal)
    jobs.start(bench.store, job)
    end = bench.end(job)
    assert end.status == "done", end.message
    return end


def test_sample_at_every_level(bench: Bench):
    orders = [(bench.folder / f"c-{level}.gguf", level) for level in LEVELS]
    llama_quantize.quantize_all(SAMPLE.model, orders)
    for path, level in orders:
        _quantize(bench, SAMPLE.model, Request(level), f"{level}.gguf", verify=level in ("Q8_0", "Q4_K_M"))
        assert (bench.folder / f"{level}.gguf").read_bytes() == path.read_bytes(), level


@pytest.mark.parametrize(
    ("kind", "dtype", "level"),
    [
        ("llama_moe_8", "BF16", "Q4_K_M"),
        ("qwen2_rows_80", "F16", "Q4_K_M"),
        ("gemma3", "F32", "Q5_K_M"),
        ("deepseek2", "BF16", "Q6_K"),
        ("mamba", "F16", "Q8_0"),
        ("llama_tied", "F32", "Q3_K_L"),
    ],
)
def test_other_architectures(bench: Bench, kind: str, dtype: str, level: str):
    source = make_model(bench.folder / "source.gguf", kind, dtype=dtype)
    llama_quantize.quantize(source, bench.folder / "c.gguf", level)
    _quantize(bench, source, Request(level), "ours.gguf")
    assert (bench.folder / "ours.gguf").read_bytes() == (bench.folder / "c.gguf").read_bytes()


@pytest.mark.parametrize("kind", ["llama", "llama_moe_4"])
@pytest.mark.parametrize("level", ["Q4_K_M", "IQ4_XS", "IQ2_XS"])
def test_with_an_importance_matrix(bench: Bench, kind: str, level: str):
    """Experts have a slice of the matrix each, and ranges cross from one expert to the next."""
    source = make_model(bench.folder / "source.gguf", kind, dtype="BF16", n_layer=2)
    rng = np.random.default_rng(1)
    entries, weights = {}, {}
    for tensor in read_model(source).tensors:
        if len(tensor.shape) < 2 or tensor.name == "token_embd.weight":
            continue
        n_matrices = tensor.shape[2] if len(tensor.shape) > 2 else 1
        sums = rng.exponential(1, (n_matrices, tensor.row_length)).astype(np.float32)
        entries[tensor.name] = Entry(sums, np.ones(n_matrices, np.int64))
        weights[tensor.name] = sums.reshape(-1)
    path = bench.folder / "imatrix.gguf"
    write_imatrix(path, Imatrix(entries, ("text",), 1, 512))
    llama_quantize.quantize(source, bench.folder / "c.gguf", level, imatrix=weights)
    end = _quantize(bench, source, Request(level), "ours.gguf", imatrix=path)
    ours, theirs = read_model(bench.folder / "ours.gguf"), read_model(bench.folder / "c.gguf")
    a, b = (bench.folder / "ours.gguf").read_bytes(), (bench.folder / "c.gguf").read_bytes()
    for one, other in zip(ours.tensors, theirs.tensors, strict=True):
        assert (one.name, one.shape, one.type, one.n_bytes) == (other.name, other.shape, other.type, other.n_bytes)
        assert a[one.offset :][: one.n_bytes] == b[other.offset :][: other.n_bytes], one.name
    quantized = [t for t in end.tensors if t.tensor.type != t.tensor.source_type and t.tensor.name in entries]
    assert all(t.errors.weighted_error != t.errors.error for t in quantized)


def test_requests_with_overrides(bench: Bench):
    request = Request("Q4_0", tensor_types=(("attn_v", "Q6_K"),), output_type="Q8_0", embedding_type="Q5_1")
    source = make_model(bench.folder / "source.gguf", "llama", dtype="F16")
    order = llama_quantize.Order("Q4_0", tensor_types=request.tensor_types, output_type="Q8_0", embedding_type="Q5_1")
    llama_quantize.quantize(source, bench.folder / "c.gguf", order)
    _quantize(bench, source, request, "ours.gguf")
    assert (bench.folder / "ours.gguf").read_bytes() == (bench.folder / "c.gguf").read_bytes()


def test_result_is_registered(bench: Bench):
    library = bench.folder / "library"
    end = _quantize(bench, SAMPLE.model, Request("Q4_K_M"), "ours.gguf", library=library)
    [entry] = Library(library).entries().entries
    assert entry.sha256 == end.sha256
    assert entry.path == str(bench.folder / "ours.gguf")
    assert entry.level == "Q4_K_M"
    assert entry.n_bytes == end.plan.total
    assert entry.verified
    assert "llama.cpp" in entry.verification
    assert entry.ratio == pytest.approx(SAMPLE.model.stat().st_size / end.plan.total)
    assert entry.bits_per_weight == pytest.approx(end.plan.bits_per_weight)
    [figure] = entry.figures
    assert figure.kind == "relative_error"
    assert 0 < figure.value < 0.2


def test_library_that_cannot_be_written_does_not_spoil_the_job(bench: Bench):
    blocked = bench.folder / "library"
    blocked.write_text("a file where the folder should be")
    end = _quantize(bench, SAMPLE.model, Request("Q8_0"), "ours.gguf", library=blocked)
    assert any("could not be registered" in note for note in end.notes)
