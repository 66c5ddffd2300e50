"""Reading GGUF: what is right is read exactly, what is wrong is refused in one sentence, whatever it is."""

from __future__ import annotations

import os
import resource
import struct
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest

from quantdeck.workbench.errors import ModelNotFound, QuantdeckError, ValidationFailed
from quantdeck.workbench.model import array, open_source, read_model, value, write_header
from support import ggml, models

SAMPLE = Path(__file__).parents[2] / "workbench" / "sample" / "sample-f16.gguf"


def small_file(**metadata: object) -> bytes:
    """A model of two tensors, complete."""
    values = {
        "general.architecture": value("string", "llama"),
        "llama.block_count": value("uint32", 1),
        "tokens": array("string", ["a", "b", "c"]),
        "numbers": array("int16", [1, -2, 3]),
    }
    header = write_header(values | metadata, [("a.weight", (8, 4), "F16"), ("b.weight", (32, 2), "Q8_0")])
    return header.content + bytes(i % 50 for i in range(header.total_size - header.data_offset))


def raw_file(
    *tensors: tuple[bytes, tuple[int, ...], int, int],
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int, int] | None = None,
    metadata: bytes = b"",
    n_values: int = 0,
    data: int = 4096,
) -> bytes:
    """A file byte by byte, with nothing checked; a tensor is (name, dimensions, type, offset)."""
    architecture = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
    n_tensors, n_values = counts or (len(tensors), n_values + 1)
    header = magic + struct.pack("<IQQ", version, n_tensors, n_values) + architecture + metadata
    for name, shape, kind, offset in tensors:
        header += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    return header + bytes(-len(header) % 32) + bytes(data)


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def read(tmp_path: Path, content: bytes):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return read_model(path)


def sentence(error: pytest.ExceptionInfo[QuantdeckError]) -> str:
    words = str(error.value)
    assert words.endswith(".")
    assert words.isprintable()
    assert len(words) < 500
    return words


def test_sample_agrees_with_gguf_py() -> None:
    model, other = read_model(SAMPLE), gguf.GGUFReader(SAMPLE)
    assert [(t.name, t.shape, t.type) for t in model.tensors] == [
        (t.name, tuple(int(n) for n in t.shape), t.tensor_type.name) for t in other.tensors
    ]
    assert [t.offset for t in model.tensors] == [int(t.data_offset) for t in other.tensors]
    for key, item in model.metadata.items():
        assert item.python == other.fields[key].contents(), key
    assert model.get("{arch}.block_count") == model.get("llama.block_count") == 5
    assert model.get("no.such.key", "nothing") == "nothing"
    assert not model.is_quantized
    assert model.n_bytes == sum(int(t.n_bytes) for t in other.tensors)


@pytest.mark.parametrize("dtype", models.DTYPES)
def test_rows_are_exact(tmp_path: Path, dtype: str) -> None:
    path = models.make_model(tmp_path / "m.gguf", "llama_moe_4", dtype=dtype, n_layer=1)
    model, other = read_model(path), gguf.GGUFReader(path)
    source = open_source(model)
    for tensor, truth in zip(model.tensors, other.tensors, strict=True):
        expected = gguf.dequantize(truth.data, truth.tensor_type).reshape(tensor.n_rows, tensor.row_length)
        rows = source.rows(tensor.name, 0, tensor.n_rows)
        assert rows.dtype == np.float32
        assert rows.flags.c_contiguous
        assert rows.tobytes() == expected.astype(np.float32).tobytes()
        last = source.rows(tensor.name, tensor.n_rows - 1, 1)
        assert last.tobytes() == expected[-1].astype(np.float32).tobytes()
        assert source.raw(tensor.name, 0, tensor.n_rows) == truth.data.tobytes()
    source.close()


def test_rows_stay_when_others_are_read(tmp_path: Path) -> None:
    """The scratch buffer never shows through."""
    for dtype in models.DTYPES:
        source = open_source(read_model(models.make_model(tmp_path / f"{dtype}.gguf", "llama", dtype=dtype, n_layer=1)))
        first = source.rows("blk.0.ffn_up.weight", 0, 4)
        before = first.copy()
        source.rows("blk.0.ffn_up.weight", 100, 4)
        assert np.array_equal(first, before)


def test_quantized_rows_are_dequantized(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (6, 64)).astype(np.float32)
    packed = ggml.quantize(rows, "Q8_0")
    header = write_header({"general.architecture": value("string", "llama")}, [("a.weight", (64, 6), "Q8_0")])
    model = read(tmp_path, header.content + packed.tobytes())
    assert model.is_quantized
    source = open_source(model)
    assert np.array_equal(source.rows("a.weight", 2, 3), ggml.dequantize(packed, "Q8_0", 64)[2:5])
    assert source.raw("a.weight", 2, 3) == packed[2:5].tobytes()


