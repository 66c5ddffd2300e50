"""Records what llama.cpp's own converter writes for the fixtures: tests/checkpoints/<family>/converter.json.

Run by hand, in the environment of make_checkpoints.py, with llama.cpp's sources unpacked:
    python tests/support/record_converter.py LLAMA_CPP [FAMILY ...]

The converter knows pre-tokenizers by a hash of published vocabularies only, so it is told the name. It reads some
fields that transformers 5 no longer writes: they are put back (`_OLD_FIELDS`), as transformers 4 wrote them.
"""

from __future__ import annotations

import hashlib
import json
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.checkpoints import FIXTURES, build

_OLD_FIELDS: dict[str, dict[str, Any]] = {
    "gptneox": {"rotary_pct": 0.25},
    "gpt2": {"n_ctx": 512},
    "falcon": {"num_kv_heads": 1},
}

PRE = {
    "llama3": "llama-bpe", "smollm3": "llama-bpe", "phi4": "dbrx", "olmo2": "dbrx", "qwen2": "qwen2", "qwen3": "qwen2",
    "qwen3moe": "qwen2", "stablelm": "qwen2", "smollm2": "starcoder", "granite": "starcoder", "starcoder2": "starcoder",
    "command-r": "starcoder", "gptneox": "gpt-2", "gpt2": "gpt-2", "falcon": "falcon", "falcon-grouped": "falcon",
    "deepseek2": "deepseek-llm", "deepseek2-lite": "deepseek-llm",
}  # fmt: skip

_LONG = ("tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type", "tokenizer.ggml.merges")


def record(llama_cpp: Path, family: str) -> None:
    """Convert one fixture and keep names, shapes, types and digests of its tensors, and the metadata."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = build(family, Path(scratch) / family)
        config = json.loads((folder / "config.json").read_text()) | _OLD_FIELDS.get(family, {})
        (folder / "config.json").write_text(json.dumps(config))
        if family == "gemma2":
            shutil.copy(FIXTURES / "gemma" / "tokenizer.model", folder)
        if family == "phi4":
            settings = json.loads((folder / "tokenizer_config.json").read_text())
            (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "GPT2Tokenizer"}))
        output = Path(scratch) / "out.gguf"
        command = [sys.executable, __file__, "--convert", str(llama_cpp), str(folder), str(output), PRE.get(family, "")]
        subprocess.run(command, check=True, capture_output=True)
        found = _read(llama_cpp, output)
    (FIXTURES / family / "converter.json").write_text(json.dumps(found, indent=0, ensure_ascii=False))
    print(family, len(found["tensors"]), "tensors")


def _read(llama_cpp: Path, path: Path) -> dict[str, Any]:
    sys.path.insert(0, str(llama_cpp / "gguf-py"))
    import gguf

    reader = gguf.GGUFReader(path)
    tensors = {
        t.name: [[int(n) for n in t.shape], t.tensor_type.name, hashlib.sha256(t.data.tobytes()).hexdigest()[:16]]
        for t in reader.tensors
    }
    metadata = {}
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.name":
            continue
        content = field.contents()
        text = json.dumps(content, ensure_ascii=False)
        metadata[key] = hashlib.sha256(text.encode()).hexdigest()[:16] if key in _LONG else content
    return {"tensors": tensors, "metadata": metadata}


def convert(llama_cpp: str, folder: str, output: str, pre: str) -> None:
    """Run the converter in this process, told the pre-tokenizer, and with fields of config.json that got lost."""
    sys.path[:0] = [llama_cpp, f"{llama_cpp}/gguf-py"]
    from conversion import base

    load = base.ModelBase.load_hparams

    def with_lost_fields(folder: Path, is_mistral_format: bool) -> dict[str, Any]:
        return json.loads((folder / "config.json").read_text()) | load(folder, is_mistral_format)

    base.ModelBase.load_hparams = staticmethod(with_lost_fields)
    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
    sys.argv = ["convert_hf_to_gguf.py", folder, "--outfile", output, "--outtype", "auto"]
    runpy.run_path(f"{llama_cpp}/convert_hf_to_gguf.py", run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1] == "--convert":
        convert(*sys.argv[2:])
    else:
        for name in sys.argv[2:] or sorted(path.name for path in FIXTURES.iterdir() if path.is_dir()):
            record(Path(sys.argv[1]), name)
