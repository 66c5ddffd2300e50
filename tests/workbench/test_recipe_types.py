"""Every tensor gets the type that llama.cpp's quantizer gives it, in its order; headers are equal byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quantdeck.workbench.errors import QuantdeckError
from quantdeck.workbench.model import Model, array, open_source, read_model, value, write_header
from quantdeck.workbench.recipe import ALIASES, LEVELS, ImatrixFacts, Recipe, Request, make_recipe, mixes
from quantdeck.workbench.recipe.mixes import Place, Rule, When
from support import models
from support.llama_quantize import FILE_TYPES, Order, needs_imatrix, plan, quantize_all

Types = list[tuple[str, str]]


def request(order: Order) -> Request:
    return Request(
        order.level,
        order.pure,
        order.tensor_types,
        order.output_type,
        order.embedding_type,
        order.leave_output,
        order.allow_requantize,
    )


def recipe(model: Model, order: Order) -> Recipe:
    facts = ImatrixFacts("some.gguf", frozenset(order.imatrix_names)) if order.imatrix_names else None
    return make_recipe(model, request(order), facts, preview=True)


def types(model: Model, order: Order) -> Types | None:
    """Our choice; None where we refuse."""
    try:
        return [(choice.tensor.name, choice.type) for choice in recipe(model, order).tensors]
    except QuantdeckError:
        return None


def assert_same(path: Path, orders: Sequence[Order]) -> None:
    model = read_model(path)
    for order, theirs in zip(orders, plan(path, orders), strict=True):
        ours = types(model, order)
        assert ours == theirs, f"{order}: {different(ours, theirs)}"


def different(ours: Types | None, theirs: Types | None) -> object:
    if ours is None or theirs is None:
        return f"refused by {'us' if ours is None else 'llama.cpp'} alone"
    return [pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]][:5]


def every_level(names: Sequence[str]) -> list[Order]:
    orders = [Order(level, imatrix_names=imatrix) for level in FILE_TYPES for imatrix in ((), tuple(names))]
    return orders + [Order(level, pure=True) for level in ("Q2_K", "Q4_K_M", "IQ3_M", "MXFP4_MOE", "Q8_0")]


def layers_for_all_rules(kind: str) -> int:
    """Enough that a first sixteenth exists, also of the layers with experts."""
    return 80 if kind == "llama_gqa_80" else 18


def test_levels_are_those_of_llama_quantize() -> None:
    ours = {name: level.file_type for name, level in LEVELS.items()}
    ours |= {alias: LEVELS[name].file_type for alias, name in ALIASES.items()}
    assert ours == FILE_TYPES


@pytest.mark.parametrize("kind", models.KINDS)
def test_every_level_on_every_kind(tmp_path: Path, kind: str) -> None:
    path = models.make_model(tmp_path / "m.gguf", kind, empty=True, n_layer=layers_for_all_rules(kind))
    assert_same(path, every_level([t.name for t in read_model(path).tensors]))


@pytest.mark.parametrize("kind", ["llama", "llama_moe_8", "qwen2_rows_224", "deepseek2"])
def test_need_of_an_imatrix(tmp_path: Path, kind: str) -> None:
    path = models.make_model(tmp_path / "m.gguf", kind, empty=True, n_layer=18)
    model, orders = read_model(path), [Order(level) for level in FILE_TYPES if level != "Q1_0"]
    ours = [bool(recipe(model, order).imatrix_needed_by) for order in orders]
    assert ours == needs_imatrix(path, orders)
    assert (True in ours) == (kind != "qwen2_rows_224"), "where all rows force larger blocks, no type needs one"
    assert False in ours


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_other_sources(tmp_path: Path, dtype: str) -> None:
    path = models.make_model(tmp_path / "m.gguf", "llama_moe_8", dtype=dtype, empty=True)
    assert_same(path, every_level([t.name for t in read_model(path).tensors]))


def layered(architecture: str, n_layer: int = 80, n_head_kv: int = 2, **metadata: object) -> models.Description:
    """A model of llama's tensors that claims to be of another architecture; the quantizer asks no more of it."""
    description = models.describe("llama", n_layer=n_layer, n_head_kv=n_head_kv, n_ff=256)
    description.architecture = architecture
    description.metadata |= metadata
    return description


