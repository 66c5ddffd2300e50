"""What llama.cpp says of a model: logits, tokens. A program of its own, because native faults end the process.

    python llama_logits.py MODEL INPUT.npz OUTPUT.npz

INPUT holds `ids` (int32) and `text` (bytes); OUTPUT gets `logits` (n, vocab) in float32, computed with a float32 cache
and without flash attention, and `tokens` of the text with special ones in front and none parsed.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np


def ask(model: Path, ids: Any, text: str, scratch: Path) -> dict[str, Any]:
    """Run this program on a model; AssertionError with its log if it fails."""
    given, answer = scratch / "llama_in.npz", scratch / "llama_out.npz"
    np.savez(given, ids=np.asarray(ids, np.int32), text=np.frombuffer(text.encode(), np.uint8))
    command = [sys.executable, __file__, str(model), str(given), str(answer)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env=os.environ | {"GGML_NO_BACKTRACE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(answer) as found:
        return dict(found)


def main(model_path: str, given: str, answer: str) -> None:
    import llama_cpp

    asked = np.load(given)
    ids = asked["ids"]
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(model_path.encode(), llama_cpp.llama_model_default_params())
    if not model:
        sys.exit("the model does not load")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = max(64, len(ids)), 512, 512
    params.n_threads = params.n_threads_batch = 2
    params.type_k = params.type_v = 0  # F32
    params.flash_attn_type = 0
    context = llama_cpp.llama_init_from_model(model, params)
    vocab = llama_cpp.llama_model_get_vocab(model)
    n_vocab = llama_cpp.llama_vocab_n_tokens(vocab)
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    for i, token in enumerate(ids.tolist()):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, 1
    batch.n_tokens = len(ids)
    if llama_cpp.llama_decode(context, batch):
        sys.exit("the model does not run")
    rows = [
        np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, i), (n_vocab,)).copy() for i in range(len(ids))
    ]
    text = asked["text"].tobytes()
    room = (ctypes.c_int32 * (len(text) + 16))()
    count = llama_cpp.llama_tokenize(vocab, text, len(text), room, len(room), True, False)
    np.savez(answer, logits=np.array(rows), tokens=np.array(room[:count], np.int32))


if __name__ == "__main__":
    main(*sys.argv[1:])
