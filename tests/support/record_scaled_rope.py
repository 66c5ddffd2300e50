"""Record what transformers computes for scaled rotary positions: tests/workbench/data/scaled_rope.npz.

Run with a Python that has torch and transformers: `python tests/support/record_scaled_rope.py`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.checkpoints import build, change_json

ANSWERS = Path(__file__).resolve().parents[1] / "workbench" / "data" / "scaled_rope.npz"
FAMILIES = ("command-r", "falcon", "gemma", "gemma2", "gptneox", "stablelm")
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
KINDS = {"linear": {"rope_type": "linear", "factor": 4.0}, "yarn": _YARN, "louder": _YARN | {"attention_factor": 1.5}}
IDS = (np.arange(64) * 37 + 5) % 400 + 3


def scaled(family: str, kind: str, folder: Path) -> Path:
    """A fixture's checkpoint with its rotary positions scaled."""
    build(family, folder)
    rope = json.loads((folder / "config.json").read_text("utf-8"))["rope_parameters"]
    change_json(folder / "config.json", rope_parameters=rope | KINDS[kind])
    return folder


def main() -> None:
    """Logits at the last of 64 positions, in float32."""
    import torch  # type: ignore[import-not-found, unused-ignore]
    from transformers import AutoModelForCausalLM  # type: ignore[import-not-found, unused-ignore]

    answers = {}
    with tempfile.TemporaryDirectory() as place:
        for family in FAMILIES:
            for kind in KINDS:
                folder = scaled(family, kind, Path(place) / f"{family}-{kind}")
                model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
                with torch.no_grad():
                    logits = model.eval()(torch.tensor(IDS[None])).logits[0, -1]
                answers[f"{family} {kind}"] = logits.float().numpy()
    np.savez_compressed(ANSWERS, **answers)


if __name__ == "__main__":
    main()
