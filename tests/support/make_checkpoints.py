"""Makes tests/checkpoints/<family>: what transformers says of a tiny checkpoint, so that tests do without it.

Run by hand, in an environment of its own (torch, transformers, tokenizers, sentencepiece, numpy):
    python tests/support/make_checkpoints.py [FAMILY ...]

A fixture holds config.json, the tokenizer, `weights.json` (names, shapes and the seed: the weights themselves are drawn
again by `checkpoints.draw_weights`, in the tests as here) and `expected.npz`/`expected.json`: logits over 64 positions,
tokens of a difficult text, a rendered chat.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tomllib
import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.checkpoints import CHAT, DIFFICULT, FIXTURES, TRAINING, draw_weights, write_safetensors

GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN = GPT4.replace("{1,3}", "")


def definition(name: str) -> list[str]:
    """The steps that our own table gives a pre-tokenizer; held against published vocabularies, see the tests."""
    table = tomllib.loads((FIXTURES.parents[1] / "workbench/checkpoint/pre_tokenizers.toml").read_text("utf-8"))
    return next(row["steps"] for row in table["definition"] if row["name"] == name)


def split(pattern: str) -> Any:
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)


def bytes_only() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def gpt2_bytes() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


PRE_TOKENIZERS: dict[str, Any] = {
    "gpt-2": gpt2_bytes,
    "llama-bpe": lambda: pre_tokenizers.Sequence([split(GPT4), bytes_only()]),
    "qwen2": lambda: pre_tokenizers.Sequence([split(QWEN), bytes_only()]),
    "starcoder": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2_bytes()]),
    "falcon": lambda: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Punctuation(behavior="contiguous"),
            gpt2_bytes(),
            pre_tokenizers.Digits(individual_digits=False),
            split("[0-9][0-9][0-9]"),
        ]
    ),
    "deepseek-llm": lambda: pre_tokenizers.Sequence(
        [
            split(r"[\r\n]"),
            *(split(step.removeprefix("split:")) for step in definition("deepseek-llm")[1:5]),
            pre_tokenizers.Digits(individual_digits=False),
            bytes_only(),
        ]
    ),
}

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TURNS = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\\n' + message['content'] |"
    " trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)


def train_bpe(
    pre: str,
    *,
    specials: tuple[str, ...] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    plain_added: tuple[str, ...] = ("<tool>",),
    nfc: bool = False,
    bos: str | None = None,
    ignore_merges: bool = False,
    size: int = 420,
) -> Tokenizer:
    """A byte-level BPE of the given kind, with tokens that were added, special and not."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.normalizer = normalizers.NFC() if nfc else None
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in plain_added])
    if bos:
        template = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def save_bpe(folder: Path, tokenizer: Tokenizer, *, bos: str | None, eos: str, chat: str | None = CHATML) -> None:
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, bos_token=bos)
    fast.chat_template = chat
    fast.save_pretrained(folder)


def train_spm(folder: Path, *, gemma: bool) -> None:
    """tokenizer.model, with byte fallback, numbers digit by digit and, for Gemma, tokens that are user-defined."""
    import sentencepiece

    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(TRAINING), "utf-8")
    options: dict[str, Any] = {
        "input": str(corpus),
        "model_prefix": str(folder / "tokenizer"),
        "model_type": "bpe",
        "vocab_size": 460,
        "byte_fallback": True,
        "split_digits": True,
        "character_coverage": 0.995,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "add_dummy_prefix": not gemma,
        "minloglevel": 2,
    }
    if gemma:
        options |= {
            "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "pad_piece": "<pad>", "bos_piece": "<bos>",
            "eos_piece": "<eos>", "user_defined_symbols": ["<start_of_turn>", "<end_of_turn>", "<unused0>"],
        }  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(**options)
    corpus.unlink()
    (folder / "tokenizer.vocab").unlink()


def save_spm(folder: Path, *, gemma: bool, keep_model: bool) -> None:
    """As the family's own tokenizer class saves it: tokenizer.json, and tokenizer.model where it is kept."""
    train_spm(folder, gemma=gemma)
    model = (folder / "tokenizer.model").read_bytes()
    kind = transformers.GemmaTokenizer if gemma else transformers.LlamaTokenizer
    tokenizer = kind.from_pretrained(folder, add_bos_token=True)
    bos = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B:1", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = TURNS if gemma else CHATML
    tokenizer.save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    values = json.loads(config.read_text())
    values.pop("vocab_file", None)  # a path of the machine where this ran
    config.write_text(json.dumps(values, indent=2, ensure_ascii=False))
    (folder / "tokenizer.model").unlink(missing_ok=True)
    if keep_model:
        (folder / "tokenizer.model").write_bytes(model)


