"""The table of types against libggml's own, and what `quantize` and `dequantize` refuse."""

from __future__ import annotations

import numpy as np
import pytest

from quantdeck.kernels import TYPES, KernelError, MissingImatrix, NotFinite, dequantize, quantize
from quantdeck.kernels.registry import codec
from support import ggml, rows


@pytest.mark.parametrize("name", TYPES)
def test_types_are_those_of_ggml(name: str) -> None:
    kind = TYPES[name]
    traits = ggml.library().ggml_get_type_traits(kind.ggml_id).contents
    assert traits.type_name.decode().upper() == name
    assert (traits.blck_size, traits.type_size) == (kind.block_size, kind.block_bytes)
    assert traits.is_quantized == kind.quantized
    assert kind.needs_imatrix == bool(ggml.library().ggml_quantize_requires_imatrix(kind.ggml_id) & 1)


@pytest.mark.parametrize("name", TYPES)
def test_every_type_has_its_arithmetic(name: str) -> None:
    kind = TYPES[name]
    k = 2 * kind.block_size
    x = rows.make("gaussian", 3, k)
    packed = quantize(x, name, rows.imatrix(k))
    assert (packed.shape, packed.dtype) == ((3, kind.row_bytes(k)), np.uint8)
    read = dequantize(packed, name, k)
    assert (read.shape, read.dtype) == ((3, k), np.float32)
    # Even the coarsest type keeps most of the signal.
    assert np.square(read - x).sum() < 0.8 * np.square(x).sum()


def test_bits_per_weight() -> None:
    assert TYPES["Q4_K"].bits_per_weight == 4.5
    assert TYPES["F16"].bits_per_weight == 16


@pytest.mark.parametrize("name", TYPES)
def test_rows_of_no_whole_number_of_blocks(name: str) -> None:
    size = TYPES[name].block_size
    if size == 1:
        return
    with pytest.raises(KernelError, match=f"a row of {size + 1} weights is not a whole number of {name} blocks"):
        quantize(np.zeros((1, size + 1), np.float32), name, np.ones(size + 1, np.float32))
    with pytest.raises(KernelError, match="whole number"):
        dequantize(np.zeros((1, TYPES[name].block_bytes), np.uint8), name, size + 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(bad: float) -> None:
    x, importance = np.zeros((2, 64), np.float32), np.ones(64, np.float32)
    x[1, 3] = bad
    with pytest.raises(NotFinite, match="rows hold NaN or infinity"):
        quantize(x, "Q4_0")
    importance[5] = bad
    with pytest.raises(NotFinite, match="importance matrix holds NaN or infinity"):
        quantize(np.zeros((2, 64), np.float32), "Q4_0", importance)


@pytest.mark.parametrize("name", [name for name in TYPES if TYPES[name].needs_imatrix])
def test_types_that_need_an_imatrix_say_so(name: str) -> None:
    with pytest.raises(MissingImatrix, match=f"{name} cannot be quantized without an importance matrix"):
        quantize(np.zeros((1, 256), np.float32), name)


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((1, 64), np.float64),
        np.zeros(64, np.float32),
        np.zeros((64, 64), np.float32).T[:, :32],
        np.zeros((2, 128), np.float32)[:, ::2],
    ],
    ids=["float64", "one dimension", "Fortran order", "strided"],
)
def test_rows_of_another_form(x: np.ndarray) -> None:
    with pytest.raises(KernelError, match="rows must be float32"):
        quantize(x, "Q4_0")


@pytest.mark.parametrize("importance", [np.ones(32, np.float32), np.ones(64), np.ones((1, 64), np.float32)])
def test_imatrix_of_another_form(importance: np.ndarray) -> None:
    with pytest.raises(KernelError, match="imatrix must be float32"):
        quantize(np.zeros((1, 64), np.float32), "Q4_0", importance)


@pytest.mark.parametrize(
    "packed", [np.zeros((1, 35), np.uint8), np.zeros(36, np.uint8), np.zeros((1, 36), np.int8)], ids=repr
)
def test_packed_of_another_form(packed: np.ndarray) -> None:
    with pytest.raises(KernelError, match=r"packed must be uint8 \(n, 36\)"):
        dequantize(packed, "Q4_0", 64)


def test_unknown_type_names_the_known_ones() -> None:
    with pytest.raises(KernelError, match="Q9_Z is not a tensor type; known: F32, F16"):
        codec("Q9_Z")
