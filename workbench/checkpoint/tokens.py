"""The list of tokens of a vocabulary, whatever file it comes from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelNotFound, ValidationFailed
from ..model.wording import shown
from .folder import optional_json, token_number
from .pre_tokenizer import kinds_of, recognise
from .sentencepiece_model import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    is_sentencepiece,
    read_sentencepiece,
)

SPACE = "\u2581"
"""How SentencePiece writes a space."""

FEWEST_TOKENS = 0.25
"""Part of a model's embeddings that its tokenizer has at least; real ones have more than nine tenths."""

_ADDED_SCORE, _UNUSED_SCORE = -1000.0, -10000.0
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")

_CHANGING = {"Lowercase", "NFD", "NFKD", "StripAccents", "BertNormalizer"}

# Tokens that publishers forgot to mark as special.
_SPECIAL_TEXTS = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
_SPECIAL_SHAPES = (("<|", "|>"), ("<\uff5c", "\uff5c>"), ("<unused", ">"))


@dataclass(frozen=True)
class Added:
    """A token that was added to a trained vocabulary."""

    id: int
    text: str
    special: bool


@dataclass(frozen=True)
class Tokens:
    """A vocabulary as GGUF holds it.

    `model` is llama.cpp's name of the algorithm (gpt2, llama), `pre` of the pre-tokenizer. `scores` are empty for gpt2,
    `merges` for llama. `size` counts the tokens that the tokenizer has; the lists are filled up to the model's.
    `space_prefix` None stands for llama.cpp's default.
    """

    model: str
    pre: str
    texts: tuple[str, ...]
    kinds: tuple[int, ...]
    scores: tuple[float, ...] = ()
    merges: tuple[str, ...] = ()
    size: int = 0
    space_prefix: bool | None = None


def read_tokens(folder: Path, n_embeddings: int, pre: str | None, tokenizer: Mapping[str, Any]) -> Tokens:
    """The vocabulary of a checkpoint, filled up to `n_embeddings` with tokens that never occur.

    `tokenizer` is what `read_tokenizer` found in the folder.

    Raises:
        ModelNotFound: there is no tokenizer.
        ValidationFailed: it is damaged, has more tokens than the model, or is of a kind that cannot be converted.
        BadArgument: `pre` is no pre-tokenizer of llama.cpp's.
    """
    binary = folder / "tokenizer.model"
    model = _model(folder, tokenizer)
    if tokenizer and model.get("type") == "BPE" and not model.get("byte_fallback"):
        return _byte_level(folder, tokenizer, n_embeddings, pre)
    if binary.is_file() and (not tokenizer or is_sentencepiece(binary)):
        return _from_sentencepiece(folder, tokenizer, n_embeddings)
    if tokenizer and model.get("type") == "BPE":
        return _from_merges(folder, tokenizer, n_embeddings)
    if tokenizer:
        raise ValidationFailed(
            f"{shown(folder / 'tokenizer.json')} holds a tokenizer of the kind {shown(str(model.get('type')))}, and"
            " only BPE can be converted."
        )
    raise ModelNotFound(
        f"{shown(folder)} holds no tokenizer (tokenizer.json, tokenizer.model, or vocab.json with merges.txt); copy the"
        " original's beside the weights."
    )


def added_tokens(folder: Path, tokenizer: Mapping[str, Any]) -> Iterator[Added]:
    """Tokens that tokenizer.json says were added."""
    entries = tokenizer.get("added_tokens", [])
    for entry in entries if isinstance(entries, list) else []:
        try:
            token = Added(entry["id"], entry["content"], bool(entry.get("special")))
        except (TypeError, KeyError, AttributeError):
            raise _damaged(folder) from None
        if type(token.id) is not int or token.id < 0 or not isinstance(token.text, str):
            raise _damaged(folder)
        yield token


def _model(folder: Path, tokenizer: Mapping[str, Any]) -> Mapping[str, Any]:
    model = tokenizer.get("model", {})
    if not isinstance(model, dict):
        raise _damaged(folder)
    # Files of early versions leave the kind out.
    return {"type": "BPE"} | model if "merges" in model else model