def per_layer_heads(architecture: str = "deci", first: int = 1) -> models.Description:
    description = layered(architecture, 16)
    description.metadata["attention.head_count_kv"] = [first] + [8] * 15
    return description


ZOO = """
    position_embd.weight token_types.weight blk.0.extra_norm.weight blk.0.ffn_gate_inp.weight
    blk.0.ffn_gate_inp_shexp.weight blk.0.ffn_gate_tid2eid.weight altup_proj.weight blk.1.laurel_l.weight
    per_layer_model_proj.weight blk.0.ssm_conv1d.weight blk.0.ssm_conv1d_q.weight blk.0.shortconv.conv.weight
    blk.0.shortconv.in_proj.weight blk.0.indexer.k_proj.weight blk.0.indexer.q_proj.weight
    blk.0.indexer.proj.weight blk.0.time_mix_first.weight blk.0.time_mix_w0.weight blk.0.time_mix_w1.weight
    blk.0.time_mix_w2.weight blk.0.time_mix_v0.weight blk.0.time_mix_v1.weight blk.0.time_mix_v2.weight
    blk.0.time_mix_a0.weight blk.0.time_mix_a1.weight blk.0.time_mix_a2.weight blk.0.time_mix_g1.weight
    blk.0.time_mix_g2.weight blk.0.time_mix_decay_w1.weight blk.0.time_mix_decay_w2.weight
    blk.0.time_mix_lerp_fused.weight blk.0.time_mix_key.weight enc.blk.0.attn_rel_b.weight
    v.position_embd.weight position_embd_not.weight sam.pos_embd.weight v.sam.neck.0.weight v.sam.net_2.weight
    v.blk.0.attn.rel_pos_h.weight v.patch_embd.weight mm.patch_merger.weight a.rvq.codebook.weight
    mm.a.code_embd.weight blk.1.matrix.scale blk.1.matrix.weights blk.1.hc_attn.weight
    blk.0.indexer.attn_q_b.weight blk.0.indexer.attn_k.weight blk.0.indexer_compressor_gate.weight
    blk.0.indexer_compressor_ape.weight blk.0.ssm_f_a.weight blk.0.ssm_f_b.weight blk.0.ssm_g_a.weight
    blk.0.ssm_g_b.weight blk.0.ssm_beta.weight blk.0.attn_kv_a_mqa.weight blk.0.attn_k_b.weight
    blk.0.attn_v_b.weight blk.0.attn_kv_b.weight blk.0.attn_q_a.weight blk.0.attn_q_b.weight
    blk.0.nextn.eh_proj.weight per_layer_token_embd.weight blk.10.attn_v.weight blk.2.attn_v.weight
    blk.1.ffn_up_exps.weight cls.weight
"""


def zoo() -> models.Description:
    """Matrices with all the names that llama.cpp's quantizer knows to leave alone, and some that only look so."""
    description = layered("llama", 2)
    for name in ZOO.split():
        description.add(name, 256, 4)
    description.add("blk.1.flat.weight", 256, 1)
    description.add("blk.1.deep.weight", 256, 1, 3)
    return description


GLM = {
    "attention.key_length_mla": 32, "attention.value_length_mla": 32, "attention.q_lora_rank": 64,
    "attention.kv_lora_rank": 64, "ssm.conv_kernel": 4, "kda.head_dim": 32, "kda.gate_lower_bound": -5.0,
    "kda.safe_gate": True, "expert_feed_forward_length": 256, "expert_shared_count": 1, "expert_gating_func": 1,
    "leading_dense_block_count": 1, "attention.indexer.head_count": 4, "attention.indexer.key_length": 32,
    "attention.indexer.top_k": 8, "attention.indexer.kpool": 4, "hyper_connection.count": 4,
    "hyper_connection.sinkhorn_iterations": 4, "hyper_connection.epsilon": 1e-6,
}  # fmt: skip


def zoo_of(architecture: str, **metadata: object) -> models.Description:
    description = zoo()
    description.architecture = architecture
    description.metadata |= metadata
    return description


def untied_zoo() -> models.Description:
    description = zoo()
    description.tensors = [t for t in description.tensors if t[0] != "output.weight"]
    return description


