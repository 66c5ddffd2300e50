"""Which of llama.cpp's pre-tokenizers a tokenizer.json describes: by its own definition, and by llama.cpp's hash.

llama.cpp holds the expressions that cut a text into words in its program and knows them by name. Publishers change
vocabularies more often than expressions, so the definition is the first witness; the hash knows published ones.
"""

from __future__ import annotations

import hashlib
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import BadArgument, QuantdeckError, ValidationFailed
from ..model.wording import shown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

HASHED_TEXT = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n\U0001f680 (normal) \U0001f636\u200d\U0001f32b\ufe0f (multiple"
    " emojis concatenated) \u2705 \U0001f999\U0001f999 3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3"
    " \u1780\u17b6\u1793\u17cb\u178f\u17c2\u1796\u17b7\u179f\u17c1\u179f\u17a2\u17b6\u1785\U0001f601"
    " ?\u6211\u60f3\u5728apple\u5de5\u4f5c1314151\u5929\uff5e ------======= \u043d\u0435\u0449\u043e \u043d\u0430"
    " \u0411\u044a\u043b\u0433\u0430\u0440\u0441\u043a\u0438 ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told"
    " he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL"
)
"""The text that llama.cpp's converter takes the hash over; a fact of its format, to the character."""

NOT_APPLIED = ("NFC", "NFKC", "Precompiled")
"""Normalizers that llama.cpp leaves out and that change little in ordinary text."""


_LONGEST_STEP = 24
"""Letters of one step that are shown: the sentence must fit a notice on a small screen."""


@dataclass(frozen=True)
class Definition:
    """One pre-tokenizer of llama.cpp, as a tokenizer.json describes it. `ignore_merges` None fits either.

    `also` are other names of the same expression.
    """

    name: str
    steps: tuple[str, ...]
    ignore_merges: bool | None = None
    also: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def known() -> tuple[tuple[Definition, ...], Mapping[str, str]]:
    """The definitions, and the names by hash."""
    table = tomllib.loads(files(__package__).joinpath("pre_tokenizers.toml").read_text("utf-8"))
    definitions = tuple(
        Definition(
            row["name"], tuple(map(_canonical, row["steps"])), row.get("ignore_merges"), tuple(row.get("also", ()))
        )
        for row in table["definition"]
    )
    return definitions, MappingProxyType(table["hash"])


def names() -> frozenset[str]:
    """Every name that llama.cpp's converter writes, and so every one that may be asked for."""
    definitions, hashes = known()
    return frozenset(definition.name for definition in definitions) | frozenset(hashes.values())


def recognise(path: Path, tokenizer: Mapping[str, Any], asked: str | None) -> str:
    """The name of the pre-tokenizer of the byte-level BPE in tokenizer.json.

    Args:
        path: the file, for messages and for the hash.
        tokenizer: its content.
        asked: the name that the user knows better, or None.

    Raises:
        BadArgument: the name that was asked for is none of llama.cpp's.
        ValidationFailed: not recognised.
    """
    if asked is not None:
        if asked not in names():
            raise BadArgument(f"llama.cpp has no pre-tokenizer '{shown(asked)}'; it has {', '.join(sorted(names()))}.")
        return asked
    by_hash = known()[1].get(fingerprint(path)) if path.is_file() else None
    steps, normalizer = steps_of(tokenizer.get("pre_tokenizer")), kinds_of(tokenizer.get("normalizer"), "normalizers")
    definition = _defined(steps, normalizer, tokenizer.get("model"))
    if definition is not None:
        # The test text does not tell all expressions apart, so a definition that is known has the last word.
        return by_hash if by_hash in definition.also else definition.name
    if by_hash is not None:
        return by_hash
    name = shown(path.absolute().parent.name)
    if not path.is_file():
        raise ValidationFailed(
            f"{name} has vocab.json and merges.txt, and no tokenizer.json that says how words are cut: make one"
            " with transformers (AutoTokenizer, save_pretrained), or go on with quantdeck quantize and --pre NAME,"
            " llama.cpp's name of it."
        )
    raise ValidationFailed(
        f"The tokenizer in {name} cuts text in a way that is not known ({_described(steps, normalizer)}), and a wrong"
        " one would spoil the model: who knows its name in llama.cpp goes on with quantdeck quantize and --pre NAME."
    )


