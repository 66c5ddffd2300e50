"""`llama_model_quantize` of the installed llama-cpp-python, in a child process, as the oracle of recipes and jobs.

quantize(source, output, "Q4_K_M")                    writes a file
planned = plan(source, [Order("Q4_K_M"), ...])        only names and types, without reading a weight
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

# llama-quantize's own table (tools/quantize/quantize.cpp), kept apart from the one that is tested.
FILE_TYPES = {
    "Q1_0": 40, "Q2_0": 41, "Q4_0": 2, "Q4_1": 3, "MXFP4_MOE": 38, "Q5_0": 8, "Q5_1": 9, "IQ2_XXS": 19, "IQ2_XS": 20,
    "IQ2_S": 28, "IQ2_M": 29, "IQ1_S": 24, "IQ1_M": 31, "TQ1_0": 36, "TQ2_0": 37, "Q2_K": 10, "Q2_K_S": 21,
    "IQ3_XXS": 23, "IQ3_S": 26, "IQ3_M": 27, "Q3_K": 12, "IQ3_XS": 22, "Q3_K_S": 11, "Q3_K_M": 12, "Q3_K_L": 13,
    "IQ4_NL": 25, "IQ4_XS": 30, "Q4_K": 15, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K": 17, "Q5_K_S": 16, "Q5_K_M": 17,
    "Q6_K": 18, "Q8_0": 7, "F16": 1, "BF16": 32, "F32": 0, "COPY": 0,
}  # fmt: skip


class QuantizeFailed(Exception):
    """The library refused or died; the message is the end of its log."""


@dataclass(frozen=True)
class Order:
    """One call. `imatrix_names` is for `plan`, which needs no figures; `quantize` takes arrays. Types by name."""

    level: str
    pure: bool = False
    tensor_types: tuple[tuple[str, str], ...] = ()
    output_type: str | None = None
    embedding_type: str | None = None
    leave_output: bool = False
    allow_requantize: bool = False
    imatrix_names: tuple[str, ...] = ()
    overrides: tuple[tuple[str, str | int], ...] = ()


def quantize(
    source: Path,
    output: Path,
    order: Order | str,
    imatrix: Mapping[str, np.ndarray] | None = None,
    threads: int = 1,
) -> None:
    """Write `output`; `imatrix` holds float32 (row length x matrices,) for each tensor. QuantizeFailed if it fails."""
    quantize_all(source, [(output, order)], imatrix, threads)


def quantize_all(
    source: Path,
    outputs: Sequence[tuple[Path, Order | str]],
    imatrix: Mapping[str, np.ndarray] | None = None,
    threads: int = 1,
) -> None:
    """As `quantize`, several orders in one child process."""
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "imatrix.npz"
        if imatrix:
            np.savez(saved, **{name: np.asarray(x, np.float32) for name, x in imatrix.items()})
        calls = [
            _call(source, order, threads) | {"output": str(output), "imatrix": str(saved) if imatrix else None}
            for output, order in outputs
        ]
        for answer in _run(calls):
            if answer["code"] != 0:
                raise QuantizeFailed(answer["log"][-2000:])


def plan(source: Path, orders: Sequence[Order | str]) -> list[list[tuple[str, str]] | None]:
    """For each order the tensors as (name, type) in the output's order; None where the library refuses."""
    calls = [_call(source, order, 1) | {"output": "/dev/null", "dry_run": True} for order in orders]
    return [_planned(answer["log"]) if answer["code"] == 0 else None for answer in _run(calls)]


def needs_imatrix(source: Path, orders: Sequence[Order | str]) -> list[bool]:
    """For each order whether the library says that it cannot be carried out without an importance matrix."""
    calls = [_call(source, order, 1) | {"output": "/dev/null", "dry_run": True} for order in orders]
    return ["will require an imatrix" in answer["log"] for answer in _run(calls)]


_LINE = re.compile(r"^\[ *\d+/ *\d+\] (\S+) +- \[.*?\], type = +(\w+), size = (.*)$", re.MULTILINE)
_BECOMES = re.compile(r"\((\w+)\)$")


def _planned(log: str) -> list[tuple[str, str]]:
    tensors = []
    for name, before, sizes in _LINE.findall(log):
        after = _BECOMES.search(sizes)
        tensors.append((name, (after[1] if after else before).upper()))
    return tensors