def mla_experts() -> models.Description:
    """Three-dimensional projections beside three-dimensional experts."""
    description = models.describe("deepseek2", n_layer=2)
    description.architecture = "bailingmoe3"
    description.metadata |= GLM
    return description


def old_experts() -> models.Description:
    """One matrix for each expert, in an order that is not that of the layers: the first files of Mixtral."""
    description = layered("llama", 16, expert_count=8, expert_used_count=2)
    description.tensors = [t for t in description.tensors if "ffn" not in t[0]]
    for layer in range(16):
        for part in ("gate", "up", "down"):
            for expert in range(8):
                description.add(f"blk.{layer}.ffn_{part}.{expert}.weight", 256, 256)
    return description


SPECIAL: dict[str, Callable[[], models.Description]] = {
    "deci": lambda: layered("deci"),
    "olmo": lambda: layered("olmo", **{"attention.layer_norm_epsilon": 1e-5}),
    "jais2": lambda: layered("jais2", 68, **{"attention.layer_norm_epsilon": 1e-5}),
    "qwen2": lambda: layered("qwen2"),
    "qwen3": lambda: layered("qwen3"),
    "llama-embed": lambda: layered("llama-embed"),
    "llama with as many key heads": lambda: layered("llama", n_head_kv=8),
    "llama with layers that predict ahead": lambda: layered("llama", 81, nextn_predict_layers=1),
    "loops": lambda: layered("nanbeige", 16, num_loops=2),
    "router": lambda: layered(
        "graniteswitch",
        15,
        logit_scale=1.0,
        **{
            "adapters.count": 1,
            "adapters.lora_rank": 4,
            "adapters.token_ids_activate": [5],
            "adapters.token_ids_substitute": [6],
        },
    ),
    "one expert": lambda: layered("hunyuan-dense", 16, expert_count=1),
    "heads by layer": per_layer_heads,
    "no key heads in the first layer": lambda: per_layer_heads(first=0),
    "names": zoo,
    "names, tied": untied_zoo,
    "names in glm5-next": lambda: zoo_of("glm5-next", **GLM),
    "bailingmoe3": mla_experts,
    "experts one by one": old_experts,
}


@pytest.mark.parametrize("case", SPECIAL)
def test_special_rules(tmp_path: Path, case: str) -> None:
    description = SPECIAL[case]()
    path = models.write_model(tmp_path / "m.gguf", description, empty=True)
    orders = every_level([t.name for t in read_model(path).tensors])
    if description.sizes.n_layer > 60:
        # These cases differ in one rule, for attention values.
        orders = [
            order for order in orders if order.level in ("Q2_K_S", "Q3_K_S", "Q3_K_M", "Q4_K_M", "IQ2_XS", "Q6_K")
        ]
    assert plan(path, ["Q8_0"])[0] is not None, "the model itself is refused"
    assert_same(path, orders)


