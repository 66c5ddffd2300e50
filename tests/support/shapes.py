"""Models made of metadata and tensor lists alone, with the shapes of well-known releases: no weights, no files."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from quantdeck.kernels import TYPES
from quantdeck.workbench.model import Model, Tensor, Value

_SCALARS = {bool: (7, "<?"), int: (4, "<I"), float: (6, "<f")}


def value(python: Any) -> Value:
    """A metadata value as a GGUF file holds it: uint32, float32, bool, string, or an array of one of these."""
    if isinstance(python, list):
        items = [value(item) for item in python]
        return Value(9, struct.pack("<IQ", items[0].kind, len(items)) + b"".join(item.raw for item in items))
    if isinstance(python, str):
        text = python.encode()
        return Value(8, struct.pack("<Q", len(text)) + text)
    kind, form = (5, "<i") if isinstance(python, int) and python < 0 else _SCALARS[type(python)]
    return Value(kind, struct.pack(form, python))


def make(architecture: str, metadata: dict[str, Any], shapes: dict[str, tuple[int, ...]], dtype: str = "F16") -> Model:
    """A model of `architecture`; keys of `metadata` without a dot prefix of their own belong to the architecture."""
    values = {"general.architecture": architecture, "tokenizer.ggml.model": "no_vocab"}
    values |= {f"{architecture}.{key}": entry for key, entry in metadata.items()}
    tensors = []
    for name, shape in shapes.items():
        kind = "F32" if len(shape) == 1 else dtype
        weights = 1
        for extent in shape:
            weights *= extent
        tensors.append(Tensor(name, shape, kind, TYPES[kind].row_bytes(weights)))
    path = Path(f"/models/{architecture}-{dtype.lower()}.gguf")
    return Model(path, "gguf", architecture, {k: value(v) for k, v in values.items()}, tuple(tensors), (path,))


def transformer(
    layers: int,
    width: int,
    feed_forward: int,
    heads: int,
    kv_heads: int,
    vocabulary: int,
    *,
    architecture: str = "llama",
    head_size: int = 0,
    context: int = 8192,
    tied: bool = False,
    experts: int = 0,
    experts_used: int = 0,
    extra: dict[str, Any] | None = None,
    layer_extra: dict[str, tuple[int, ...]] | None = None,
    dtype: str = "F16",
) -> Model:
    """A decoder of the Llama kind: grouped-query attention, gated feed-forward (or experts), optional tied output."""
    size = head_size or width // heads
    metadata: dict[str, Any] = {
        "context_length": context,
        "embedding_length": width,
        "block_count": layers,
        "feed_forward_length": feed_forward,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": size,
        "vocab_size": vocabulary,
    }
    if head_size:
        metadata |= {"attention.key_length": size, "attention.value_length": size}
    if experts:
        metadata |= {"expert_count": experts, "expert_used_count": experts_used}
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (width, vocabulary), "output_norm.weight": (width,)}
    if not tied:
        shapes["output.weight"] = (width, vocabulary)
    for layer in range(layers):
        block = {
            "attn_norm.weight": (width,),
            "attn_q.weight": (width, size * heads),
            "attn_k.weight": (width, size * kv_heads),
            "attn_v.weight": (width, size * kv_heads),
            "attn_output.weight": (size * heads, width),
            "ffn_norm.weight": (width,),
        }
        if experts:
            block |= {
                "ffn_gate_inp.weight": (width, experts),
                "ffn_gate_exps.weight": (width, feed_forward, experts),
                "ffn_down_exps.weight": (feed_forward, width, experts),
                "ffn_up_exps.weight": (width, feed_forward, experts),
            }
        else:
            block |= {
                "ffn_gate.weight": (width, feed_forward),
                "ffn_down.weight": (feed_forward, width),
                "ffn_up.weight": (width, feed_forward),
            }
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in (block | (layer_extra or {})).items()}
    return make(architecture, metadata | (extra or {}), shapes, dtype)


def llama2_7b() -> Model:
    return transformer(32, 4096, 11008, 32, 32, 32000, context=4096)


def llama2_13b() -> Model:
    return transformer(40, 5120, 13824, 40, 40, 32000, context=4096)


def code_llama_34b() -> Model:
    return transformer(48, 8192, 22016, 64, 8, 32000, context=16384)


def llama2_70b() -> Model:
    return transformer(80, 8192, 28672, 64, 8, 32000, context=4096)


def llama3_8b() -> Model:
    return transformer(32, 4096, 14336, 32, 8, 128256, context=8192)


def llama3_70b() -> Model:
    return transformer(80, 8192, 28672, 64, 8, 128256, context=131072)


def llama3_405b() -> Model:
    return transformer(126, 16384, 53248, 128, 8, 128256, context=131072)


def mixtral_8x7b() -> Model:
    return transformer(32, 4096, 14336, 32, 8, 32000, context=32768, experts=8, experts_used=2)


def qwen25_05b() -> Model:
    bias = {"attn_q.bias": (896,), "attn_k.bias": (128,), "attn_v.bias": (128,)}
    return transformer(24, 896, 4864, 14, 2, 151936, architecture="qwen2", context=32768, tied=True, layer_extra=bias)


def gemma2_9b() -> Model:
    norms = {"post_attention_norm.weight": (3584,), "post_ffw_norm.weight": (3584,)}
    return transformer(
        42,
        3584,
        14336,
        16,
        8,
        256000,
        architecture="gemma2",
        head_size=256,
        tied=True,
        extra={"attention.sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        layer_extra=norms,
    )


def gemma3_4b() -> Model:
    norms = {
        "post_attention_norm.weight": (2560,),
        "post_ffw_norm.weight": (2560,),
        "attn_q_norm.weight": (256,),
        "attn_k_norm.weight": (256,),
    }
    return transformer(
        34,
        2560,
        10240,
        8,
        4,
        262144,
        architecture="gemma3",
        head_size=256,
        context=131072,
        tied=True,
        extra={"attention.sliding_window": 1024},
        layer_extra=norms,
    )
