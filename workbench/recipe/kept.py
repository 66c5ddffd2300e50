"""Which tensors are never quantized, and why."""

from __future__ import annotations

from ..model import Tensor

_NORM = "norms are small and sensitive"
_ROUTER = "it chooses the experts"
_SMALL = "it is very small"
_CONVOLUTION = "convolutions are small and sensitive"
_RECURRENT = "recurrent mixing weights are small and sensitive"
_POSITIONS = "positions are looked up, not multiplied"
_MULTIMODAL = "it belongs to the vision or audio part that is kept"

_KEPT_EXACTLY = {"position_embd.weight": _POSITIONS, "token_types.weight": _POSITIONS}

_KEPT_PARTS = (
    ("_norm.weight", _NORM),
    ("ffn_gate_inp.weight", _ROUTER),
    ("ffn_gate_tid2eid.weight", _ROUTER),
    ("altup", _SMALL),
    ("laurel", _SMALL),
    ("per_layer_model_proj", _SMALL),
    ("ssm_conv1d", _CONVOLUTION),
    ("shortconv.conv.weight", _CONVOLUTION),
    ("indexer.k_proj.weight", _SMALL),
    ("indexer.q_proj.weight", _SMALL),
    ("time_mix_first.weight", _RECURRENT),
    ("time_mix_w0.weight", _RECURRENT),
    ("time_mix_w1.weight", _RECURRENT),
    ("time_mix_w2.weight", _RECURRENT),
    ("time_mix_v0.weight", _RECURRENT),
    ("time_mix_v1.weight", _RECURRENT),
    ("time_mix_v2.weight", _RECURRENT),
    ("time_mix_a0.weight", _RECURRENT),
    ("time_mix_a1.weight", _RECURRENT),
    ("time_mix_a2.weight", _RECURRENT),
    ("time_mix_g1.weight", _RECURRENT),
    ("time_mix_g2.weight", _RECURRENT),
    ("time_mix_decay_w1.weight", _RECURRENT),
    ("time_mix_decay_w2.weight", _RECURRENT),
    ("time_mix_lerp_fused.weight", _RECURRENT),
    ("attn_rel_b.weight", _POSITIONS),
    (".position_embd", _POSITIONS),
    ("sam.pos_embd", _MULTIMODAL),
    ("sam.neck.", _MULTIMODAL),
    ("sam.net_", _MULTIMODAL),
    (".rel_pos", _POSITIONS),
    (".patch_embd", _MULTIMODAL),
    (".patch_merger", _MULTIMODAL),
    ("a.rvq.codebook", _MULTIMODAL),
    ("mm.a.code_embd", _MULTIMODAL),
)

_KEPT_PARTS_OF = {
    "glm5-next": (
        "hc_",
        "indexer.attn_q_b",
        "indexer.attn_k",
        "indexer.proj",
        "indexer_compressor_gate",
        "indexer_compressor_ape",
        "ssm_f_a.weight",
        "ssm_f_b.weight",
        "ssm_g_a.weight",
        "ssm_g_b.weight",
        "ssm_beta.weight",
        "attn_kv_a_mqa.weight",
        "attn_k_b.weight",
        "attn_v_b.weight",
    )
}


def why_kept(tensor: Tensor, architecture: str) -> str:
    """Why a tensor keeps its type whatever the level, or "" if it may be quantized."""
    if sum(extent > 1 for extent in tensor.shape[1:]) == 0:
        return "it has one dimension"
    if not tensor.name.endswith("weight"):
        return "it is not a weight of a multiplication"
    if tensor.name in _KEPT_EXACTLY:
        return _KEPT_EXACTLY[tensor.name]
    if any(part in tensor.name for part in _KEPT_PARTS_OF.get(architecture, ())):
        return _SMALL
    return next((why for part, why in _KEPT_PARTS if part in tensor.name), "")