def test_parts_for_vision(tmp_path: Path) -> None:
    """Files without a language model; at levels whose rules ask for heads, llama.cpp itself aborts on them."""
    path = models.write_model(tmp_path / "m.gguf", zoo_of("clip"), empty=True)
    assert_same(
        path, [Order(level) for level in ("Q8_0", "Q4_0", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K", "BF16", "COPY")]
    )


def spied(label: str, rules: Sequence[Rule], unused: set[str]) -> tuple[Rule, ...]:
    """The same rules; each takes its name out of `unused` when it applies."""

    def spy(number: int, rule: Rule) -> Rule:
        name = f"{label}, rule {number}"
        unused.add(name)

        def test(place: Place) -> bool:
            if not rule.when.test(place):
                return False
            unused.discard(name)
            return True

        return replace(rule, when=When(test, rule.when.words))

    return tuple(spy(number, rule) for number, rule in enumerate(rules))


def test_every_rule_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that none of the models above needs would be untested."""
    unused: set[str] = set()
    mixed = {
        role: {level: spied(f"{role.name} at {level}", rules, unused) for level, rules in levels.items()}
        for role, levels in mixes.MIXES.items()
    }
    overruling = {role: spied(f"{role.name} above all", rules, unused) for role, rules in mixes.OVERRULING.items()}
    monkeypatch.setattr(mixes, "MIXES", mixed)
    monkeypatch.setattr(mixes, "OVERRULING", overruling)
    for kind in ("llama_gqa_80", "llama_moe_8", "llama_moe_4", "falcon", "llama_tied", "gpt2", "bloom"):
        path = models.make_model(tmp_path / f"{kind}.gguf", kind, empty=True, n_layer=layers_for_all_rules(kind))
        model = read_model(path)
        for order in every_level([t.name for t in model.tensors]):
            types(model, order)
    assert unused == set()


def test_overrides(tmp_path: Path) -> None:
    untied = models.make_model(tmp_path / "untied.gguf", "llama", empty=True, n_layer=18)
    tied = models.make_model(tmp_path / "tied.gguf", "llama_tied", empty=True, n_layer=18)
    per_layer = models.write_model(tmp_path / "per_layer.gguf", untied_zoo(), empty=True)
    for path in (untied, tied, per_layer):
        orders = [
            Order(level, pure=pure, **options)
            for level in ("Q4_K_M", "Q8_0", "IQ3_M", "F16", "MXFP4_MOE", "COPY")
            for pure in (False, True)
            for options in (
                {"output_type": "Q8_0"},
                {"embedding_type": "Q5_K"},
                {"output_type": "Q5_0", "embedding_type": "F16"},
                {"leave_output": True},
                {"tensor_types": (("ffn_down", "Q8_0"),)},
                {"tensor_types": ((r"blk\.(0|1[0-7])\..*_v", "Q6_K"), ("attn_v", "F16"))},
                {"tensor_types": (("^blk.*weight$", "Q3_K"), ("token", "Q4_0")), "embedding_type": "Q6_K"},
                {"tensor_types": (("attn_[^o]", "BF16"), (r"\d\.ffn_u", "IQ4_XS")), "output_type": "F32"},
            )
        ]
        assert_same(path, orders)


def test_overrides_fall_back_too(tmp_path: Path) -> None:
    path = models.make_model(tmp_path / "m.gguf", "qwen2_rows_224", empty=True)
    assert_same(
        path,
        [
            Order("Q8_0", tensor_types=(("ffn_up", "Q4_K"), ("ffn_down", "IQ3_S"))),
            Order("Q4_0", tensor_types=(("ffn_up", "Q2_K"), ("ffn_gate", "TQ2_0"))),
            Order("Q4_K_M", tensor_types=(("ffn_up", "NVFP4"),)),
            Order("Q4_K_M", tensor_types=(("ffn_up", "Q1_0"),)),
            Order("Q4_K_M", output_type="Q4_K"),
        ],
    )


EXACT_LEVELS = ("Q8_0", "Q4_0", "Q4_K_M", "F16", "BF16", "F32", "COPY")


def assert_same_headers(source: Path, outputs: Sequence[tuple[Path, Order]], imatrix: ImatrixFacts | None) -> None:
    model = read_model(source)
    originals = open_source(model)
    for output, order in outputs:
        ours, written = make_recipe(model, request(order), imatrix), output.read_bytes()
        header = ours.header()
        assert written.startswith(header.content), f"{order}"
        assert len(written) == header.total_size
        for choice, offset, size in zip(ours.tensors, header.offsets, header.sizes, strict=True):
            assert choice.n_bytes == size
            if choice.copied:
                original = originals.raw(choice.tensor.name, 0, choice.tensor.n_rows)
                assert written[offset : offset + size] == original
        made = read_model(output)
        assert [(t.name, t.type, t.offset, t.n_bytes) for t in made.tensors] == [
            (c.tensor.name, c.type, offset, size)
            for c, offset, size in zip(ours.tensors, header.offsets, header.sizes, strict=True)
        ]
        assert made.bits_per_weight == pytest.approx(ours.bits_per_weight)


@pytest.mark.parametrize("kind", models.KINDS)
def test_headers_are_identical(tmp_path: Path, kind: str) -> None:
    dtype = models.DTYPES[models.KINDS.index(kind) % 3]
    source = models.make_model(tmp_path / "m.gguf", kind, dtype=dtype, n_layer=2)
    outputs = [(tmp_path / f"{level}.gguf", Order(level)) for level in EXACT_LEVELS]
    quantize_all(source, outputs)
    assert_same_headers(source, outputs, None)


@pytest.mark.slow
def test_headers_of_every_level_with_an_imatrix(tmp_path: Path) -> None:
    source = models.make_model(tmp_path / "m.gguf", "llama", n_layer=1, n_ff=256, n_vocab=260)
    model = read_model(source)
    names = frozenset(t.name for t in model.tensors if len(t.shape) > 1 and t.name != "output.weight")
    facts = ImatrixFacts("/home/me/secret/some.imatrix", names, dataset="C:\\Users\\me\\texts.txt", chunks=7)
    overrides: tuple[tuple[str, str | int], ...] = (
        ("quantize.imatrix.file", "some.imatrix"),
        ("quantize.imatrix.dataset", "texts.txt"),
        ("quantize.imatrix.entries_count", len(names)),
        ("quantize.imatrix.chunks_count", 7),
    )
    imatrix = {n: np.ones(model.by_name[n].row_length, np.float32) for n in names}
    outputs = [(tmp_path / f"{level}.gguf", Order(level, overrides=overrides)) for level in FILE_TYPES]
    quantize_all(source, outputs, imatrix)
    assert_same_headers(source, outputs, facts)


def test_requantizing_and_guessing_the_file_type(tmp_path: Path) -> None:
    source = models.make_model(tmp_path / "m.gguf", "llama", n_layer=2)
    quantized = tmp_path / "q4.gguf"
    quantize_all(source, [(quantized, "Q4_K_M")])
    original = read_model(quantized)
    values = {k: v for k, v in original.metadata.items() if k != "general.file_type"}
    header = write_header(values, [(t.name, t.shape, t.type) for t in original.tensors])
    nameless = tmp_path / "nameless.gguf"
    nameless.write_bytes(header.content + quantized.read_bytes()[original.tensors[0].offset :])
    for path in (quantized, nameless):
        orders = [Order("COPY"), Order("Q8_0", allow_requantize=True), Order("Q4_K_M", allow_requantize=True)]
        outputs = [(tmp_path / f"{path.stem}-{order.level}.gguf", order) for order in orders]
        quantize_all(path, outputs)
        assert_same_headers(path, outputs, None)


def test_split_sources_become_one_file(tmp_path: Path) -> None:
    first = models.write_model(tmp_path / "m.gguf", models.describe("llama", n_layer=3), tensors_per_shard=7)
    outputs = [(tmp_path / f"{level}.gguf", Order(level)) for level in ("Q8_0", "Q4_K_M", "COPY")]
    quantize_all(first, outputs)
    assert_same_headers(first, outputs, None)
    assert not any(key.startswith("split.") for key in read_model(outputs[0][0]).metadata)


def test_values_of_every_kind_keep_their_bytes(tmp_path: Path) -> None:
    source = models.make_model(tmp_path / "m.gguf", "llama", n_layer=1)
    model = read_model(source)
    extra = {
        "general.quantization_version": value("uint32", 1),
        "x.u8": value("uint8", 255), "x.i8": value("int8", -128), "x.u16": value("uint16", 65535),
        "x.i16": value("int16", -32768), "x.i32": value("int32", -(2**31)), "x.f32": value("float32", 0.1),
        "x.bool": value("bool", True), "x.u64": value("uint64", 2**64 - 1), "x.i64": value("int64", -(2**63)),
        "x.f64": value("float64", 0.1), "x.text": value("string", "naïve ☃ \udcff"), "x.empty": value("string", ""),
        "x.none": array("string", []), "x.no_numbers": array("float32", []),
        "x.bools": array("bool", [True, False]), "x.words": array("string", ["", "a", "☃"]),
        "x.floats": array("float64", [1.5, float("inf")]), "x.longs": array("uint64", [1, 2]),
        "quantize.imatrix.file": value("string", "old"),
    }  # fmt: skip
    header = write_header(model.metadata | extra, [(t.name, t.shape, t.type) for t in model.tensors])
    path = tmp_path / "values.gguf"
    path.write_bytes(header.content + source.read_bytes()[model.tensors[0].offset :])
    read = read_model(path)
    assert {key: read.get(key) for key in extra} == {key: item.python for key, item in extra.items()}
    outputs = [(tmp_path / f"{level}.gguf", Order(level)) for level in ("Q8_0", "COPY")]
    quantize_all(path, outputs)
    assert_same_headers(path, outputs, None)