def _call(source: Path, order: Order | str, threads: int) -> dict[str, Any]:
    order = Order(order) if isinstance(order, str) else order
    return asdict(order) | {
        "source": str(source),
        "threads": threads,
        "file_type": FILE_TYPES[order.level],
        "tensor_types": [(pattern, _number(name)) for pattern, name in order.tensor_types],
        "output_type": _number(order.output_type),
        "embedding_type": _number(order.embedding_type),
    }


def _number(name: str | None) -> int | None:
    from quantdeck.kernels import TYPES  # here, because the child has no quantdeck on its path

    return None if name is None else TYPES[name].ggml_id


def _run(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    child = subprocess.run(
        [sys.executable, "-I", str(Path(__file__).resolve())],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    answers = [json.loads(line) for line in child.stdout.splitlines()]
    if len(answers) < len(calls):
        died = {"code": child.returncode or -1, "log": child.stderr}
        if len(answers) + 1 < len(calls):
            answers += [died, *_run(calls[len(answers) + 1 :])]
        else:
            answers.append(died)
    return answers


def _serve() -> None:
    """The child: one JSON list of calls on stdin, one JSON line for each on stdout."""
    import ctypes
    import os

    import llama_cpp

    log: list[str] = []

    @llama_cpp.llama_log_callback
    def keep(_level: int, text: bytes, _data: Any) -> None:
        log.append(text.decode("utf-8", "replace"))

    llama_cpp.llama_log_set(keep, ctypes.c_void_p())
    # The library and its asserts may print; only answers go to the real stdout.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for call in json.load(sys.stdin):
        log.clear()
        params, alive = _params(llama_cpp, call)
        code = llama_cpp.llama_model_quantize(call["source"].encode(), call["output"].encode(), ctypes.byref(params))
        del alive
        print(json.dumps({"code": int(code), "log": "".join(log)}), file=answers, flush=True)


def _params(llama_cpp: Any, call: dict[str, Any]) -> tuple[Any, list[Any]]:
    import ctypes

    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = call["threads"]
    params.ftype = call["file_type"]
    params.pure = call["pure"]
    params.only_copy = call["level"] == "COPY"
    params.quantize_output_tensor = not call["leave_output"]
    params.allow_requantize = call["allow_requantize"]
    params.dry_run = call.get("dry_run", False)
    if call["output_type"] is not None:
        params.output_tensor_type = call["output_type"]
    if call["embedding_type"] is not None:
        params.token_embedding_type = call["embedding_type"]
    alive: list[Any] = []
    if call["tensor_types"]:
        kind = llama_cpp.llama_model_tensor_override
        pairs = [kind(pattern.encode(), number) for pattern, number in call["tensor_types"]]
        alive.append((kind * (len(pairs) + 1))(*pairs, kind(None, 43)))
        params.tt_overrides = ctypes.cast(alive[-1], ctypes.POINTER(kind))
    arrays = _imatrix(call)
    if arrays:
        kind = llama_cpp.llama_model_imatrix_data
        floats = ctypes.POINTER(ctypes.c_float)
        entries = [kind(name.encode(), a.ctypes.data_as(floats), a.size) for name, a in arrays.items()]
        alive += [arrays, (kind * (len(entries) + 1))(*entries, kind(None, None, 0))]
        params.imatrix = ctypes.cast(alive[-1], ctypes.POINTER(kind))
    if call["overrides"]:
        kind = llama_cpp.llama_model_kv_override
        items = (kind * (len(call["overrides"]) + 1))()
        for item, (key, entry) in zip(items, call["overrides"], strict=False):
            item.key = key.encode()
            if isinstance(entry, str):
                item.tag, item.value.val_str = 3, entry.encode()
            else:
                item.tag, item.value.val_i64 = 0, entry
        alive.append(items)
        params.kv_overrides = ctypes.cast(items, ctypes.POINTER(kind))
    return params, alive


def _imatrix(call: dict[str, Any]) -> dict[str, np.ndarray]:
    if call.get("imatrix"):
        with np.load(call["imatrix"]) as saved:
            return {name: np.ascontiguousarray(saved[name]) for name in saved.files}
    return {name: np.ones(1, np.float32) for name in call["imatrix_names"]}


if __name__ == "__main__":
    _serve()
