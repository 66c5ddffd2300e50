"""Memory: against what llama.cpp reports, for real shapes (recorded) and for small models that are loaded here."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantdeck.workbench.advice.cache import LayerCache, cache_layout
from quantdeck.workbench.advice.fit import (
    CARD_MARGIN,
    Budget,
    Footprint,
    Running,
    Setup,
    can_quantize_cache,
    footprint,
    place,
    running,
)
from quantdeck.workbench.errors import ValidationFailed
from quantdeck.workbench.llama import Llama, LoadSettings
from quantdeck.workbench.model import Model, read_model
from quantdeck.workbench.recipe import Request, make_recipe
from quantdeck.workbench.sample import SAMPLE
from support import shapes
from support.models import make_model

MIB = 1 << 20

# From the log of llama.cpp 0.3.36 (no_alloc loads of files with these headers, swa_full off, micro-batch 512), in MiB:
# model, context of each user, users, KV type, KV cache, compute buffer, output buffer.
REPORTED = [
    ("llama2_7b", 512, 1, "F16", 256.0, 97.01, 0.12),
    ("llama2_7b", 4096, 1, "F16", 2048.0, 100.51, 0.12),
    ("llama2_7b", 16384, 1, "F16", 8192.0, 112.51, 0.12),
    ("llama2_7b", 16384, 1, "Q8_0", 4352.0, 104.59, 0.12),
    ("llama2_7b", 4096, 4, "F16", 8192.0, 100.51, 0.49),
    ("llama3_8b", 512, 1, "F16", 64.0, 266.5, 0.49),
    ("llama3_8b", 4096, 1, "F16", 512.0, 266.5, 0.49),
    ("llama3_8b", 16384, 1, "Q8_0", 1088.0, 274.5, 0.49),
    ("llama3_8b", 4096, 4, "F16", 2048.0, 266.5, 1.96),
    ("qwen25_05b", 512, 1, "F16", 6.0, 300.25, 0.58),
    ("qwen25_05b", 16384, 1, "F16", 192.0, 300.25, 0.58),
    ("qwen25_05b", 16384, 1, "Q8_0", 102.0, 302.0, 0.58),
    ("gemma2_9b", 512, 1, "F16", 168.0, 514.0, 0.98),
    ("gemma2_9b", 4096, 1, "F16", 1344.0, 514.0, 0.98),
    ("gemma2_9b", 16384, 1, "F16", 3444.0, 514.0, 0.98),
    ("gemma2_9b", 16384, 1, "Q8_0", 1829.62, 514.0, 0.98),
    ("gemma2_9b", 4096, 4, "F16", 5376.0, 514.0, 3.91),
    ("gemma3_4b", 512, 1, "F16", 68.0, 522.0, 1.0),
    ("gemma3_4b", 4096, 1, "F16", 254.0, 527.0, 1.0),
    ("gemma3_4b", 16384, 1, "F16", 494.0, 522.0, 1.0),
    ("gemma3_4b", 4096, 4, "F16", 1016.0, 527.0, 4.0),
    ("mixtral_8x7b", 512, 1, "F16", 64.0, 200.51, 0.12),
    ("mixtral_8x7b", 16384, 1, "F16", 2048.0, 216.01, 0.12),
    ("mixtral_8x7b", 16384, 1, "Q8_0", 1088.0, 208.12, 0.12),
    ("llama2_70b", 512, 1, "F16", 160.0, 232.51, 0.12),
    ("llama2_70b", 16384, 1, "F16", 5120.0, 248.01, 0.12),
    ("llama2_70b", 16384, 1, "Q8_0", 2720.0, 232.09, 0.12),
    ("llama2_70b", 4096, 4, "F16", 5120.0, 236.01, 0.49),
]


@pytest.mark.parametrize(("name", "context", "users", "kind", "kv", "compute", "output"), REPORTED)
def test_real_shapes_need_what_llama_cpp_reports(
    name: str, context: int, users: int, kind: str, kv: float, compute: float, output: float
) -> None:
    model: Model = getattr(shapes, name)()
    run = running(model, Setup(context, users, kind))
    assert run.kv_cache == pytest.approx(kv * MIB, rel=2e-3)
    assert run.compute == pytest.approx((compute + output) * MIB, rel=0.02 if kind == "F16" else 0.08)
    weights = footprint(model, make_recipe(model, Request("Q4_0"))).total
    predicted, real = weights + run.kv_cache + run.compute, weights + (kv + compute + output) * MIB
    assert predicted == pytest.approx(real, rel=0.01)


# From the same log, for models of eight layers or so with real widths: architecture, metadata, and the cache in MiB
# (states of hybrids included) at a context of 4,096 and of 16,384 tokens for one user, and of 4,096 for each of four.
HYBRID = {"ssm.conv_kernel": 4, "ssm.inner_size": 8192, "ssm.state_size": 16}
FALCON = {"ssm.conv_kernel": 4, "ssm.inner_size": 3072, "ssm.state_size": 256, "ssm.group_count": 1}
HEADS_128 = {"attention.key_length": 128, "attention.value_length": 128}
HEADS_64 = {"attention.key_length": 64, "attention.value_length": 64}
HEADS_256 = {"attention.key_length": 256, "attention.value_length": 256}
CACHES: list[tuple[str, tuple[int, int, int], object, dict[str, object], tuple[float, float, float]]] = [
    ("cohere2", (8, 4096, 32), 8, {"attention.sliding_window": 4096}, (128.0, 236.0, 512.0)),
    ("gpt-oss", (6, 2880, 64), 8, HEADS_64 | {"attention.sliding_window": 128}, (28.5, 100.5, 114.0)),
    ("lfm2", (8, 2048, 32), [0, 0, 8, 0, 0, 8, 0, 0], {"shortconv.l_cache": 3}, (16.09, 64.09, 64.38)),
    ("jamba", (8, 4096, 32), [0, 0, 0, 0, 8, 0, 0, 0], HYBRID, (20.16, 68.16, 80.62)),
    ("falcon-h1", (6, 2560, 12), 2, HEADS_128 | FALCON, (42.25, 114.25, 168.98)),
    ("gemma3n", (30, 2048, 8), 2, HEADS_256 | {"attention.sliding_window": 512}, (64.0, 160.0, 256.0)),
]


@pytest.mark.parametrize(("architecture", "sizes", "kv_heads", "extra", "reported"), CACHES, ids=[c[0] for c in CACHES])
def test_windows_hybrids_and_shared_layers_need_what_llama_cpp_reports(
    architecture: str,
    sizes: tuple[int, int, int],
    kv_heads: object,
    extra: dict[str, object],
    reported: tuple[float, float, float],
) -> None:
    layers, width, heads = sizes
    metadata = {
        "block_count": layers,
        "embedding_length": width,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "feed_forward_length": 8192,
        **extra,
    }
    model = shapes.make(architecture, metadata, {"token_embd.weight": (width, 1000)})
    setups = (Setup(4096), Setup(16384), Setup(4096, 4))
    predicted = [running(model, setup).kv_cache / MIB for setup in setups]
    assert predicted == pytest.approx(reported, abs=0.02)


@pytest.mark.parametrize("kind", ["llama_tied", "llama_moe_8", "gemma2", "gemma3", "gpt2", "mamba", "deepseek2"])
@pytest.mark.parametrize("context", [512, 3000])
def test_small_models_take_what_was_predicted(tmp_path: Path, kind: str, context: int) -> None:
    path = make_model(tmp_path / "model.gguf", kind, empty=True, n_vocab=2000)
    model = read_model(path)
    _compare_with_a_load(path, model, context, tmp_path)


def test_the_sample_takes_what_was_predicted(tmp_path: Path) -> None:
    _compare_with_a_load(SAMPLE.model, read_model(SAMPLE.model), 512, tmp_path)


def _compare_with_a_load(path: Path, model: Model, context: int, folder: Path) -> None:
    with Llama.load(path, LoadSettings(context=context), folder) as llama:
        info = llama.info
    run = running(model, Setup(context))
    kept = info.bytes_of("kv_cache") + info.bytes_of("state")
    buffers = info.bytes_of("compute") + info.bytes_of("output")
    assert run.kv_cache == pytest.approx(kept, rel=0.02, abs=0.01 * MIB)
    assert run.compute == pytest.approx(buffers, rel=0.15)
    predicted = footprint(model).total + run.kv_cache + run.compute
    assert predicted == pytest.approx(info.bytes_of("weights") + kept + buffers, rel=0.05)


def test_windows_follow_each_architecture() -> None:
    def windowed(model: Model) -> str:
        return "".join("w" if layer.windowed else "F" for layer in cache_layout(model).layers[:8])

    assert windowed(shapes.llama3_8b()) == "FFFFFFFF"
    assert windowed(shapes.gemma2_9b()) == "wFwFwFwF"
    assert windowed(shapes.gemma3_4b()) == "wwwwwFww"
    assert windowed(_like("cohere2", {"attention.sliding_window": 4096})) == "wwwFwwwF"
    assert windowed(_like("smallthinker", {"attention.sliding_window": 100})) == "FwwwFwww"
    assert windowed(_like("llama4", {})) == "wwwFwwwF"
    assert windowed(_like("phi3", {"attention.sliding_window": 2047})) == "FFFFFFFF"  # switched off in llama.cpp
    array = {"attention.sliding_window": 512, "attention.sliding_window_pattern": [True, False] * 4}
    assert windowed(_like("gemma4", array)) == "wFwFwFwF"
    assert cache_layout(_like("smallthinker", {"attention.sliding_window": 100})).window == 4096


def test_layers_that_share_keys_and_values_count_nothing() -> None:
    model = _like("gemma4", {"attention.shared_kv_layers": 3, "attention.sliding_window": 512})
    assert [layer.keys > 0 for layer in cache_layout(model).layers] == [True] * 5 + [False] * 3


def test_head_counts_differ_by_layer() -> None:
    model = _like("llama", {"attention.head_count_kv": [4, 2, 0, 4, 4, 4, 4, 1]})
    assert [layer.keys for layer in cache_layout(model).layers] == [512, 256, 0, 512, 512, 512, 512, 128]


def test_hybrids_keep_states_and_few_caches() -> None:
    metadata = {"ssm.conv_kernel": 4, "ssm.inner_size": 2048, "ssm.state_size": 128, "ssm.group_count": 8}
    layers = cache_layout(_like("qwen3next", metadata)).layers
    assert [layer.keys > 0 for layer in layers] == [False, False, False, True] * 2
    assert layers[0].state == 3 * (2048 + 2 * 8 * 128) + 128 * 2048
    one, four = (running(_like("qwen3next", metadata), Setup(4096, users)) for users in (1, 4))
    assert four.kv_cache == 4 * one.kv_cache


def test_encoders_keep_nothing() -> None:
    assert cache_layout(_like("bert", {})).layers == ()


def test_mla_keeps_keys_only() -> None:
    metadata = {
        "attention.key_length": 576,
        "attention.value_length": 512,
        "attention.key_length_mla": 192,
        "attention.value_length_mla": 128,
        "attention.head_count_kv": 1,
    }
    assert cache_layout(_like("deepseek2", metadata)).layers[0] == LayerCache(keys=576)


def test_context_is_rounded_up_and_counts_for_each_user() -> None:
    model = shapes.llama3_8b()
    assert running(model, Setup(4000)).kv_cache == running(model, Setup(4096)).kv_cache
    assert running(model, Setup(4097)).kv_cache == running(model, Setup(4352)).kv_cache
    assert running(model, Setup(4096, 3)).kv_cache == 3 * running(model, Setup(4096)).kv_cache


@pytest.mark.parametrize(
    "metadata",
    [
        {"attention.head_count": "many"},
        {"block_count": 100_000},
        {"attention.head_count_kv": -1},
        {"embedding_length": 0.5},
        {"attention.sliding_window": "x"},
    ],
)
def test_absurd_metadata_are_refused_in_words(metadata: dict[str, object]) -> None:
    with pytest.raises(ValidationFailed, match="damaged"):
        running(_like("gemma2", metadata), Setup(4096))


def test_quantized_caches_need_whole_blocks() -> None:
    assert can_quantize_cache(shapes.llama3_8b())
    assert not can_quantize_cache(_like("llama", {"attention.key_length": 80, "attention.value_length": 80}))
    assert not can_quantize_cache(_like("grok", {}))


def test_experts_count_only_as_far_as_they_are_used() -> None:
    weights = footprint(shapes.mixtral_8x7b())
    assert sum(weights.active) / sum(weights.layers) == pytest.approx(0.27, abs=0.02)


def test_a_shared_embedding_is_copied_to_the_card() -> None:
    model = shapes.qwen25_05b()
    weights, run = footprint(model), running(model, Setup(4096))
    table = model.by_name["token_embd.weight"].n_bytes
    on_card = place(weights, run, Budget(8 << 30, 8 << 30, 1))
    in_ram = place(weights, run, Budget(8 << 30))
    assert on_card.where == "gpu" and in_ram.where == "cpu"
    assert on_card.need.weights - in_ram.need.weights == pytest.approx(table, rel=1e-3)
    assert on_card.in_ram == pytest.approx(table, rel=1e-3)


def test_placement_moves_layers_until_the_card_is_full() -> None:
    weights = Footprint((100 * MIB,) * 10, (100 * MIB,) * 10, 50 * MIB, 50 * MIB, False, 50 * MIB)
    run = Running((10 * MIB,) * 10, 20 * MIB)
    seen = []
    for vram in (0, 100, 300, 700, 1180):
        found = place(weights, run, Budget(4096 * MIB, CARD_MARGIN + vram * MIB if vram else 0, 1 if vram else 0))
        assert found.on_cards <= vram * MIB
        assert found.on_cards + found.in_ram == found.need.total
        seen.append((found.gpu_layers, found.where, found.fits))
    assert seen == [
        (0, "cpu", "yes"),
        (1, "split", "yes"),
        (3, "split", "yes"),
        (6, "split", "yes"),
        (11, "gpu", "yes"),
    ]


def test_fits_says_yes_tight_and_no_and_by_how_much() -> None:
    weights, run = Footprint((1000 * MIB,), (1000 * MIB,), 0, 0, False, 0), Running((0,), 0)
    generous, tight, short = (place(weights, run, Budget(ram * MIB)) for ram in (2000, 1100, 900))
    assert (generous.fits, tight.fits, short.fits) == ("yes", "tight", "no")
    assert generous.spare == (2000 - 200 - 1000) * MIB
    assert tight.spare == (1100 - 110 - 1000) * MIB
    assert short.spare < -100 * MIB


def test_a_card_that_only_fits_without_its_margin_is_tight() -> None:
    weights, run = Footprint((1000 * MIB,), (1000 * MIB,), 0, 100 * MIB, False, 100 * MIB), Running((0,), 0)
    found = place(weights, run, Budget(300 * MIB, 1200 * MIB, 1))
    assert (found.fits, found.where) == ("tight", "gpu")


def _like(architecture: str, metadata: dict[str, object]) -> Model:
    """Eight layers of width 1,024 with 8 heads of 128, 4 of them for keys and values."""
    return shapes.transformer(8, 1024, 2048, 8, 4, 1000, architecture=architecture, extra=metadata)
