"""Service `verify`: compute with a model of any kind, and see that the results are numbers. Child process only."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from .binding import lib, libggml
from .engine import ContextOptions, Engine, Refused
from .wire import Reply

_TEXT = "The quick brown fox jumps over the lazy dog."
_CONTEXT = 256
_PROMPT = 8
_GENERATED = 4
"""Enough for both ways of multiplying, by a matrix and by a vector; a large model needs seconds for each token."""


def verify(engine: Engine, reply: Reply, path: str, expected: list[list[str]] | None = None) -> dict[str, Any]:
    """Compare the header with `expected` (name, type) pairs, then compute. Ends with `tokens` and `text`."""
    if expected is not None:
        _compare(_tensors(path), {pair[0]: pair[1] for pair in expected})
    prompt = _some_tokens(engine)
    if lib.llama_model_has_encoder(engine.model) or not _has_memory(engine):
        checked = _embed(engine, prompt)
        if not engine.is_encoder_decoder:
            return {"tokens": checked, "text": ""}
        prompt = [max(0, int(lib.llama_model_decoder_start_token(engine.model)))]
    return _generate(engine, prompt)


def _some_tokens(engine: Engine) -> list[int]:
    n_vocab = engine.n_vocab
    if n_vocab <= 0:
        raise Refused("the model has no tokens to compute with")
    tokens: list[int] = []
    if engine.has_vocab:
        tokens = engine.tokenize(_TEXT, add_special=True, parse_special=False)[:_PROMPT]
    # Spread over the vocabulary, so that its rows are read where there is no text to choose them.
    return tokens if len(tokens) > 1 else [i * 7919 % n_vocab for i in range(_PROMPT)]


def _has_memory(engine: Engine) -> bool:
    engine.open(ContextOptions(n_ctx=_CONTEXT, n_batch=64, n_ubatch=64))
    return bool(engine.memory)


def _embed(engine: Engine, tokens: list[int]) -> int:
    """Encode and check the embeddings; returns the number of positions."""
    encoder_decoder = engine.is_encoder_decoder
    engine.open(ContextOptions(n_ctx=_CONTEXT, n_batch=64, n_ubatch=64, embeddings=not encoder_decoder))
    ids = (lib.llama_token * len(tokens))(*tokens)
    code = lib.llama_encode(engine.ctx, lib.llama_batch_get_one(ids, len(tokens)))
    if code != 0:
        raise Refused(engine.log.reason(f"llama_encode failed with code {code}"), "engine")
    if encoder_decoder:
        return 0
    pooled = lib.llama_pooling_type(engine.ctx) != lib.LLAMA_POOLING_TYPE_NONE
    pointer = lib.llama_get_embeddings_seq(engine.ctx, 0) if pooled else lib.llama_get_embeddings(engine.ctx)
    if not pointer:
        raise Refused("it computed no embeddings", "engine")
    width = 1
    if lib.llama_pooling_type(engine.ctx) != lib.LLAMA_POOLING_TYPE_RANK:
        width = int(lib.llama_model_n_embd_out(engine.model))
    if not np.isfinite(np.ctypeslib.as_array(pointer, (width,))).all():
        raise Refused("it computes embeddings that are not numbers (NaN)")
    return len(tokens)


def _generate(engine: Engine, prompt: list[int]) -> dict[str, Any]:
    """Greedy tokens from the prompt on, end tokens included: a random model may well say one first."""
    engine.feed(prompt)
    pieces = b""
    for _ in range(_GENERATED):
        engine.check_logits()
        token = int(np.argmax(engine.logits()))
        pieces += engine.piece(token) if engine.has_vocab else b""
        engine.append(token)
    engine.check_logits()
    return {"tokens": len(prompt) + _GENERATED, "text": pieces.decode("utf-8", "replace")}


class _GgufParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def _tensors(path: str) -> dict[str, str]:
    """Names and types of a file's tensors (all shards) as libggml's own reader sees them."""
    found: dict[str, str] = {}
    for shard in _shards(path):
        found |= _tensors_of_file(shard)
    return found


def _shards(path: str) -> list[str]:
    name = Path(path).name
    head, mark, count = name.rpartition("-00001-of-")
    if not mark:
        return [path]
    total = int(count.removesuffix(".gguf"))
    return [str(Path(path).with_name(f"{head}-{i:05d}-of-{count}")) for i in range(1, total + 1)]


def _tensors_of_file(path: str) -> dict[str, str]:
    libggml.gguf_init_from_file.restype = ctypes.c_void_p
    libggml.gguf_init_from_file.argtypes = [ctypes.c_char_p, _GgufParams]
    libggml.gguf_get_n_tensors.restype = ctypes.c_int64
    libggml.gguf_get_n_tensors.argtypes = [ctypes.c_void_p]
    for name in ("gguf_get_tensor_name", "ggml_type_name"):
        getattr(libggml, name).restype = ctypes.c_char_p
    libggml.gguf_get_tensor_name.argtypes = libggml.gguf_get_tensor_type.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    libggml.ggml_type_name.argtypes = [ctypes.c_int]
    libggml.gguf_free.argtypes = [ctypes.c_void_p]
    header = libggml.gguf_init_from_file(path.encode("utf-8", "surrogateescape"), _GgufParams(True, None))
    if not header:
        raise Refused(f"the header of {Path(path).name} cannot be read", "engine")
    try:
        return {
            libggml.gguf_get_tensor_name(header, i).decode("utf-8", "replace"): libggml.ggml_type_name(
                libggml.gguf_get_tensor_type(header, i)
            ).decode()
            for i in range(libggml.gguf_get_n_tensors(header))
        }
    finally:
        libggml.gguf_free(header)


def _compare(found: dict[str, str], expected: dict[str, str]) -> None:
    if missing := expected.keys() - found.keys():
        raise Refused(f"{len(missing)} planned tensors are missing from the file, {min(missing)} among them")
    if extra := found.keys() - expected.keys():
        raise Refused(f"the file holds {len(extra)} tensors that were not planned, {min(extra)} among them")
    wrong = [name for name, kind in expected.items() if found[name].lower() != kind.lower()]
    if wrong:
        name = wrong[0]
        raise Refused(
            f"{len(wrong)} tensors have another type than planned: {name} is {found[name]}, not {expected[name]}"
        )