def _vocabulary(folder: Path, tokenizer: Mapping[str, Any], n_embeddings: int) -> tuple[list[str | None], list[Added]]:
    """Texts by id (None where there is no token) and the added tokens; refuses what does not fit the model."""
    vocabulary = _model(folder, tokenizer).get("vocab")
    if not isinstance(vocabulary, dict):
        raise _damaged(folder)
    added = list(added_tokens(folder, tokenizer))
    ids = [*vocabulary.values(), *(token.id for token in added)]
    if not ids or not all(type(number) is int and number >= 0 for number in ids):
        raise _damaged(folder)
    check_fits(folder, max(ids) + 1, n_embeddings)
    texts: list[str | None] = [None] * n_embeddings
    for text, number in vocabulary.items():
        texts[number] = text
    for token in added:
        texts[token.id] = token.text
    return texts, added


def check_fits(folder: Path, n_tokens: int, n_embeddings: int) -> None:
    """The tokenizer belongs to the model: no more tokens than embeddings, and not far fewer."""
    if n_tokens > n_embeddings:
        raise ValidationFailed(
            f"The tokenizer in {shown(folder)} does not belong to the model: it has {n_tokens} tokens, and the model"
            f" {n_embeddings}."
        )
    if n_tokens < n_embeddings * FEWEST_TOKENS:
        raise ValidationFailed(
            f"The tokenizer in {shown(folder)} does not belong to the model: it has only {n_tokens} tokens of the"
            f" model's {n_embeddings}."
        )


def _byte_level(folder: Path, tokenizer: Mapping[str, Any], n_embeddings: int, pre: str | None) -> Tokens:
    texts, added = _vocabulary(folder, tokenizer, n_embeddings)
    kinds = [UNUSED if text is None else NORMAL for text in texts]
    for token in added:
        kinds[token.id] = _added_kind(token)
    filled = [_pad(i) if text is None else text for i, text in enumerate(texts)]
    for token in added:
        if kinds[token.id] == USER_DEFINED:
            filled[token.id] = token.text.replace(SPACE, " ")
    return Tokens(
        model="gpt2",
        pre=recognise(folder / "tokenizer.json", tokenizer, pre),
        texts=tuple(filled),
        kinds=tuple(kinds),
        merges=_merges(folder, tokenizer),
        size=sum(text is not None for text in texts),
    )


def _added_kind(token: Added) -> int:
    looks = token.text in _SPECIAL_TEXTS or any(
        token.text.startswith(a) and token.text.endswith(z) for a, z in _SPECIAL_SHAPES
    )
    return CONTROL if token.special or looks else USER_DEFINED


def _merges(folder: Path, tokenizer: Mapping[str, Any]) -> tuple[str, ...]:
    """Merges as `left right`; spaces inside of one, which byte-level text has none of, are written as its byte is."""
    merges = _model(folder, tokenizer).get("merges")
    if not isinstance(merges, list):
        raise _damaged(folder)
    found = []
    for merge in merges:
        if isinstance(merge, str):
            found.append(merge)
        elif isinstance(merge, list) and len(merge) == 2 and all(isinstance(part, str) for part in merge):
            found.append(" ".join(part.replace(" ", "\u0120") for part in merge))
        else:
            raise _damaged(folder)
    return tuple(found)


def _from_sentencepiece(folder: Path, tokenizer: Mapping[str, Any], n_embeddings: int) -> Tokens:
    """The pieces of tokenizer.model, then what was added to them."""
    model = read_sentencepiece(folder / "tokenizer.model")
    check_fits(folder, len(model.pieces), n_embeddings)
    texts = [piece.text for piece in model.pieces]
    kinds = [piece.kind for piece in model.pieces]
    scores = [piece.score for piece in model.pieces]
    missing = n_embeddings - len(texts)
    texts += [_pad(i) for i in range(len(texts), n_embeddings)]
    kinds += [UNUSED] * missing
    scores += [_UNUSED_SCORE] * missing
    size = len(model.pieces)
    for token, certain in _added_to_pieces(folder, tokenizer):
        if token.id >= n_embeddings:
            raise ValidationFailed(
                f"The tokenizer in {shown(folder)} does not belong to the model: its token {shown(token.text)} has the"
                f" number {token.id}, and the model {n_embeddings} tokens."
            )
        if not certain and texts[token.id] == token.text and kinds[token.id] != NORMAL:
            continue
        kind = _added_kind(token)
        size += kinds[token.id] == UNUSED and token.id >= len(model.pieces)
        texts[token.id] = token.text.replace(SPACE, " ") if kind == USER_DEFINED else token.text
        kinds[token.id], scores[token.id] = kind, _ADDED_SCORE
    space = None if model.space_prefix else False
    return Tokens("llama", "default", tuple(texts), tuple(kinds), tuple(scores), (), size, space)