def _defined(steps: tuple[str, ...], normalizer: tuple[str, ...], model: Any) -> Definition | None:
    """The definition that has these steps."""
    ignores = bool(model.get("ignore_merges")) if isinstance(model, dict) else False
    fitting = (d for d in known()[0] if d.steps == steps and d.ignore_merges in (None, ignores))
    return next(fitting, None) if set(normalizer) <= set(NOT_APPLIED) else None


def fingerprint(path: Path) -> str:
    """llama.cpp's hash of a tokenizer: SHA-256 of its tokens of HASHED_TEXT, special ones in front included."""
    tokens = _with_tokenizers(path, lambda: load(path).encode(HASHED_TEXT).ids)
    return hashlib.sha256(str(list(tokens)).encode()).hexdigest()


def load(path: Path) -> Any:
    """The tokenizer of a tokenizer.json, as the `tokenizers` package reads it; ValidationFailed if it cannot."""
    from tokenizers import Tokenizer

    return _with_tokenizers(path, lambda: Tokenizer.from_file(str(path)))


def _with_tokenizers(path: Path, work: Callable[[], Any]) -> Any:
    """What the `tokenizers` package makes of a file; it raises bare exceptions, and its panics are no `Exception`."""
    try:
        return work()
    except (QuantdeckError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise ValidationFailed(f"{shown(path)} is damaged: {shown(str(error))}.") from error


def steps_of(pre_tokenizer: Any) -> tuple[str, ...]:
    """A definition's steps in the words of pre_tokenizers.toml; a step that has none there becomes `? KIND`."""
    if not isinstance(pre_tokenizer, dict):
        return ()
    if pre_tokenizer.get("type") == "Sequence":
        inner = pre_tokenizer.get("pretokenizers")
        return tuple(step for part in (inner if isinstance(inner, list) else []) for step in steps_of(part))
    return (_canonical(_step(pre_tokenizer)),)


def _step(part: Mapping[str, Any]) -> str:
    kind = part.get("type")
    pattern = part.get("pattern")
    expression = pattern.get("Regex") if isinstance(pattern, dict) else None
    # Matches that stand alone, or are all that is kept of expressions that leave nothing out.
    alone = (part.get("behavior"), bool(part.get("invert"))) in (("Isolated", False), ("Removed", True))
    if kind == "Split" and isinstance(expression, str) and alone:
        return f"split:{expression}"
    if kind == "ByteLevel" and not part.get("add_prefix_space"):
        return "gpt-2 bytes" if part.get("use_regex", True) else "bytes"
    if kind == "Digits":
        return "digits" if part.get("individual_digits") else "numbers"
    if kind == "Punctuation" and part.get("behavior") == "Contiguous":
        return "punctuation"
    return f"? {kind}"


def _canonical(step: str) -> str:
    """Composed characters, and line ends spelled out: files differ in both."""
    return unicodedata.normalize("NFC", step).replace("\r", "\\r").replace("\n", "\\n")


def kinds_of(part: Any, inner: str) -> tuple[str, ...]:
    """The kinds of the steps of a definition, sequences (under the name `inner`) taken apart."""
    if not isinstance(part, dict):
        return ()
    if part.get("type") == "Sequence":
        parts = part.get(inner)
        return tuple(kind for p in (parts if isinstance(parts, list) else []) for kind in kinds_of(p, inner))
    return (str(part.get("type")),)


def _described(steps: Sequence[str], normalizer: Sequence[str]) -> str:
    parts = [step.removeprefix("? ") for step in (*normalizer, *steps)]
    short = (part if len(part) <= _LONGEST_STEP else f"{part[:_LONGEST_STEP]}..." for part in parts[:4])
    return ", then ".join(map(shown, short)) or "it says nothing of it"
