"""Special tokens, whether they are added to texts, and chat templates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..model import Value, array, value
from .folder import optional_json, read_text
from .tokens import Tokens

_KEYS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",  # GGUF's own spelling
    "pad": "padding_token_id",
    "mask": "mask_token_id",
}

_BOS_BY_DEFAULT = ("llama-bpe", "tekken", "falcon3", "pixtral", "midm-2.0", "lfm2", "default")
"""Pre-tokenizers behind which llama.cpp adds BOS unless it is told not to."""


def tokenizer_metadata(
    folder: Path, tokens: Tokens, config: Mapping[str, Any], tokenizer: Mapping[str, Any]
) -> dict[str, Value]:
    """All keys `tokenizer.*` of a vocabulary; ValidationFailed for damaged files.

    `tokenizer` is what `read_tokenizer` found in the folder.
    """
    found = {
        "tokenizer.ggml.model": value("string", tokens.model),
        "tokenizer.ggml.pre": value("string", tokens.pre),
        "tokenizer.ggml.tokens": array("string", tokens.texts),
    }
    if tokens.scores:
        found["tokenizer.ggml.scores"] = array("float32", tokens.scores)
    found["tokenizer.ggml.token_type"] = array("int32", tokens.kinds)
    if tokens.merges:
        found["tokenizer.ggml.merges"] = array("string", tokens.merges)
    settings = optional_json(folder / "tokenizer_config.json")
    ids = special_ids(tokens, config, settings)
    found |= {f"tokenizer.ggml.{_KEYS[kind]}": value("uint32", number) for kind, number in ids.items()}
    for kind, added in adds(tokens, tokenizer, settings, ids).items():
        found[f"tokenizer.ggml.add_{kind}_token"] = value("bool", added)
    prefix = settings.get("add_prefix_space") if tokens.model == "llama" else None
    if tokens.space_prefix is None and isinstance(prefix, bool):
        found = {"tokenizer.ggml.add_space_prefix": value("bool", prefix)} | found
    found |= chat_templates(folder, settings)
    if tokens.space_prefix is not None:
        found["tokenizer.ggml.add_space_prefix"] = value("bool", tokens.space_prefix)
    return found


def special_ids(tokens: Tokens, config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of the special tokens: by their text in tokenizer_config.json, else as config.json gives them."""
    by_text = {text: number for number, text in reversed(tuple(enumerate(tokens.texts)))}
    ids: dict[str, int] = {}
    for kind in _KEYS:
        entry = settings.get(f"{kind}_token")
        text = entry.get("content") if isinstance(entry, dict) else entry
        number = by_text.get(text) if isinstance(text, str) else None
        own = config.get(f"{kind}_token_id")
        own = own[0] if isinstance(own, list) and own else own
        # Configurations that nobody adapted to a small vocabulary name tokens far behind its end.
        if number is None and type(own) is int and 0 <= own < len(tokens.texts):
            number = own
        if number is not None:
            ids[kind] = number
    return ids


def adds(
    tokens: Tokens, tokenizer: Mapping[str, Any], settings: Mapping[str, Any], ids: Mapping[str, int]
) -> dict[str, bool]:
    """Whether BOS and EOS are put around a text, and SEP between two.

    As the post-processor says; where it says nothing, as tokenizer_config.json does.
    """
    first, last, between, seen = _template(tokenizer.get("post_processor"))
    text_of = {kind: tokens.texts[number] for kind, number in ids.items()}
    found: dict[str, bool] = {}
    if seen:
        found = {"bos": False, "eos": False} if "ByteLevel" in seen else {}
        if first is not None:
            found["bos"] = first == text_of.get("bos")
        if last is not None:
            found["eos"] = last == text_of.get("eos")
        if between is not None:
            found["sep"] = last is None and between in (text_of.get("sep"), text_of.get("eos"))
    for kind in ("bos", "eos"):
        given = settings.get(f"add_{kind}_token")
        if kind not in found and isinstance(given, bool):
            found[kind] = given
    if "bos" not in found and (seen or tokens.model == "gpt2") and tokens.pre in _BOS_BY_DEFAULT:
        found["bos"] = False
    return found


def _template(post_processor: Any) -> tuple[str | None, str | None, str | None, list[str]]:
    """The special tokens that a post-processor puts before, behind and between texts, and the kinds of its steps."""
    if not isinstance(post_processor, dict):
        return None, None, None, []
    steps = post_processor.get("processors", [post_processor])
    first = last = between = None
    seen = []
    for step in steps if isinstance(steps, list) else []:
        if not isinstance(step, dict):
            continue
        seen.append(str(step.get("type")))
        single = step.get("single")
        if step.get("type") == "TemplateProcessing" and isinstance(single, list) and len(single) > 1:
            first, last = _special(single[0]), _special(single[-1])
            pair = step.get("pair")
            inner = [_special(part) for part in pair] if isinstance(pair, list) else []
            between = next((text for text in inner[1 if first else 0 : -1 if last else None][1:-1] if text), None)
    return first, last, between, seen


def _special(part: Any) -> str | None:
    inner = part.get("SpecialToken") if isinstance(part, dict) else None
    text = inner.get("id") if isinstance(inner, dict) else None
    return text if isinstance(text, str) else None


def chat_templates(folder: Path, settings: Mapping[str, Any]) -> dict[str, Value]:
    """The chat template, and further ones by name, from wherever this version of transformers keeps them."""
    given = settings.get("chat_template")
    if given is None and (folder / "chat_template.jinja").is_file():
        given = [{"name": "default", "template": read_text(folder / "chat_template.jinja")}]
        more = sorted((folder / "additional_chat_templates").glob("*.jinja"))
        given += [{"name": path.stem, "template": read_text(path)} for path in more]
    elif given is None:
        given = optional_json(folder / "chat_template.json").get("chat_template")
    if isinstance(given, str):
        return {"tokenizer.chat_template": value("string", given)}
    named: dict[str, str] = {}
    for entry in given if isinstance(given, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str):
            named[re.sub(r"[^A-Za-z0-9]", "_", entry["name"])] = entry["template"]
    default = named.pop("default", None)
    found = {f"tokenizer.chat_template.{name}": value("string", text) for name, text in named.items()}
    if named:
        found["tokenizer.chat_templates"] = array("string", list(named))
    if default is not None:
        found["tokenizer.chat_template"] = value("string", default)
    return found
