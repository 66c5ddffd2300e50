"""What a request may say, what is refused in words, and the words that a recipe gives for its choices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quantdeck.kernels import TYPES
from quantdeck.workbench.errors import BadArgument, QuantdeckError, ValidationFailed
from quantdeck.workbench.model import Model, array, read_model, value, write_header
from quantdeck.workbench.recipe import LEVELS, ImatrixFacts, Request, find_level, make_recipe
from support import models


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def model_of(folder: Path, kind: str, **sizes: int) -> Model:
    path = folder / f"{kind}-{sorted(sizes.items())}.gguf"
    return read_model(path if path.exists() else models.make_model(path, kind, empty=True, **sizes))


def refused(model: Model, request: Request, imatrix: ImatrixFacts | None = None) -> str:
    with pytest.raises(BadArgument) as error:
        make_recipe(model, request, imatrix)
    words = str(error.value)
    assert words.endswith((".", "?"))
    assert words.isprintable()
    return words


@pytest.mark.parametrize(("asked", "found"), [("q4_k_m", "Q4_K_M"), ("Q4_K", "Q4_K_M"), (" iq3_xs ", "IQ3_XS")])
def test_levels_in_any_case_and_by_alias(asked: str, found: str) -> None:
    assert find_level(asked).name == found


def test_unknown_levels_get_the_nearest_names(folder: Path) -> None:
    model = model_of(folder, "llama")
    assert "Q4_K_M" in refused(model, Request("Q4_KM"))
    assert "Q8_0" in refused(model, Request("int8"))
    assert "\x1b" not in refused(model, Request("\x1b[31mQ4"))


@pytest.mark.parametrize("level", LEVELS)
def test_levels_say_truly_whether_they_need_an_imatrix(folder: Path, level: str) -> None:
    model = model_of(folder, "llama", n_layer=16)
    recipe = make_recipe(model, Request(level), preview=True)
    assert bool(recipe.imatrix_needed_by) == LEVELS[level].needs_imatrix
    if LEVELS[level].needs_imatrix:
        words = refused(model, Request(level))
        assert "importance matrix" in words
        partial = ImatrixFacts("x", frozenset({"blk.0.attn_q.weight"}))
        assert "does not cover" in refused(model, Request(level), partial)
        whole = ImatrixFacts("x", frozenset(t.name for t in model.tensors))
        assert make_recipe(model, Request(level), whole).level == level


def test_an_empty_imatrix_is_none(folder: Path) -> None:
    model = model_of(folder, "llama", n_layer=16)
    recipe = make_recipe(model, Request("Q4_0"), ImatrixFacts("x", frozenset()))
    assert recipe == make_recipe(model, Request("Q4_0"))
    assert "quantize.imatrix.file" not in recipe.metadata


def test_types_that_need_an_imatrix_need_it_everywhere(folder: Path) -> None:
    model = model_of(folder, "llama")
    assert TYPES["IQ2_XXS"].needs_imatrix
    assert "output.weight" in refused(model, Request("Q4_K_M", output_type="IQ2_XXS"))


def test_expressions(folder: Path) -> None:
    model = model_of(folder, "llama")
    for expression, words in {
        "(": "cannot be understood",
        "*": "cannot be understood",
        "ffn_nothing": "finds none",
        "attn_norm": "finds none",
        "FFN_DOWN": "finds none",
        "(?i)ffn": "not common",
        "(?<=x)ffn": "not common",
        "[[:digit:]]": "not common",
        r"\Ablk": "not common",
        "ffn.*+x": "not common",
        "\x1b[2J": "",
    }.items():
        assert words in refused(model, Request("Q4_K_M", tensor_types=((expression, "Q8_0"),))), expression
    for expression in (r"ffn_(up|gate)", "[*+]+|ffn", r"\++|ffn", r"^blk\.\d{1,2}\.(?!attn)", "(?:ffn)(?=_up)"):
        recipe = make_recipe(model, Request("Q4_K_M", tensor_types=((expression, "Q8_0"),)))
        assert {c.type for c in recipe.tensors if "ffn_up.weight" in c.tensor.name} == {"Q8_0"}
    assert "Q9_9" in refused(model, Request("Q4_K_M", tensor_types=(("ffn", "Q9_9"),)))
    assert "I32" in refused(model, Request("Q4_K_M", output_type="I32"))
    recipe = make_recipe(model, Request("F16", tensor_types=(("ffn", "q8_0"),)))
    assert any("no effect" in note for note in recipe.notes)


def test_types_that_rows_do_not_fit(folder: Path) -> None:
    model = model_of(folder, "qwen2_rows_224")
    assert "rows of 224" in refused(model, Request("Q4_K_M", embedding_type="Q4_K"))
    assert "128" in refused(model, Request("Q1_0"))


def test_quantized_sources(tmp_path: Path) -> None:
    metadata = {
        "general.architecture": value("string", "llama"),
        "llama.block_count": value("uint32", 1),
        "llama.attention.head_count": value("uint32", 4),
    }
    header = write_header(metadata, [("blk.0.ffn_up.weight", (256, 8), "Q8_0"), ("output.weight", (256, 8), "F16")])
    path = tmp_path / "m.gguf"
    path.write_bytes(header.content + bytes(header.total_size - header.data_offset))
    model = read_model(path)
    assert "already quantized" in refused(model, Request("Q4_K_M"))
    assert make_recipe(model, Request("Q4_K_M", allow_requantize=True)).tensors[1].type == "Q4_K"
    assert make_recipe(model, Request("Q4_K_M"), preview=True).n_bytes > 0
    assert make_recipe(model, Request("COPY")).n_bytes == model.n_bytes
    assert make_recipe(model, Request("Q8_0")).tensors[1].copied


def test_types_that_hold_no_weights_are_copied_or_refused(tmp_path: Path) -> None:
    metadata = {"general.architecture": value("string", "llama"), "llama.block_count": value("uint32", 1)}
    for name, copied in (("blk.0.ffn_gate_tid2eid.weight", True), ("blk.0.ffn_up.weight", False)):
        header = write_header(metadata, [(name, (256, 8), "I32")])
        path = tmp_path / "m.gguf"
        path.write_bytes(header.content + bytes(header.total_size - header.data_offset))
        if copied:
            recipe = make_recipe(read_model(path), Request("Q4_K_M"))
            assert recipe.tensors[0].copied
            assert recipe.n_bytes == 256 * 8 * 4
        else:
            with pytest.raises(ValidationFailed, match="I32"):
                make_recipe(read_model(path), Request("Q4_K_M"))


@pytest.mark.parametrize(
    ("key", "item"),
    [
        ("llama.block_count", None),
        ("llama.block_count", value("string", "4")),
        ("llama.block_count", value("float32", 4.0)),
        ("llama.attention.head_count", value("int32", -8)),
        ("llama.attention.head_count_kv", array("string", ["x"])),
        ("llama.expert_count", value("uint64", 1 << 60)),
    ],
)
def test_metadata_that_makes_no_sense(folder: Path, key: str, item: object) -> None:
    model = model_of(folder, "llama")
    metadata = {k: v for k, v in model.metadata.items() if k != key} | ({key: item} if item else {})
    with pytest.raises(QuantdeckError, match=key):
        make_recipe(replace(model, metadata=metadata), Request("Q4_K_M"))
    assert make_recipe(replace(model, metadata=metadata), Request("F16")).level == "F16"


def test_experts_outside_of_the_layers(folder: Path) -> None:
    model = model_of(folder, "llama_moe_8")
    stray = replace(model.by_name["blk.0.ffn_down_exps.weight"], name="blk.77.ffn_down_exps.weight")
    with pytest.raises(ValidationFailed, match="none of the model's 4 layers"):
        make_recipe(replace(model, tensors=(*model.tensors, stray)), Request("Q4_K_M"))


def test_no_weights(folder: Path) -> None:
    model = model_of(folder, "llama")
    assert "no weights" in refused(replace(model, tensors=()), Request("Q4_K_M"))


def test_reasons(folder: Path) -> None:
    recipe = make_recipe(model_of(folder, "llama", n_layer=16), Request("Q4_K_M", tensor_types=(("0.ffn_up", "Q8_0"),)))
    by_name = {choice.tensor.name: choice for choice in recipe.tensors}
    expected = {
        "output.weight": ("Q6_K", "output"),
        "output_norm.weight": ("F32", "one dimension"),
        "token_embd.weight": ("Q4_K", ""),
        "blk.0.attn_v.weight": ("Q6_K", "attention values in the mix Q4_K_M, in the first and the last eighth"),
        "blk.2.attn_v.weight": ("Q4_K", ""),
        "blk.0.ffn_up.weight": ("Q8_0", "asked by '0.ffn_up'"),
    }
    for name, (kind, words) in expected.items():
        assert by_name[name].type == kind
        assert words in by_name[name].reason, name
        assert bool(words) == bool(by_name[name].reason), name
    for choice in recipe.tensors:
        assert (choice.reason == "") == (choice.type == choice.asked)


@pytest.mark.parametrize("kind", models.KINDS)
def test_every_deviation_has_a_reason(folder: Path, kind: str) -> None:
    model = model_of(folder, kind)
    facts = ImatrixFacts("x", frozenset(t.name for t in model.tensors))
    for level in LEVELS:
        for request in (Request(level), Request(level, pure=True), Request(level, leave_output=True)):
            try:
                recipe = make_recipe(model, request, facts)
            except BadArgument:
                assert level == "Q1_0"
                continue
            for choice in recipe.tensors:
                assert (choice.reason == "") == (choice.type == choice.asked), choice
                assert not choice.fallback or "not a multiple of" in choice.reason
            assert recipe.bits_per_weight == pytest.approx(8 * recipe.n_bytes / model.n_weights)


def test_summaries(folder: Path) -> None:
    plain = make_recipe(model_of(folder, "llama"), Request("q4_k_m"))
    assert plain.summary == f"Q4_K_M: {plain.bits_per_weight:.2f} bits per weight"
    odd = make_recipe(model_of(folder, "qwen2_rows_224"), Request("Q4_K_M"))
    assert odd.summary == (
        f"asked Q4_K_M, becomes {odd.bits_per_weight:.2f} bits per weight, because 25 tensors have rows of 224 weights,"
        " not a multiple of 256 and 4 tensors have rows of 608 weights, not a multiple of 256"
    )


def test_notes_on_what_the_imatrix_leaves_out(folder: Path) -> None:
    model = model_of(folder, "llama")
    names = frozenset(t.name for t in model.tensors if t.name not in ("output.weight", "blk.1.ffn_up.weight"))
    notes = make_recipe(model, Request("Q4_K_M"), ImatrixFacts("x", names)).notes
    assert len(notes) == 1
    assert "1 tensor " in notes[0]
    assert "blk.1.ffn_up.weight" in notes[0]


def test_only_file_names_reach_the_output(folder: Path) -> None:
    model = model_of(folder, "llama")
    names = frozenset(t.name for t in model.tensors)
    for path, name in {
        "/home/me/secret/some.imatrix": "some.imatrix",
        "C:\\Users\\me\\some.imatrix": "some.imatrix",
        "folder/": "folder",
        "x" * 200: "x" * 127,
    }.items():
        metadata = make_recipe(model, Request("Q4_K_M"), ImatrixFacts(path, names, dataset=path)).metadata
        assert metadata["quantize.imatrix.file"].python == name
        assert metadata["quantize.imatrix.dataset"].python == name
        assert "quantize.imatrix.chunks_count" not in metadata


def test_alignment_of_the_source_is_kept(tmp_path: Path) -> None:
    metadata = {
        "general.architecture": value("string", "llama"),
        "general.alignment": value("uint32", 128),
        "llama.block_count": value("uint32", 1),
    }
    tensors = [("a.weight", (32,), "F32"), ("b.weight", (32, 3), "F32"), ("c.weight", (32,), "F32")]
    header = write_header(metadata, tensors, 128)
    path = tmp_path / "m.gguf"
    path.write_bytes(header.content + bytes(header.total_size - header.data_offset))
    recipe = make_recipe(read_model(path), Request("Q8_0"))
    ours = recipe.header()
    assert recipe.alignment == 128
    assert all(offset % 128 == 0 for offset in ours.offsets)
    path.write_bytes(ours.content + bytes(ours.total_size - ours.data_offset))
    assert [t.type for t in read_model(path).tensors] == ["F32", "Q8_0", "F32"]


@pytest.mark.parametrize("seed", range(3))
def test_damaged_metadata_never_surprises(tmp_path: Path, seed: int) -> None:
    """Whatever the reader lets through, a recipe comes of it or one sentence."""
    content = models.make_model(tmp_path / "m.gguf", "llama_moe_4", empty=True, n_layer=2).read_bytes()
    begin, end = content.index(b"llama.context_length"), content.index(b"tokenizer.ggml.tokens")
    names = content.index(b"token_embd.weight")
    rng = np.random.default_rng(seed)
    path, outcomes = tmp_path / "damaged.gguf", set()
    for _ in range(400):
        damaged = bytearray(content)
        low, high = (begin, end) if rng.random() < 0.7 else (names, names + 1200)
        for position in rng.integers(low, high, rng.integers(1, 4)):
            damaged[position] = rng.choice([0, 1, 8, 9, 0x7F, 0x80, 0xFF, rng.integers(256)])
        path.write_bytes(damaged)
        try:
            recipe = make_recipe(read_model(path), Request("Q3_K_M", tensor_types=(("ffn", "Q4_0"),)), preview=True)
            assert recipe.header().total_size > recipe.n_bytes
            assert recipe.summary
            outcomes.add("made")
        except QuantdeckError as error:
            assert str(error).isprintable()
            outcomes.add("refused")
    assert outcomes == {"made", "refused"}