def test_rows_outside_of_a_tensor_are_an_error(tmp_path: Path) -> None:
    source = open_source(read(tmp_path, small_file()))
    for first, count in ((-1, 1), (0, 5), (4, 1), (0, -1)):
        with pytest.raises(IndexError):
            source.rows("a.weight", first, count)


def test_a_file_that_shrinks_after_reading(tmp_path: Path) -> None:
    model = read(tmp_path, small_file())
    source = open_source(model)
    os.truncate(model.path, model.tensors[0].offset + 8)
    with pytest.raises(ValidationFailed) as error:
        source.rows("a.weight", 0, 4)
    assert "shorter" in sentence(error)
    model.path.unlink()
    with pytest.raises(ModelNotFound):
        open_source(model)


def test_version_2_is_read(tmp_path: Path) -> None:
    content = bytearray(small_file())
    content[4] = 2
    assert len(read(tmp_path, bytes(content)).tensors) == 2


def test_strings_that_are_not_utf8_survive(tmp_path: Path) -> None:
    model = read(tmp_path, small_file(broken=value("string", b"\xff\x00\x1b[2J".decode("utf-8", "surrogateescape"))))
    assert model.get("broken").encode("utf-8", "surrogateescape") == b"\xff\x00\x1b[2J"


def test_alignment_is_obeyed(tmp_path: Path) -> None:
    values = {"general.architecture": value("string", "llama"), "general.alignment": value("uint32", 256)}
    header = write_header(values, [("a.weight", (8,), "F32"), ("b.weight", (8,), "F32")], alignment=256)
    data = bytearray(header.total_size - header.data_offset)
    data[256:288] = np.arange(8, dtype=np.float32).tobytes()
    model = read(tmp_path, header.content + bytes(data))
    assert header.offsets[1] - header.offsets[0] == 256
    assert np.array_equal(open_source(model).rows("b.weight", 0, 1)[0], np.arange(8))


def test_last_dimensions_of_one_do_not_count(tmp_path: Path) -> None:
    model = read(tmp_path, raw_file((b"a", (8, 1, 1), 0, 0), (b"b", (8, 1, 2), 0, 32)))
    assert [t.shape for t in model.tensors] == [(8,), (8, 1, 2)]


