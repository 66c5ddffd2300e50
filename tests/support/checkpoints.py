"""Tiny Hugging Face checkpoints for tests: fixtures whose weights are drawn from a seed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from quantdeck.workbench.model import Model

FIXTURES = Path(__file__).resolve().parents[1] / "checkpoints"

DIFFICULT = (
    "Hello, World!  Don't we'LL I'd   They're 3 33 333 4444 55555 1,234.5678 x=3.14e-10;\n\n\n"
    "\tif (a<=b) {return 'é';}\n"
    "Größe naïve façade Ελληνικά нещо на Български 日本語のテキスト、中文字符。한국어 문장 ไทย เสียง हिन्दी العربية "
    "עברית កាន់តែ 🚀 😶‍🌫️ (🦙🦙) ——======= ''''```` ...!!!??? \u00a0nbsp\u3000wide ﬁ ½ ² ⅷ ١٢٣ Straße İstanbul ǅ "
    "http://a.b/c?d=e&f#g  snake_case camelCase UPPERCASE tail  \n \n  end   "
)
CHAT = [
    {"role": "user", "content": "  What is 2+2? "},
    {"role": "assistant", "content": "It is 4."},
    {"role": "user", "content": "Sure\nabout that?"},
]
TRAINING = [
    "The quick brown fox jumps over the lazy dog, and they're not sure that it won't happen again.",
    "Hello world! Hello there; how are you doing today? I'd say it's fine, we'll see what the others think.",
    "In 1999 there were 365 days, in 2000 there were 366; 3.14159 and 2.71828 are numbers, 10,000 is another.",
    "def function(argument):\n    if argument <= 3:\n        return {'key': [1, 2, 3]}\n    return None\n",
    "Größe und Straße sind deutsche Wörter; façade et naïve sont français; нещо на Български; Ελληνικά.",
    "日本語のテキスト、中文字符。한국어 문장입니다. हिन्दी में लिखा हुआ. العربية و עברית",
    "the then them there these thing think that this with without within other another mother father",
    "    indented text\n\n\nwith   several    spaces\tand tabs\n",
] * 4

_ANSWERS = ("weights.json", "expected.npz", "expected.json", "converter.json")

Weights = dict[str, npt.NDArray[np.float32]]


def draw_weights(shapes: Mapping[str, list[int]], seed: int) -> Weights:
    """float32 values that BF16 holds exactly. Legacy generator: its numbers are the same in every numpy."""
    state = np.random.RandomState(seed)
    weights = {}
    for name in sorted(shapes):
        values = state.standard_normal(shapes[name]) if shapes[name] else state.standard_normal()
        is_norm = "norm" in name or "ln_" in name
        values = 1 + 0.2 * values if is_norm and name.endswith("weight") else values * 0.06
        bits = np.asarray(values, np.float32).view(np.uint32)
        weights[name] = ((bits + np.uint32(0x8000)) & np.uint32(0xFFFF0000)).view(np.float32)
    return weights


def pack(values: npt.NDArray[np.float32], dtype: str) -> bytes:
    """Values as a safetensors file holds them: F32, F16, or BF16 by cutting off."""
    if dtype == "BF16":
        return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return values.astype({"F32": np.float32, "F16": np.float16}[dtype]).tobytes()


def write_safetensors(path: Path, weights: Weights, dtype: str, dtypes: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file; `dtypes` are exceptions by name."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset, parts = 0, []
    for name, values in weights.items():
        kind = (dtypes or {}).get(name, dtype)
        content = pack(values, kind)
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [offset, offset + len(content)]}
        offset += len(content)
        parts.append(content)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def build(family: str, folder: Path, *, dtype: str = "", shards: int = 1, seed: int | None = None) -> Path:
    """A complete checkpoint of a fixture in `folder`; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (FIXTURES / family).iterdir():
        if file.name not in _ANSWERS:
            shutil.copy(file, folder)
    recipe = json.loads((FIXTURES / family / "weights.json").read_text())
    weights = draw_weights(recipe["shapes"], recipe["seed"] if seed is None else seed)
    dtype = dtype or recipe["dtype"]
    if shards == 1:
        write_safetensors(folder / "model.safetensors", weights, dtype)
        return folder
    names = list(weights)
    weight_map = {}
    for number in range(shards):
        file_name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {name: weights[name] for name in names[number::shards]}
        weight_map |= dict.fromkeys(part, file_name)
        write_safetensors(folder / file_name, part, dtype)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def convert(model: Model, path: Path) -> Path:
    """The model's plain conversion as a GGUF file, without a job."""
    from quantdeck.workbench.model import open_source, write_header

    source = open_source(model)
    header = write_header(model.metadata, [(tensor.name, tensor.shape, tensor.type) for tensor in model.tensors])
    with path.open("wb") as file:
        file.write(header.content)
        for tensor, offset in zip(model.tensors, header.offsets, strict=True):
            file.seek(offset)
            file.write(source.raw(tensor.name, 0, tensor.n_rows))
        file.truncate(header.total_size)
    source.close()
    return path


def families() -> list[str]:
    """Names of all fixtures."""
    return sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())


def change_json(path: Path, **changes: object) -> None:
    """Change fields of a JSON file; None takes one away."""
    values = json.loads(path.read_text("utf-8")) if path.exists() else {}
    values = {name: item for name, item in (values | changes).items() if item is not None}
    path.write_text(json.dumps(values, ensure_ascii=False), "utf-8")
