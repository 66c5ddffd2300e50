"""What tokens cost on a machine whose speeds are known, and what real runs teach."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from quantdeck.kernels import TYPES
from quantdeck.workbench.advice.fit import Budget, Footprint, Setup, footprint, place, running
from quantdeck.workbench.advice.machine import Machine, Rate
from quantdeck.workbench.advice.repack import better_read, repacked_bytes
from quantdeck.workbench.advice.speed import (
    BYTES_A_THREAD,
    PER_TOKEN,
    Corrections,
    learn,
    threads_for,
    tokens_per_second,
)
from quantdeck.workbench.hardware import Bandwidth, Kernels
from quantdeck.workbench.llama.kernel_speed import measure_kernels
from quantdeck.workbench.model import Model, read_model
from quantdeck.workbench.profile import Profile, ProfileStore
from quantdeck.workbench.sample import SAMPLE
from support import llama_quantize
from support.models import make_model

NOTHING = Kernels({"F32": 0.0, "F16": 0.0}, 0.0, {"64": 0.0}, 0.0, 0.0, {"1": 0.0}, {"1": 0.0}, {"1": 0.0}, 1)
MIB = 1 << 20


def processor(kernels: Kernels | None, threads: int = 1) -> Machine:
    return Machine("cpu", Budget(8 << 30), True, False, Rate(20e9, "measured", kernels), None, threads=threads)


def nanoseconds(kernels: Kernels, weights: Footprint | None = None, model: Model | None = None, **how: int) -> float:
    """Of one token, less what every token costs."""
    model = model or read_model(SAMPLE.model)
    setup = Setup(how.pop("context", 512))
    run = running(model, setup)
    weights = weights or footprint(model)
    machine = processor(kernels, how.pop("most", 1))
    return 1e9 / tokens_per_second(weights, run, place(weights, run, machine.budget), machine, **how) - PER_TOKEN


def test_each_cost_by_itself() -> None:
    model = read_model(SAMPLE.model)
    weights, matrices = footprint(model), [t for t in model.tensors if len(t.shape) > 1]
    has_output = "output.weight" in model.by_name
    rows = sum(t.n_rows for t in matrices if t.name != "token_embd.weight" or not has_output)
    n_bytes = weights.read_by_type["F16"]
    assert nanoseconds(NOTHING) == pytest.approx(0, abs=1)
    assert nanoseconds(replace(NOTHING, per_byte={"F16": 0.5, "F32": 0.0})) == pytest.approx(0.5 * n_bytes, rel=1e-3)
    # Vectors are counted with the matrices of their type, of which they are a few in a thousand.
    assert nanoseconds(replace(NOTHING, per_row=3.0)) == pytest.approx(3 * rows, rel=0.01)
    layers, heads = (int(model.get(f"{{arch}}.{key}")) for key in ("block_count", "attention.head_count"))
    head = int(model.get("{arch}.attention.key_length"))
    looking = nanoseconds(replace(NOTHING, per_head_element={str(head): 0.5, str(head + 16): 9.0}))
    assert looking == pytest.approx(0.5 * 256 * layers * heads * 2 * head, rel=1e-3)
    steps = nanoseconds(replace(NOTHING, per_node={"1": 7.0}))
    assert steps == pytest.approx(7 * weights.nodes) and 15 * layers < weights.nodes < 40 * layers
    wide = nanoseconds(replace(NOTHING, per_node_element=0.25))
    assert wide == pytest.approx(0.25 * weights.nodes * int(model.get("{arch}.embedding_length")))


def test_memory_counts_beyond_the_caches_and_beside_computing() -> None:
    slow = replace(NOTHING, per_byte_from_memory={"1": 2.0})
    n_bytes = sum(footprint(read_model(SAMPLE.model)).read_by_type.values())
    assert nanoseconds(slow) > 1.99 * n_bytes
    assert nanoseconds(replace(slow, cache=64 * MIB)) == pytest.approx(0, abs=1)
    stalls = replace(NOTHING, per_matrix_from_memory={"1": 9.0})
    matrices = sum(len(t.shape) > 1 for t in read_model(SAMPLE.model).tensors)
    assert nanoseconds(stalls) == pytest.approx(9 * matrices, abs=10)
    assert nanoseconds(replace(stalls, cache=64 * MIB)) == pytest.approx(0, abs=1)
    both = nanoseconds(replace(slow, per_byte={"F16": 2.0, "F32": 2.0}))
    assert both / nanoseconds(slow) == pytest.approx(math.sqrt(2), rel=0.1)


def test_threads_share_computing_but_neither_steps_nor_empty_cells() -> None:
    computing = replace(NOTHING, per_byte={"F16": 0.5}, per_node={"1": 5.0, "4": 11.0})
    steps = footprint(read_model(SAMPLE.model)).nodes
    one, four = nanoseconds(computing, threads=1) - 5 * steps, nanoseconds(computing, threads=4) - 11 * steps
    assert four == pytest.approx(one / 4)
    looking = replace(NOTHING, per_head_element={"64": 0.5})
    one, two = nanoseconds(looking, threads=1), nanoseconds(looking, threads=2)
    # 256 tokens lie in the first half of 512 cells: the second thread has nothing to look at.
    assert two == pytest.approx(one)
    # A sample's row of keys is short; a long one costs more for each head, unless all is in the caches.
    assert nanoseconds(replace(NOTHING, per_far_head=3.0)) == pytest.approx(0, abs=1)
    assert nanoseconds(looking, threads=2, context=256) == pytest.approx(nanoseconds(looking, context=256) / 2)
    long = nanoseconds(looking, threads=2, context=8192) / nanoseconds(looking, context=8192)
    assert long == pytest.approx(0.5, rel=0.1)


def test_only_the_experts_used_cost(tmp_path: Path) -> None:
    sizes = {"n_expert": 8, "n_vocab": 320}
    few = read_model(make_model(tmp_path / "few.gguf", "llama", n_expert_used=2, **sizes))
    all_of_them = read_model(make_model(tmp_path / "all.gguf", "llama", n_expert_used=8, **sizes))
    for change in ({"per_byte": {"F16": 0.5}}, {"per_row": 3.0}):
        kernels = replace(NOTHING, **change)  # type: ignore[arg-type]
        assert nanoseconds(kernels, model=few) < 0.5 * nanoseconds(kernels, model=all_of_them)


def test_small_models_take_few_threads() -> None:
    assert [threads_for(n, 3) for n in (0, BYTES_A_THREAD - 1, BYTES_A_THREAD, 1 << 40)] == [1, 1, 2, 3]
    assert threads_for(1 << 40, 0) == 1
    computing = replace(NOTHING, per_byte={"F16": 0.5})
    big = replace(footprint(read_model(SAMPLE.model)), tables=1 << 30)
    assert nanoseconds(computing, big, most=4) == pytest.approx(nanoseconds(computing, big, threads=4))


def test_runs_correct_the_estimate_half_way() -> None:
    once = learn(100.0, 64.0, Corrections(gpu=0.5))
    assert once == Corrections(cpu=pytest.approx(0.8), gpu=0.5)
    learned = Corrections()
    for _ in range(16):
        learned = learn(100.0 * (learned.cpu or 1.0), 80.0, learned)
    assert learned.cpu == pytest.approx(0.8, rel=0.01)
    assert learn(100.0, 1e-3, Corrections()).cpu == 0.5  # something else went on
    assert learn(100.0, 0.0, learned) is learned
    model = read_model(SAMPLE.model)
    weights, run = footprint(model), running(model, Setup(512))
    kernels = replace(NOTHING, per_byte={"F16": 0.5})
    for machine in (processor(kernels), processor(None)):
        there = place(weights, run, machine.budget)
        plain = tokens_per_second(weights, run, there, machine)
        half = tokens_per_second(weights, run, there, machine, corrections=Corrections(cpu=0.5))
        assert half <= plain and (machine.processor.kernels is None or half == pytest.approx(plain / 2))


def test_kernels_of_this_machine(tmp_path: Path) -> None:
    found = measure_kernels(tmp_path, 2, 1 << 30)
    assert found is not None and set(found.per_byte) == set(TYPES)
    assert all(0 < each < 100 for each in found.per_byte.values())
    # Code books are looked up, which no processor does faster than it multiplies.
    assert found.per_byte["IQ3_S"] > 1.5 * found.per_byte["Q8_0"]
    assert all(0 < each < 100 for each in found.per_head_element.values()) and len(found.per_head_element) > 4
    assert 0 <= found.per_row < 1000 and 0 <= found.per_node_element < 1000
    by_threads = found.per_node, found.per_byte_from_memory, found.per_matrix_from_memory
    assert all(set(figures) == {"1", "2"} for figures in by_threads) and found.per_node["1"] > 0
    assert found.cache >= MIB
    store = ProfileStore(tmp_path / "profile.toml")
    bandwidth = Bandwidth(1e9, 2, "2026-01-01T00:00:00+00:00", found)
    store.update(lambda profile: replace(profile, bandwidth=bandwidth))
    assert store.read().profile == replace(Profile(), bandwidth=bandwidth)


def test_without_llama_there_are_no_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "nothing"))
    assert measure_kernels(tmp_path, 2, 1 << 30) is None


def test_what_is_laid_out_anew(tmp_path: Path) -> None:
    for level in ("Q4_0", "Q8_0"):
        llama_quantize.quantize(SAMPLE.model, tmp_path / level, level)
    q4, q8 = read_model(tmp_path / "Q4_0"), read_model(tmp_path / "Q8_0")
    x86 = ("AVX2", "REPACK")
    assert repacked_bytes(q4, x86) > q4.n_bytes / 2 and repacked_bytes(q8, x86) == 0
    assert repacked_bytes(q4, ("AVX2",)) == 0
    assert better_read(q4, x86, 1 << 30) and not better_read(q4, x86, q4.n_bytes) and not better_read(q8, x86, 1 << 30)
    assert repacked_bytes(q8, ("DOTPROD", "REPACK")) > 0


def test_long_rows_of_keys_cost_each_head_more(tmp_path: Path) -> None:
    model = read_model(make_model(tmp_path / "wide.gguf", "llama", n_embd=1024, n_head=16, n_head_kv=16, n_layer=2))
    far = replace(NOTHING, per_far_head=3.0)
    assert nanoseconds(far, model=model) == pytest.approx(3 * 256 * 2 * 16, abs=10)
    assert nanoseconds(replace(far, cache=1 << 30), model=model) == pytest.approx(0, abs=1)
