"""tokenizer.json, or what it would hold: older folders have the words and the merges in two files of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import ValidationFailed
from ..model.wording import shown
from .folder import OLD_TOKENIZER, optional_json, read_json, read_text, token_number

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
_GPT2 = {"pre_tokenizer": _BYTES | {"use_regex": True}}
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = {
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": _QWEN2_WORDS}, "behavior": "Isolated", "invert": False},
            _BYTES | {"use_regex": False},
        ],
    },
}
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LISTED = ("additional_special_tokens", "extra_special_tokens")


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """The content of tokenizer.json; without one, that made of vocab.json and merges.txt; empty without them too.

    How words are cut stands in the program then, under the tokenizer's class: known are GPT-2's (for GPT-2 itself;
    others carry that class and cut otherwise) and Qwen's. For any other `pre_tokenizer` is left out.

    Raises:
        ValidationFailed: a file is damaged.
    """
    if (folder / "tokenizer.json").is_file() or (folder / "tokenizer.model").is_file():
        return optional_json(folder / "tokenizer.json")
    if not all((folder / name).is_file() for name in OLD_TOKENIZER):
        return {}
    vocabulary = read_json(folder / "vocab.json")
    settings = optional_json(folder / "special_tokens_map.json") | optional_json(folder / "tokenizer_config.json")
    return {
        "added_tokens": list(_added(folder, vocabulary, settings)),
        "post_processor": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": list(_merges(folder))},
        **_words(folder, str(settings.get("tokenizer_class", ""))),
    }


def _words(folder: Path, kind: str) -> dict[str, Any]:
    if kind.removesuffix("Fast") == "Qwen2Tokenizer":
        return _QWEN2
    is_gpt2 = read_json(folder / "config.json").get("model_type") == "gpt2"
    return _GPT2 if is_gpt2 and kind.removesuffix("Fast") in ("", "GPT2Tokenizer") else {}


def _merges(folder: Path) -> Iterator[str]:
    for number, line in enumerate(read_text(folder / "merges.txt").split("\n")):
        merge = line.rstrip("\r")
        if not merge or (number == 0 and merge.startswith("#version")):
            continue
        if merge.count(" ") != 1:
            raise ValidationFailed(
                f"{shown(folder / 'merges.txt')} is damaged: line {number + 1} is not a pair of tokens."
            )
        yield merge


def _added(folder: Path, vocabulary: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Tokens that were added, or are special without that, by their numbers."""
    added = optional_json(folder / "added_tokens.json")
    special = {_text(settings.get(name)) for name in _NAMED} | {"<|endoftext|>"}
    for name in _LISTED:
        given = settings.get(name)
        special |= {_text(entry) for entry in (given if isinstance(given, list) else [])}
    found = {number: (text, text in special) for text, number in (*vocabulary.items(), *added.items())}
    chosen: dict[Any, tuple[Any, bool]] = {n: found[n] for n in found if found[n][1] or found[n][0] in added}
    decoder = settings.get("added_tokens_decoder")
    for key, entry in decoder.items() if isinstance(decoder, dict) else ():
        given_number = token_number(key)
        if given_number is not None and isinstance(entry, dict):
            chosen[given_number] = (entry.get("content"), bool(entry.get("special")))
    for number, (text, is_special) in sorted(chosen.items(), key=str):
        yield {"id": number, "content": text, "special": is_special}


def _text(entry: Any) -> str | None:
    text = entry.get("content") if isinstance(entry, dict) else entry
    return text if isinstance(text, str) else None