COMMON = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}

LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


DEEPSEEK = COMMON | {
    "num_key_value_heads": 4, "kv_lora_rank": 256, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 64,
    "n_routed_experts": 4, "n_shared_experts": 2, "moe_intermediate_size": 256, "num_experts_per_tok": 2,
    "first_k_dense_replace": 1, "head_dim": 32, "norm_topk_prob": False, "routed_scaling_factor": 1.0,
    "topk_method": "greedy",
}  # fmt: skip


def bpe(pre: str, **options: Any) -> Any:
    """A recipe for a tokenizer: called with the folder."""
    bos = options.get("bos")

    def make(folder: Path) -> None:
        tokenizer = train_bpe(pre, **options)
        save_bpe(folder, tokenizer, bos=bos or "<|endoftext|>", eos="<|im_end|>")

    return make


def spm(*, gemma: bool = False, keep_model: bool = True) -> Any:
    return lambda folder: save_spm(folder, gemma=gemma, keep_model=keep_model)


LLAMA3_SPECIALS = ("<|begin_of_text|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")

FAMILIES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "llama2": ("Llama", COMMON | {"num_key_value_heads": 4}, spm()),
    "llama3": (
        "Llama",
        COMMON | {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True},
        bpe("llama-bpe", bos="<|begin_of_text|>", specials=LLAMA3_SPECIALS, ignore_merges=True),
    ),
    "mistral": ("Mistral", COMMON | {"head_dim": 32, "sliding_window": None}, spm(keep_model=False)),
    "mixtral": ("Mixtral", COMMON | {"num_local_experts": 4, "num_experts_per_tok": 2}, spm()),
    "qwen2": ("Qwen2", COMMON, bpe("qwen2", nfc=True)),
    "qwen3": ("Qwen3", COMMON | {"head_dim": 32, "tie_word_embeddings": True}, bpe("qwen2", nfc=True)),
    "qwen3moe": (
        "Qwen3Moe",
        COMMON
        | {"head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256}
        | {"norm_topk_prob": True, "decoder_sparse_step": 1},
        bpe("qwen2", nfc=True),
    ),
    "gemma": ("Gemma", COMMON | {"head_dim": 64}, spm(gemma=True)),
    "gemma2": (
        "Gemma2",
        COMMON | {"head_dim": 64, "sliding_window": 32, "query_pre_attn_scalar": 64},
        spm(gemma=True, keep_model=False),
    ),
    "gemma3": (
        "Gemma3Text",
        COMMON | {"head_dim": 64, "sliding_window": 32, "query_pre_attn_scalar": 64, "num_hidden_layers": 6},
        spm(gemma=True),
    ),
    "phi3": ("Phi3", COMMON | {"original_max_position_embeddings": 512, "pad_token_id": 0}, spm()),
    "phi4": (
        "Phi3",
        COMMON | {"original_max_position_embeddings": 512, "pad_token_id": 0, "sliding_window": None},
        bpe("llama-bpe"),
    ),
    "smollm2": ("Llama", COMMON | {"tie_word_embeddings": True}, bpe("starcoder")),
    "smollm3": (
        "SmolLM3",
        COMMON
        | {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0], "tie_word_embeddings": True, "pad_token_id": 0},
        bpe("llama-bpe", ignore_merges=True),
    ),
    "olmo2": ("Olmo2", COMMON | {"num_key_value_heads": 4, "pad_token_id": 0}, bpe("llama-bpe")),
    "stablelm": ("StableLm", COMMON | {"use_qkv_bias": True, "num_key_value_heads": 4}, bpe("qwen2", nfc=True)),
    "granite": (
        "Granite",
        COMMON
        | {"embedding_multiplier": 12.0, "logits_scaling": 8.0, "residual_multiplier": 0.22}
        | {"attention_multiplier": 0.015625, "tie_word_embeddings": True},
        bpe("starcoder"),
    ),
    "command-r": ("Cohere", COMMON | {"logit_scale": 0.25}, bpe("starcoder", nfc=True, bos="<|endoftext|>")),
    "gptneox": (
        "GPTNeoX",
        {k: v for k, v in COMMON.items() if k != "num_key_value_heads"}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}},
        bpe("gpt-2", nfc=True, plain_added=("<tool>", "  ", "    ")),
    ),
    "gpt2": ("GPT2", {"n_embd": 256, "n_layer": 2, "n_head": 4, "n_positions": 512}, bpe("gpt-2")),
    "falcon": (
        "Falcon",
        {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "multi_query": True, "alibi": False}
        | {"parallel_attn": True, "bias": False, "new_decoder_architecture": False},
        bpe("falcon"),
    ),
    "falcon-grouped": (
        "Falcon",
        {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_kv_heads": 2}
        | {"new_decoder_architecture": True, "bias": False, "alibi": False, "parallel_attn": True},
        bpe("falcon"),
    ),
    "starcoder2": ("Starcoder2", COMMON | {"sliding_window": None}, bpe("starcoder")),
    "deepseek2": ("DeepseekV2", DEEPSEEK | {"q_lora_rank": 128}, bpe("deepseek-llm")),
    # llama.cpp takes 27 layers for the sign of V2-Lite, whose queries are not narrowed.
    "deepseek2-lite": (
        "DeepseekV2",
        DEEPSEEK
        | {"num_hidden_layers": 27, "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32}
        | {"kv_lora_rank": 32, "q_lora_rank": None},
        bpe("deepseek-llm"),
    ),
}


def make(family: str, target: Path) -> None:
    """Write the fixture of one family."""
    kind, values, save_tokenizer = FAMILIES[family]
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    save_tokenizer(target)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(target / "tokenizer.json"))
    special = json.loads((target / "tokenizer_config.json").read_text())
    # Rows for tokens that the tokenizer does not have, as most checkpoints carry them.
    vocab = -(-len(tokenizer) // 32) * 32
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(special[f"{name}_token"]) for name in ("bos", "eos")}
    config = getattr(transformers, f"{kind}Config")(vocab_size=vocab, **ids, **values)
    config._attn_implementation = "eager"
    name = kind.removesuffix("Text") + "ForCausalLM" if kind not in ("GPT2",) else "GPT2LMHeadModel"
    model = getattr(transformers, name)(config).float().eval()
    with tempfile.TemporaryDirectory() as scratch:
        # Saved once, so that the names are those that a checkpoint on disk has.
        model.to(torch.bfloat16).save_pretrained(scratch)
        from safetensors import safe_open

        with safe_open(str(Path(scratch) / "model.safetensors"), "pt") as file:
            shapes = {key: list(file.get_slice(key).get_shape()) for key in sorted(file.keys())}
        for file_name in ("config.json", "generation_config.json"):
            if (Path(scratch) / file_name).exists():
                shutil.copy(Path(scratch) / file_name, target)
        (target / "weights.json").write_text(json.dumps({"seed": 7, "dtype": "BF16", "shapes": shapes}, indent=0))
        drawn = draw_weights(shapes, 7)
        write_safetensors(Path(scratch) / "model.safetensors", drawn, "BF16")
        loaded = getattr(transformers, name).from_pretrained(scratch, dtype=torch.float32, attn_implementation="eager")
    record(target, loaded.eval(), tokenizer, vocab)


