"""Checkpoints quantized straight: byte for byte what the way over a 16-bit file gives, without that file."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from quantdeck.workbench import jobs
from quantdeck.workbench.advice import Wish, advise
from quantdeck.workbench.checkpoint import read_checkpoint
from quantdeck.workbench.errors import ResumeFailed
from quantdeck.workbench.hardware import Bandwidth, detect
from quantdeck.workbench.model import open_source, read_model
from quantdeck.workbench.recipe import Request
from support import llama_quantize
from support.checkpoints import build, change_json, convert, draw_weights, write_safetensors
from support.jobs import Bench


def _quantize(bench: Bench, source: Path, level: str, name: str, **options) -> Path:
    output = bench.folder / name
    proposal = jobs.prepare(bench.store, source, Request(level), output, jobs.JobOptions(workers=2, **options))
    job = jobs.submit(bench.store, proposal)
    jobs.start(bench.store, job)
    end = bench.end(job)
    assert end.status == "done", end.message
    return output


@pytest.mark.parametrize(
    ("family", "dtype", "middle", "level"),
    [
        ("llama3", "BF16", "BF16", "Q4_K_M"),
        ("qwen3moe", "F16", "F16", "Q4_K_M"),
        ("gemma3", "F32", "F16", "Q4_K_M"),
        ("deepseek2", "BF16", "BF16", "Q5_K_M"),
        ("gpt2", "F32", "F16", "Q4_K_M"),
        ("falcon-grouped", "BF16", "BF16", "Q6_K"),
        ("mixtral", "BF16", "BF16", "Q3_K_M"),
    ],
)
def test_straight_is_what_the_way_over_a_file_gives(bench: Bench, family: str, dtype: str, middle: str, level: str):
    folder = build(family, bench.folder / family, dtype=dtype, shards=2)
    over = _quantize(bench, folder, middle, "middle.gguf", verify=False)
    straight = _quantize(bench, folder, level, "straight.gguf")
    assert straight.read_bytes() == _quantize(bench, over, level, "over.gguf", verify=False).read_bytes()
    llama_quantize.quantize_all(over, [(bench.folder / "theirs.gguf", level)])
    assert straight.read_bytes() == (bench.folder / "theirs.gguf").read_bytes()


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("level", ["F32", "F16", "BF16"])
def test_plain_conversion_rounds_once(bench: Bench, dtype: str, level: str):
    folder = build("qwen2", bench.folder / "model", dtype=dtype)
    if dtype == "F32":
        # Values that 16 bits do not hold.
        content = bytearray((folder / "model.safetensors").read_bytes())
        weights = np.frombuffer(content, np.uint32, offset=len(content) % 4 + 8192)
        weights[:] |= np.uint32(0x155)
        (folder / "model.safetensors").write_bytes(content)
    wanted = convert(read_checkpoint(folder, matrices=level), bench.folder / "wanted.gguf")
    found = _quantize(bench, folder, level, "found.gguf")
    ours, theirs = open_source(read_model(found)), open_source(read_model(wanted))
    model = read_model(found)
    assert {t.type for t in model.tensors if t.name.endswith("ffn_up.weight")} == {level}
    assert {t.type for t in model.tensors if t.name.endswith("norm.weight")} == {"F32"}
    assert model.get("general.file_type") == {"F32": 0, "F16": 1, "BF16": 32}[level]
    for tensor in model.tensors:
        count = tensor.n_rows
        assert ours.raw(tensor.name, 0, count) == theirs.raw(tensor.name, 0, count), tensor.name


def test_the_output_alone_takes_room(bench: Bench):
    folder = build("llama2", bench.folder / "in" / "model", dtype="BF16")
    out = bench.folder / "out"
    out.mkdir()
    proposal = jobs.prepare(bench.store, folder, Request("Q4_K_M"), out / "m.gguf", jobs.JobOptions(workers=2))
    job = jobs.submit(bench.store, proposal)
    before, most, over = _used(bench.folder), 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not over.is_set():
            most = max(most, _used(bench.folder) - before)

    thread = threading.Thread(target=look)
    thread.start()
    jobs.start(bench.store, job)
    end = bench.end(job)
    over.set()
    thread.join()
    assert end.status == "done", end.message
    size = (out / "m.gguf").stat().st_size
    assert size <= most <= size + (256 << 10), (most, size)


def _used(folder: Path) -> int:
    used = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                used += os.lstat(os.path.join(path, name)).st_blocks * 512  # noqa: PTH118
            except OSError:
                continue
    return used


def test_an_interrupted_job_goes_on_to_the_same_bytes(bench: Bench):
    folder = build("llama3", bench.folder / "model")
    wanted = _quantize(bench, folder, "Q6_K", "wanted.gguf").read_bytes()
    job = jobs.submit(
        bench.store,
        jobs.prepare(bench.store, folder, Request("Q6_K"), bench.folder / "o.gguf", jobs.JobOptions(workers=1)),
    )
    jobs.start(bench.store, job)
    bench.until(job, lambda snapshot: snapshot.fraction > 0)
    for process in bench.processes():
        process.kill()
    jobs.start(bench.store, job)
    assert bench.end(job).status == "done"
    assert (bench.folder / "o.gguf").read_bytes() == wanted


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model-00002-of-00002.safetensors"])
def test_a_checkpoint_that_changed_is_not_mixed(bench: Bench, file: str):
    folder = build("llama3", bench.folder / "model", shards=2)
    proposal = jobs.prepare(bench.store, folder, Request("Q8_0"), bench.folder / "o.gguf", jobs.JobOptions(workers=1))
    assert {Path(source.path).name for source in proposal.plan.sources} >= {file, "config.json"}
    content = bytearray((folder / file).read_bytes())
    content[-3] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(ResumeFailed, match="has changed since the job was planned"):
        jobs.submit(bench.store, proposal)


def test_advice_and_recipes_take_a_checkpoint_like_a_file(tmp_path: Path):
    folder = build("qwen3moe", tmp_path / "model")
    model = read_model(folder)
    file = read_model(convert(model, tmp_path / "model.gguf"))
    assert model.n_weights == file.n_weights and model.n_bytes == file.n_bytes
    machine = detect(tmp_path)
    speed = Bandwidth(2e10, 2, "2026-01-01T00:00:00+00:00")
    ours, theirs = advise(model, machine, Wish(), speed), advise(file, machine, Wish(), speed)
    assert ours.level == theirs.level
    assert [(c.level, c.n_bytes, c.fits) for c in ours.candidates] == [
        (c.level, c.n_bytes, c.fits) for c in theirs.candidates
    ]


def _old(folder: Path, **fields: object) -> Path:
    """config.json as transformers 4 wrote it."""
    change_json(folder / "config.json", rope_parameters=None, dtype=None, torch_dtype="bfloat16", **fields)
    return folder


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("llama2", {"rope_theta": 10000.0, "rope_scaling": None, "head_dim": None}),
        (
            "llama3",
            {
                "rope_theta": 500000.0,
                "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
                | {"original_max_position_embeddings": 64},
            },
        ),
        ("mixtral", {"rope_theta": 1e6}),
        (
            "gemma3",
            {"rope_theta": 1e6, "rope_local_base_freq": 10000.0, "layer_types": None, "sliding_window_pattern": 6},
        ),
        ("phi3", {"rope_theta": 10000.0, "rope_scaling": None}),
        ("gptneox", {"rotary_pct": 0.25, "rotary_emb_base": 10000}),
        ("stablelm", {"partial_rotary_factor": 0.25, "rope_theta": 10000}),
        ("smollm3", {"rope_theta": 2000000.0}),
        ("gpt2", {"n_ctx": 512}),
        ("falcon", {"n_head": 4, "num_attention_heads": None, "n_layer": 2, "num_hidden_layers": None}),
        ("starcoder2", {"rope_theta": 10000.0}),
        ("granite", {"rope_theta": 10000.0}),
        ("command-r", {"rope_theta": 500000.0}),
    ],
)
def test_configurations_of_transformers_4_say_the_same(family: str, fields: dict[str, object], tmp_path: Path):
    new = read_checkpoint(build(family, tmp_path / "model"))
    old = read_checkpoint(_old(tmp_path / "model", **fields))
    assert old.tensors == new.tensors
    assert {k: v.python for k, v in old.metadata.items()} == {k: v.python for k, v in new.metadata.items()}


def test_a_text_model_inside_of_a_larger_one(tmp_path: Path):
    """Gemma 3 with eyes: names with a prefix, the text's configuration in a table, other tensors left out."""
    folder = build("gemma3", tmp_path / "model")
    plain = read_checkpoint(folder)
    config = json.loads((folder / "config.json").read_text())
    shapes = json.loads((Path(__file__).parents[1] / "checkpoints/gemma3/weights.json").read_text())["shapes"]
    inner = {key: item for key, item in config.items() if key not in ("architectures", "vocab_size")}
    outer = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": inner | {"vocab_size": 480}}
    (folder / "config.json").write_text(json.dumps(outer))
    weights = {f"language_model.{name}": values for name, values in draw_weights(shapes, 7).items()}
    weights["vision_tower.vision_model.embeddings.position_embedding.weight"] = np.zeros((4, 4), np.float32)
    weights["multi_modal_projector.mm_soft_emb_norm.weight"] = np.zeros(4, np.float32)
    # Rows beyond the vocabulary, as in the published ones.
    name = "language_model.model.embed_tokens.weight"
    weights[name] = np.concatenate([weights[name], np.ones((64, 256), np.float32)])
    write_safetensors(folder / "model.safetensors", weights, "BF16")
    model = read_checkpoint(folder)
    assert model.tensors == plain.tensors
    build("gemma3", tmp_path / "again")
    ours = open_source(model)
    theirs = open_source(read_checkpoint(tmp_path / "again"))
    for tensor in model.tensors:
        assert ours.raw(tensor.name, 0, tensor.n_rows) == theirs.raw(tensor.name, 0, tensor.n_rows), tensor.name


