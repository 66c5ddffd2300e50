"""Does the tokenizer belong to the model? What their files say of each other, where it leaves no doubt.

A wrong tokenizer of the right size converts, loads and talks nonsense. Published folders are full of small
disagreements (ids left at a class's defaults, a padding token behind the end, another end of text after fine-tuning),
so only contradictions that no working model has are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ValidationFailed
from ..model.wording import shown
from .folder import optional_json, token_number
from .sentencepiece_model import BYTE, NORMAL, UNKNOWN, UNUSED, is_sentencepiece, read_sentencepiece
from .tokens import SPACE, Tokens

_ORDINARY = (NORMAL, BYTE, UNUSED, UNKNOWN)

_LEFT_AT_DEFAULT: Mapping[str, Mapping[str, Sequence[int]]] = {
    "bos": {"": (1, 50256), "falcon": (11,), "gemma": (2,), "gemma2": (2,), "gemma3": (2,), "command-r": (5,)}
    | {"smollm3": (128000,), "stablelm": (0,), "gptneox": (0,)},
    "eos": {"": (2, 50256), "falcon": (11,), "gemma": (1,), "gemma2": (1,), "gemma3": (1,), "command-r": (255001,)}
    | {"smollm3": (128001,), "stablelm": (0,), "phi3": (32000,), "olmo2": (50279,)},
}
"""Ids that transformers writes where nobody set any, by architecture; "" for all. They say nothing."""

FEWEST_SHARED = 0.5
"""Part of the tokens on which two files of one tokenizer agree at least; real ones agree on nearly all."""


def check_belongs(
    folder: Path, architecture: str, config: Mapping[str, Any], tokens: Tokens, tokenizer: Mapping[str, Any]
) -> None:
    """Refuse a tokenizer that was made for another model.

    Args:
        folder: the checkpoint's.
        architecture: llama.cpp's name of it.
        config: the values of its config.json.
        tokens: what its tokenizer was read as.
        tokenizer: what `read_tokenizer` found in the folder.

    Raises:
        ValidationFailed: saying what does not match.
    """
    settings = optional_json(folder / "tokenizer_config.json")
    _same_pieces(folder, tokenizer)
    ids: dict[str, list[int]] = {}
    for number, text in enumerate(tokens.texts):
        ids.setdefault(text, []).append(number)
    _same_added_tokens(folder, settings, ids)
    own = _own_tokens(folder, settings, ids)
    generation = _readable(folder / "generation_config.json")
    for kind, (text, number) in own.items():
        _ids_agree(folder, architecture, kind, _ids(kind, config, generation), text, number, tokens)
    _not_crossed(folder, config, own)


def _same_pieces(folder: Path, tokenizer: Mapping[str, Any]) -> None:
    """tokenizer.json and tokenizer.model side by side hold the same pieces."""
    binary, model = folder / "tokenizer.model", tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict) or not vocabulary or not binary.is_file() or not is_sentencepiece(binary):
        return
    pieces = read_sentencepiece(binary).pieces
    shared = sum(vocabulary.get(piece.text) == number for number, piece in enumerate(pieces))
    if shared < FEWEST_SHARED * len(pieces):
        raise ValidationFailed(
            f"tokenizer.json and tokenizer.model in {shown(folder)} are of two models: they agree on {shared} of"
            f" {len(pieces)} tokens; remove the one that does not belong."
        )


def _same_added_tokens(folder: Path, settings: Mapping[str, Any], ids: Mapping[str, Sequence[int]]) -> None:
    """A special token that both files know has one number."""
    decoder = settings.get("added_tokens_decoder")
    for key, entry in decoder.items() if isinstance(decoder, dict) else ():
        text = entry.get("content") if isinstance(entry, dict) else None
        number = token_number(key)
        if not isinstance(text, str) or not entry.get("special") or number is None:
            continue
        found = ids.get(text) or ids.get(text.replace(SPACE, " "))
        if found and number not in found:
            raise ValidationFailed(
                f"The tokenizer in {shown(folder)} does not belong to the model: tokenizer_config.json gives the token"
                f" {shown(text)} the number {number}, and the vocabulary {found[0]}."
            )


def _own_tokens(
    folder: Path, settings: Mapping[str, Any], ids: Mapping[str, Sequence[int]]
) -> dict[str, tuple[str, int]]:
    """The tokens with which texts begin and end, as tokenizer_config.json says it, with their numbers."""
    others = _listed_elsewhere(folder, settings)
    found = {}
    for kind in ("bos", "eos"):
        entry = settings.get(f"{kind}_token")
        text = entry.get("content") if isinstance(entry, dict) else entry
        if not isinstance(text, str) or not text:
            continue
        if text in ids:
            found[kind] = text, ids[text][0]
        elif text not in others:
            ends = "ends" if kind == "eos" else "begins"
            raise ValidationFailed(
                f"The tokenizer in {shown(folder)} does not belong to the model: its tokenizer_config.json {ends} texts"
                f" with {shown(text)} ({kind}_token), and its vocabulary has no such token."
            )
    return found


def _listed_elsewhere(folder: Path, settings: Mapping[str, Any]) -> set[str]:
    """Tokens that only the files beside the vocabulary list."""
    decoder = settings.get("added_tokens_decoder")
    entries = decoder.values() if isinstance(decoder, dict) else ()
    texts = {entry.get("content") for entry in entries if isinstance(entry, dict)}
    return {text for text in texts if isinstance(text, str)} | set(_readable(folder / "added_tokens.json"))


def _ids(kind: str, *configs: Mapping[str, Any]) -> list[int]:
    """All numbers that the configurations give a kind of token; some give several."""
    given: Iterable[Any] = (config.get(f"{kind}_token_id") for config in configs)
    numbers = (number for entry in given for number in (entry if isinstance(entry, list) else [entry]))
    return list(dict.fromkeys(number for number in numbers if type(number) is int))


def _ids_agree(
    folder: Path, architecture: str, kind: str, given: Sequence[int], text: str, number: int, tokens: Tokens
) -> None:
    """A model does not begin or end texts with an ordinary word while its tokenizer has a token for that.

    Ids that are defaults or lie behind the vocabulary tell nothing.
    """
    defaults = (*_LEFT_AT_DEFAULT[kind][""], *_LEFT_AT_DEFAULT[kind].get(architecture, ()))
    telling = [i for i in given if 0 <= i < len(tokens.texts)]
    if not telling or number in given or any(i in defaults for i in telling):
        return
    if all(tokens.kinds[i] in _ORDINARY for i in telling):
        ends = "ends" if kind == "eos" else "begins"
        raise ValidationFailed(
            f"The tokenizer in {shown(folder)} does not belong to the model: config.json {ends} texts with token"
            f" {telling[0]} ({kind}_token_id), which is {shown(repr(tokens.texts[telling[0]]))} here, and the tokenizer"
            f" with {number}, {shown(text)}."
        )


def _not_crossed(folder: Path, config: Mapping[str, Any], own: Mapping[str, tuple[str, int]]) -> None:
    """The tokens for begin and end are not the other way round."""
    if len(own) < 2 or own["bos"][1] == own["eos"][1]:
        return
    begins, ends = _ids("bos", config), _ids("eos", config)
    if begins == [own["eos"][1]] and ends == [own["bos"][1]]:
        raise ValidationFailed(
            f"The tokenizer in {shown(folder)} does not belong to the model: config.json begins texts with token"
            f" {begins[0]} and ends them with {ends[0]}, and in the tokenizer {shown(own['eos'][0])} is the end and"
            f" {shown(own['bos'][0])} the beginning."
        )


def _readable(path: Path) -> dict[str, Any]:
    """A JSON file that published models carry broken, and nothing depends on."""
    try:
        return optional_json(path)
    except ValidationFailed:
        return {}