def record(target: Path, model: Any, tokenizer: Any, vocab: int) -> None:
    """What transformers says: logits (64, vocab), tokens of the difficult text, a rendered chat."""
    ids = np.random.RandomState(11).randint(4, len(tokenizer) - 1, 64)
    with torch.no_grad():
        logits = model(torch.tensor(ids[None])).logits[0].double().numpy()
    scale = float(np.abs(logits).max()) / 32767
    saved = transformers.AutoTokenizer.from_pretrained(target)
    tokens = saved.encode(DIFFICULT, add_special_tokens=True)
    if (target / "tokenizer.model").exists():
        # What the original of the tokenizer says; sentencepiece itself adds no BOS and parses no special tokens.
        import sentencepiece

        pieces = sentencepiece.SentencePieceProcessor(model_file=str(target / "tokenizer.model")).encode(DIFFICULT)
        assert pieces == tokens[1:], (pieces, tokens)
    chat = saved.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    np.savez_compressed(
        target / "expected.npz",
        ids=ids.astype(np.int32),
        logits=np.round(logits / scale).astype(np.int16),
        scale=np.float64(scale),
        tokens=np.array(tokens, np.int32),
    )
    (target / "expected.json").write_text(json.dumps({"chat": chat}, ensure_ascii=False, indent=1))
    print(
        target.name,
        vocab,
        len(tokenizer),
        "spread of logits",
        logits.std(),
        sum(f.stat().st_size for f in target.iterdir()),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", default=sorted(FAMILIES))
    for wanted in parser.parse_args().families:
        make(wanted, FIXTURES / wanted)