def _added_to_pieces(folder: Path, tokenizer: Mapping[str, Any]) -> Iterator[tuple[Added, bool]]:
    """Added tokens of tokenizer.json, of added_tokens.json and of tokenizer_config.json, which has the last word."""
    for token in added_tokens(folder, tokenizer):
        yield token, False
    for text, number in optional_json(folder / "added_tokens.json").items():
        if type(number) is int and number >= 0:
            yield Added(number, text, False), False
    decoder = optional_json(folder / "tokenizer_config.json").get("added_tokens_decoder", {})
    for key, entry in decoder.items() if isinstance(decoder, dict) else ():
        number = token_number(key)
        if number is not None and isinstance(entry, dict) and isinstance(entry.get("content"), str):
            yield Added(number, entry["content"], bool(entry.get("special"))), True


def _from_merges(folder: Path, tokenizer: Mapping[str, Any], n_embeddings: int) -> Tokens:
    """SentencePiece's BPE as tokenizer.json writes it: a piece's score is the rank of the first merge that makes it.

    SentencePiece merges the pair whose piece has the highest score, tokenizers the one whose merge comes first.
    """
    texts, added = _vocabulary(folder, tokenizer, n_embeddings)
    model = _model(folder, tokenizer)
    if changing := set(kinds_of(tokenizer.get("normalizer"), "normalizers")) & _CHANGING:
        raise ValidationFailed(
            f"{shown(folder / 'tokenizer.json')} changes every text before it cuts it ({min(changing)}), which"
            " llama.cpp cannot do."
        )
    if not any(text and SPACE in text for text in texts):
        raise ValidationFailed(
            f"{shown(folder / 'tokenizer.json')} holds a BPE that is neither byte-level nor SentencePiece's, which"
            " cannot be converted."
        )
    ranks: dict[str, int] = {}
    for merge in _merge_pairs(folder, model):
        ranks.setdefault(merge, len(ranks))
    kinds, scores, filled = [], [], []
    for number, text in enumerate(texts):
        filled.append(_pad(number) if text is None else text)
        kinds.append(UNUSED if text is None else BYTE if _BYTE.fullmatch(text) else NORMAL)
        is_piece = kinds[-1] == NORMAL
        scores.append(
            0.0 if kinds[-1] == BYTE else -float(ranks.get(text or "", len(ranks))) if is_piece else _UNUSED_SCORE
        )
    for token in added:
        kind = _added_kind(token)
        filled[token.id] = token.text.replace(SPACE, " ") if kind == USER_DEFINED else token.text
        kinds[token.id], scores[token.id] = kind, _ADDED_SCORE
    unknown = model.get("unk_token") or "<unk>"
    kinds = [UNKNOWN if text == unknown and kind != UNUSED else kind for text, kind in zip(filled, kinds, strict=True)]
    size = sum(text is not None for text in texts)
    return Tokens("llama", "default", tuple(filled), tuple(kinds), tuple(scores), (), size, _space_prefix(tokenizer))


def _merge_pairs(folder: Path, model: Mapping[str, Any]) -> Iterator[str]:
    """What each merge makes."""
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise _damaged(folder)
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise _damaged(folder)
        yield pair[0] + pair[1]


def _space_prefix(tokenizer: Mapping[str, Any]) -> bool | None:
    """False if a text gets no space in front, None (llama.cpp's default) if it does."""
    steps = [tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer")]
    while steps:
        step = steps.pop()
        if not isinstance(step, dict):
            continue
        for inner in ("normalizers", "pretokenizers"):
            steps += step[inner] if isinstance(step.get(inner), list) else []
        if step.get("type") == "Prepend" or (step.get("type") == "Metaspace" and step.get("prepend_scheme") != "never"):
            return None
    return False


def _pad(number: int) -> str:
    return f"[PAD{number}]"


def _damaged(folder: Path) -> ValidationFailed:
    return ValidationFailed(f"{shown(folder / 'tokenizer.json')} is damaged: it does not hold a vocabulary.")