HOSTILE = {
    "empty": (b"", "is empty"),
    "wrong magic": (raw_file(magic=b"GGML"), "does not begin"),
    "short magic": (b"GG", "truncated"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"),
    "version 0": (raw_file(version=0), "version 0"),
    "version 1": (raw_file(version=1), "version 1"),
    "version 4": (raw_file(version=4), "version 4"),
    "big-endian": (raw_file(version=3 << 24), "big-endian"),
    "counts beyond the file": (raw_file(counts=(1 << 40, 1)), "more than it has room for"),
    "values beyond the file": (raw_file(counts=(0, 1 << 63)), "more than it has room for"),
    "negative counts": (raw_file(counts=(2**64 - 1, 2**64 - 1)), "more than it has room for"),
    "one value too many": (raw_file(counts=(0, 2), data=64), ""),
    "string beyond the file": (raw_file(metadata=struct.pack("<Q", 1 << 62), n_values=1), "truncated"),
    "value beyond the file": (
        raw_file(metadata=text(b"k") + struct.pack("<IQ", 8, 1 << 63), n_values=1),
        "truncated",
    ),
    "array of too many": (
        raw_file(metadata=text(b"k") + struct.pack("<IIQ", 9, 10, 1 << 61), n_values=1),
        "truncated",
    ),
    "strings of too many": (
        raw_file(metadata=text(b"k") + struct.pack("<IIQ", 9, 8, 1 << 61), n_values=1),
        "truncated",
    ),
    "string in array beyond the file": (
        raw_file(metadata=text(b"k") + struct.pack("<IIQQ", 9, 8, 2, 1 << 63), n_values=1),
        "truncated",
    ),
    "array of arrays": (raw_file(metadata=text(b"k") + struct.pack("<IIQ", 9, 9, 1), n_values=1), "unknown kind 9"),
    "unknown kind": (raw_file(metadata=text(b"k") + struct.pack("<I", 13), n_values=1), "unknown kind 13"),
    "huge key": (raw_file(metadata=text(b"k" * 70_000) + struct.pack("<IB", 0, 0), n_values=1), "longer than"),
    "long hostile key": (
        raw_file(metadata=text(b"\x1b" * 60_000) + struct.pack("<I", 77), n_values=1),
        "unknown kind 77",
    ),
    "empty key": (raw_file(metadata=text(b"") + struct.pack("<IB", 0, 0), n_values=1), "empty key"),
    "key twice": (raw_file(metadata=2 * (text(b"k") + struct.pack("<IB", 0, 0)), n_values=2), "twice"),
    "hostile key": (raw_file(metadata=text(b"\x1b[2J\n") + struct.pack("<I", 77), n_values=1), "unknown kind 77"),
    "alignment 0": (
        raw_file(metadata=text(b"general.alignment") + struct.pack("<II", 4, 0), n_values=1),
        "power of two",
    ),
    "alignment 48": (
        raw_file(metadata=text(b"general.alignment") + struct.pack("<II", 4, 48), n_values=1),
        "power of two",
    ),
    "alignment 2 GiB": (
        raw_file(metadata=text(b"general.alignment") + struct.pack("<II", 4, 1 << 31), n_values=1),
        "sensible size",
    ),
    "alignment as text": (
        raw_file(metadata=text(b"general.alignment") + struct.pack("<I", 8) + text(b"32"), n_values=1),
        "power of two",
    ),
    "no architecture": (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "does not name its architecture"),
    "tensor twice": (raw_file((b"a", (8,), 0, 0), (b"a", (8,), 0, 32)), "twice"),
    "no name": (raw_file((b"", (8,), 0, 0)), "no name"),
    "name with NUL": (raw_file((b"a\0b", (8,), 0, 0)), "no name"),
    "name of 64 bytes": (raw_file((b"a" * 64, (8,), 0, 0)), "63 are allowed"),
    "name beyond the file": (raw_file((b"a", (8,), 0, 0), counts=(2, 1), data=32), ""),
    "no dimensions": (raw_file((b"a", (), 0, 0)), "0 dimensions"),
    "5 dimensions": (raw_file((b"a", (1, 1, 1, 1, 1), 0, 0)), "5 dimensions"),
    "dimension zero": (raw_file((b"a", (8, 0), 0, 0)), "length zero"),
    "product overflows": (raw_file((b"a", (1 << 62, 1 << 62, 4, 4), 0, 0)), "larger than the whole file"),
    "negative dimension": (raw_file((b"a", (2**64 - 8,), 0, 0)), "larger than the whole file"),
    "unknown type": (raw_file((b"a", (8,), 99, 0)), "unknown type 99"),
    "removed type": (raw_file((b"a", (8,), 4, 0)), "unknown type 4"),
    "row not a multiple of the block": (raw_file((b"a", (40, 2), 8, 0)), "multiple of 32"),
    "overlapping": (raw_file((b"a", (16,), 0, 0), (b"b", (8,), 0, 32)), "instead of 64"),
    "gap": (raw_file((b"a", (8,), 0, 0), (b"b", (8,), 0, 64)), "instead of 32"),
    "offset beyond the file": (raw_file((b"a", (8,), 0, 1 << 60)), "instead of 0"),
    "data beyond the file": (raw_file((b"a", (900,), 0, 0), data=3599), "beyond the end"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(tmp_path: Path, case: str) -> None:
    content, words = HOSTILE[case]
    with pytest.raises(ValidationFailed) as error:
        read(tmp_path, content)
    assert words in sentence(error)


def test_truncation_at_every_byte(tmp_path: Path) -> None:
    content = small_file()
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    model = read_model(path)
    needed = model.tensors[-1].offset + model.tensors[-1].n_bytes
    for length in range(needed - 1, -1, -1):
        os.truncate(path, length)
        with pytest.raises(ValidationFailed) as error:
            read_model(path)
        sentence(error)


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_never_surprise(tmp_path: Path, seed: int) -> None:
    """A damaged header is read or refused; no other exception, no endless loop, no memory beyond a few files' size."""
    content = small_file()
    header = len(content) - 256
    rng = np.random.default_rng(seed)
    path = tmp_path / "model.gguf"
    read_model(SAMPLE)
    tracemalloc.start()
    try:
        outcomes = damage_and_read(path, content, header, rng)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert outcomes >= {"read", "ValidationFailed"}
    assert peak < 8 << 20


def damage_and_read(path: Path, content: bytes, header: int, rng: np.random.Generator) -> set[str]:
    started, outcomes = time.perf_counter(), set()
    for _ in range(1500):
        damaged = bytearray(content)
        for position in rng.integers(0, header, rng.integers(1, 4)):
            damaged[position] = rng.choice([0, 1, 8, 9, 0x7F, 0x80, 0xFF, rng.integers(256)])
        path.write_bytes(damaged)
        try:
            model = read_model(path)
            for item in model.metadata.values():
                assert item.python is not None
            source = open_source(model)
            for tensor in model.tensors:
                source.raw(tensor.name, 0, tensor.n_rows)
            source.close()
            outcomes.add("read")
        except QuantdeckError as error:
            assert str(error).isprintable()
            outcomes.add(type(error).__name__)
    assert time.perf_counter() - started < 60
    return outcomes


def test_absurd_claims_cost_nothing(tmp_path: Path) -> None:
    """A sparse file of a terabyte makes every length plausible."""
    path = tmp_path / "model.gguf"
    claims = (
        raw_file(metadata=text(b"k") + struct.pack("<IQ", 8, 1 << 39), n_values=1),
        raw_file(metadata=text(b"k") + struct.pack("<IIQ", 9, 0, 1 << 39), n_values=1),
        raw_file(metadata=text(b"k") + struct.pack("<IIQQ", 9, 8, 1 << 36, 1 << 38), n_values=1),
        raw_file(counts=(1 << 34, 1)),
        raw_file(counts=(0, 1 << 34)),
    )
    for content in claims:
        path.write_bytes(content)
        try:
            os.truncate(path, 1 << 40)
        except OSError:
            pytest.skip("no sparse files of a terabyte here")
        started = time.perf_counter()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(ValidationFailed) as error:
            read_model(path)
        sentence(error)
        assert time.perf_counter() - started < 30
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_things_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "model.gguf").write_bytes(small_file())
    cases = {
        tmp_path / "missing.gguf": "no file",
        tmp_path: "model.gguf",
        tmp_path / "pipe": "pipe",
        Path("/dev/null"): "device",
        tmp_path / "model.gguf" / "inside": "",
        tmp_path / ("x" * 300): "",
        tmp_path / "nul\0byte": "",
        tmp_path / "\x1b[2Jred": "no file",
    }
    for path, words in cases.items():
        with pytest.raises(ModelNotFound) as error:
            read_model(path)
        assert words in sentence(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(small_file())
    path.chmod(0)
    with pytest.raises(ModelNotFound, match="permission"):
        read_model(path)


def test_no_permission_even_for_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "model.gguf"
    path.write_bytes(small_file())
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ModelNotFound) as error:
        read_model(path)
    assert "permission" in sentence(error)


def split_model(folder: Path) -> Path:
    return models.write_model(folder / "m.gguf", models.describe("llama", n_layer=2), tensors_per_shard=8)


def test_shards_are_one_model(tmp_path: Path) -> None:
    whole = read_model(models.make_model(tmp_path / "whole.gguf", "llama", n_layer=2))
    first = split_model(tmp_path)
    shards = sorted(tmp_path.glob("m-*.gguf"))
    assert len(shards) > 2
    for given in shards:
        model = read_model(given)
        assert model.path == first
        assert model.files == tuple(shards)
        assert [(t.name, t.shape, t.type) for t in model.tensors] == [(t.name, t.shape, t.type) for t in whole.tensors]
    parts, one = open_source(model), open_source(whole)
    for tensor in whole.tensors:
        assert parts.raw(tensor.name, 0, tensor.n_rows) == one.raw(tensor.name, 0, tensor.n_rows)


def test_missing_and_swapped_shards(tmp_path: Path) -> None:
    first = split_model(tmp_path)
    shards = sorted(tmp_path.glob("m-*.gguf"))
    second, content = shards[1], shards[1].read_bytes()
    second.unlink()
    with pytest.raises(ModelNotFound) as missing:
        read_model(first)
    assert second.name in sentence(missing)
    second.write_bytes(shards[2].read_bytes())
    with pytest.raises(ValidationFailed) as swapped:
        read_model(first)
    assert second.name in sentence(swapped)
    second.write_bytes(content)
    renamed = first.rename(tmp_path / "renamed.gguf")
    with pytest.raises(ValidationFailed) as misnamed:
        read_model(renamed)
    assert "named" in sentence(misnamed)


def test_a_large_vocabulary_is_read_quickly(tmp_path: Path) -> None:
    words = [f"word{i}" for i in range(150_000)]
    content = small_file(words=array("string", words))
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    times = []
    for _ in range(5):
        started = time.process_time()
        model = read_model(path)
        times.append(time.process_time() - started)
    assert min(times) < 0.1
    assert model.get("words") == words


@pytest.mark.parametrize("kind", models.KINDS)
def test_every_kind_of_test_model_loads_in_llama_cpp(tmp_path: Path, kind: str) -> None:
    """The test models would prove little if llama.cpp refused them."""
    path = models.make_model(tmp_path / "m.gguf", kind, n_layer=2)
    assert models.loads(path), kind