def test_gpt2_with_the_names_that_it_was_published_with(tmp_path: Path):
    folder = build("gpt2", tmp_path / "model")
    shapes = json.loads((Path(__file__).parents[1] / "checkpoints/gpt2/weights.json").read_text())["shapes"]
    plain = read_checkpoint(folder)
    weights = {name.removeprefix("transformer."): values for name, values in draw_weights(shapes, 7).items()}
    weights |= {f"h.{i}.attn.bias": np.ones((1, 1, 8, 8), np.float32) for i in range(2)}
    write_safetensors(folder / "model.safetensors", weights, "F32")
    assert {t.name: t.shape for t in read_checkpoint(folder).tensors} == {t.name: t.shape for t in plain.tensors}


def test_matrices_take_the_type_of_the_first_that_has_16_bits(tmp_path: Path):
    folder = build("qwen2", tmp_path / "model")
    shapes = json.loads((Path(__file__).parents[1] / "checkpoints/qwen2/weights.json").read_text())["shapes"]
    first, second = sorted(name for name, shape in shapes.items() if len(shape) > 1)[:2]
    for others, wanted in (({first: "F32"}, "BF16"), ({first: "F32", second: "F16"}, "F16")):
        write_safetensors(folder / "model.safetensors", draw_weights(shapes, 1), "BF16", others)
        model = read_checkpoint(folder)
        assert {t.type for t in model.tensors if len(t.shape) > 1} == {wanted}
        source = open_source(model)
        for tensor in model.tensors:
            assert len(source.raw(tensor.name, 0, tensor.n_rows)) == tensor.n_bytes
        source.close()
