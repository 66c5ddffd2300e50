"""Tokenizers of checkpoints: pre-tokenizers by definition and hash, SentencePiece's file, special tokens, templates."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from quantdeck.workbench.checkpoint import pre_tokenizer, read_checkpoint
from quantdeck.workbench.checkpoint.sentencepiece_model import BYTE, CONTROL, NORMAL, UNKNOWN, read_sentencepiece
from quantdeck.workbench.checkpoint.specials import adds, chat_templates
from quantdeck.workbench.checkpoint.tokenizer_file import read_tokenizer
from quantdeck.workbench.checkpoint.tokens import Tokens, read_tokens
from quantdeck.workbench.errors import ValidationFailed
from support.checkpoints import FIXTURES, build, change_json


def _split(pattern: str, behavior: str = "Isolated", invert: bool = False) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT4 = pre_tokenizer.known()[0][1].steps[0].removeprefix("split:")


@pytest.mark.parametrize(
    ("definition", "steps"),
    [
        (None, ()),
        (BYTES, ("bytes",)),
        (BYTES | {"use_regex": True}, ("gpt-2 bytes",)),
        ({"type": "ByteLevel", "add_prefix_space": False}, ("gpt-2 bytes",)),
        (BYTES | {"add_prefix_space": True}, ("? ByteLevel",)),
        (_split("a|b"), ("split:a|b",)),
        (_split("a|b", "Removed", invert=True), ("split:a|b",)),
        (_split("a|b", "Removed"), ("? Split",)),
        (_split("[\r\n]"), (r"split:[\r\n]",)),
        ({"type": "Digits", "individual_digits": True}, ("digits",)),
        (
            {"type": "Sequence", "pretokenizers": [{"type": "Sequence", "pretokenizers": [BYTES]}, BYTES]},
            ("bytes",) * 2,
        ),
        ({"type": "Sequence", "pretokenizers": None}, ()),
        ({"type": "Metaspace"}, ("? Metaspace",)),
    ],
)
def test_definitions_are_read_step_by_step(definition: Any, steps: tuple[str, ...]):
    assert pre_tokenizer.steps_of(definition) == steps


def _with(folder: Path, **changes: Any) -> dict[str, Any]:
    """The tokenizer.json of a fixture with some parts replaced."""
    path = build("qwen2", folder / "model") / "tokenizer.json"
    change_json(path, **changes)
    tokenizer: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return tokenizer


@pytest.mark.parametrize(("ignore_merges", "name"), [(True, "llama-bpe"), (False, "dbrx")])
def test_one_expression_two_names(ignore_merges: bool, name: str, tmp_path: Path):
    model = json.loads((FIXTURES / "qwen2" / "tokenizer.json").read_text("utf-8"))["model"]
    pre = {"type": "Sequence", "pretokenizers": [_split(GPT4), BYTES]}
    tokenizer = _with(tmp_path, pre_tokenizer=pre, model=model | {"ignore_merges": ignore_merges})
    assert pre_tokenizer.recognise(tmp_path / "model" / "tokenizer.json", tokenizer, None) == name


def test_a_published_vocabulary_is_known_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tokenizer = _with(tmp_path)
    path = tmp_path / "model" / "tokenizer.json"
    definitions, hashes = pre_tokenizer.known()
    own = pre_tokenizer.fingerprint(path)
    assert own not in hashes
    for published, wanted in (("deepseek-r1-qwen", "deepseek-r1-qwen"), ("gpt-2", "qwen2")):
        monkeypatch.setattr(pre_tokenizer, "known", lambda name=published: (definitions, {own: name}))
        # Another name of the same expression is taken; one of another expression is not believed.
        assert pre_tokenizer.recognise(path, tokenizer, None) == wanted
    monkeypatch.setattr(pre_tokenizer, "known", lambda: ((), {own: "mellum"}))
    assert pre_tokenizer.recognise(path, tokenizer, None) == "mellum"


@pytest.mark.parametrize("normalizer", [{"type": "Lowercase"}, {"type": "NFD"}])
def test_text_that_is_changed_first_is_not_recognised(normalizer: dict[str, str], tmp_path: Path):
    tokenizer = _with(tmp_path, normalizer=normalizer)
    with pytest.raises(ValidationFailed, match=f"{normalizer['type']}, then split:"):
        pre_tokenizer.recognise(tmp_path / "model" / "tokenizer.json", tokenizer, None)


def test_all_names_are_llama_cpps(tmp_path: Path):
    assert {"llama-bpe", "qwen2", "gpt-2", "deepseek-v3", "tekken", "command-r"} < pre_tokenizer.names()
    assert len(pre_tokenizer.known()[1]) == 95
    for definition in pre_tokenizer.known()[0]:
        assert definition.steps and all(not step.startswith("?") for step in definition.steps)


def test_sentencepiece_by_its_own_file_or_by_merges(tmp_path: Path):
    """Both files of one tokenizer give tokens, kinds and an order of merges that are the same."""
    folder = build("llama2", tmp_path / "model")
    by_model = read_tokens(folder, 480, None, read_tokenizer(folder))
    (folder / "tokenizer.model").unlink()
    by_merges = read_tokens(folder, 480, None, read_tokenizer(folder))
    assert by_model.model == by_merges.model == "llama"
    assert by_model.size == by_merges.size == 460
    assert by_model.texts == by_merges.texts
    assert by_model.kinds[:3] == (UNKNOWN, CONTROL, CONTROL)
    assert by_model.kinds == by_merges.kinds
    made = [i for i, text in enumerate(by_model.texts) if by_model.kinds[i] == NORMAL and len(text) > 1]
    assert sorted(made, key=lambda i: by_model.scores[i]) == sorted(made, key=lambda i: by_merges.scores[i])
    assert sum(kind == BYTE for kind in by_model.kinds) == 256


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def _message(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _piece(text: str, score: float = 0.0, kind: int = 1) -> bytes:
    body = _message(1, text.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + _varint(kind)
    return _message(1, body)


BPE = _message(2, b"\x18\x02")


def test_sentencepiece_files_are_read(tmp_path: Path):
    path = tmp_path / "tokenizer.model"
    unknown_fields = _varint(9 << 3 | 0) + _varint(5) + _varint(10 << 3 | 1) + b"12345678"
    path.write_bytes(_piece("<unk>", 0, 2) + unknown_fields + _piece("▁a", -1.5) + BPE + _message(3, b"\x18\x00"))
    model = read_sentencepiece(path)
    assert [(p.text, p.score, p.kind) for p in model.pieces] == [("<unk>", 0.0, 2), ("▁a", -1.5, 1)]
    assert not model.space_prefix


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "damaged, or not a SentencePiece"),
        (_piece("a"), "of another kind than BPE"),
        (_piece("a", kind=9) + BPE, "damaged, or not a SentencePiece"),
        (_message(1, _message(1, b"\xff")) + BPE, "damaged, or not a SentencePiece"),
        (_piece("a")[:-3], "damaged, or not a SentencePiece"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "damaged, or not a SentencePiece"),
        (b"\x80" * 20, "damaged, or not a SentencePiece"),
        (b"\x0b", "damaged, or not a SentencePiece"),
        (b"IQ== 0\nIg== 1\n", "damaged, or not a SentencePiece"),
    ],
)
def test_files_that_are_not_sentencepieces(content: bytes, sentence: str, tmp_path: Path):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(ValidationFailed, match=sentence):
        read_sentencepiece(tmp_path / "tokenizer.model")


def test_a_tokenizer_model_of_another_kind_does_not_matter(tmp_path: Path):
    """Llama 3's folders hold tiktoken's file under SentencePiece's name."""
    folder = build("llama3", tmp_path / "model")
    wanted = read_checkpoint(folder)
    (folder / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")
    assert read_checkpoint(folder).metadata == wanted.metadata


def _template(*single: str, pair: tuple[str, ...] = ()) -> dict[str, Any]:
    def parts(names: tuple[str, ...]) -> list[dict[str, Any]]:
        return [{"Sequence": {"id": n}} if n in "AB" else {"SpecialToken": {"id": n}} for n in names]

    return {"type": "TemplateProcessing", "single": parts(single), "pair": parts(pair)}


TOKENS = Tokens("gpt2", "gpt-2", ("<s>", "</s>", "a"), (3, 3, 1))
IDS = {"bos": 0, "eos": 1}


@pytest.mark.parametrize(
    ("processor", "settings", "wanted"),
    [
        (None, {}, {}),
        (None, {"add_bos_token": True, "add_eos_token": False}, {"bos": True, "eos": False}),
        ({"type": "ByteLevel"}, {"add_bos_token": True}, {"bos": False, "eos": False}),
        (_template("<s>", "A"), {}, {"bos": True}),
        (_template("<s>", "A", "</s>"), {}, {"bos": True, "eos": True}),
        (_template("A", "</s>"), {"add_bos_token": False}, {"bos": False, "eos": True}),
        (
            {"type": "Sequence", "processors": [{"type": "ByteLevel"}, _template("<s>", "A")]},
            {},
            {"bos": True, "eos": False},
        ),
        (_template("<s>", "A", pair=("<s>", "A", "<s>", "B")), {}, {"bos": True, "sep": False}),
        (_template("a", "A"), {}, {"bos": False}),
    ],
)
def test_what_is_put_around_a_text(processor: Any, settings: dict[str, Any], wanted: dict[str, bool]):
    assert adds(TOKENS, {"post_processor": processor}, settings, IDS) == wanted


def test_no_bos_is_said_where_llama_cpp_would_add_one():
    llama3 = Tokens("gpt2", "llama-bpe", TOKENS.texts, TOKENS.kinds)
    assert adds(llama3, {"post_processor": None}, {}, IDS) == {"bos": False}


def test_chat_templates_wherever_they_are_kept(tmp_path: Path):
    assert chat_templates(tmp_path, {}) == {}
    (tmp_path / "chat_template.json").write_text('{"chat_template": "from json"}')
    assert _texts(tmp_path, {}) == {"tokenizer.chat_template": "from json"}
    (tmp_path / "chat_template.jinja").write_text("from jinja")
    assert _texts(tmp_path, {}) == {"tokenizer.chat_template": "from jinja"}
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool-use.jinja").write_text("tools")
    several = {
        "tokenizer.chat_template.tool_use": "tools",
        "tokenizer.chat_templates": ["tool_use"],
        "tokenizer.chat_template": "from jinja",
    }
    assert _texts(tmp_path, {}) == several
    assert _texts(tmp_path, {"chat_template": "from settings"}) == {"tokenizer.chat_template": "from settings"}
    listed = [{"name": "default", "template": "a"}, {"name": "x", "template": "b"}, {"name": 5}, "nonsense"]
    assert _texts(tmp_path, {"chat_template": listed})["tokenizer.chat_template.x"] == "b"


def _texts(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    return {key: item.python for key, item in chat_templates(folder, settings).items()}


def _in_two_files(folder: Path, **settings: Any) -> None:
    """Words and merges as older folders have them, added tokens beside them."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(tokenizer["model"]["vocab"]), "utf-8")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"] if not token["special"]}
    (folder / "added_tokens.json").write_text(json.dumps(added), "utf-8")
    special = [token["content"] for token in tokenizer["added_tokens"] if token["special"]]
    change_json(folder / "tokenizer_config.json", additional_special_tokens=special, **settings)


@pytest.mark.parametrize(("family", "kind"), [("gpt2", "GPT2Tokenizer"), ("gpt2", None), ("qwen2", "Qwen2Tokenizer")])
def test_words_and_merges_in_two_files_are_the_same_tokenizer(family: str, kind: str | None, tmp_path: Path):
    folder = build(family, tmp_path / "model")
    wanted = read_checkpoint(folder)
    _in_two_files(folder, tokenizer_class=kind)
    found = read_checkpoint(folder)
    keys = {key for key in wanted.metadata | found.metadata if key.startswith("tokenizer.")}
    assert {key for key in keys if wanted.get(key) != found.get(key)} == set()
    assert {path.name for path in found.files} >= {"vocab.json", "merges.txt"}


def test_two_files_that_do_not_say_how_words_are_cut_need_a_name(tmp_path: Path):
    folder = build("starcoder2", tmp_path / "model")
    _in_two_files(folder, tokenizer_class="GPT2Tokenizer")
    with pytest.raises(ValidationFailed, match=r"and no tokenizer\.json that says how words are cut: .*--pre NAME"):
        read_checkpoint(folder)
    assert read_checkpoint(folder, pre="starcoder").get("tokenizer.ggml.pre") == "starcoder"


def test_damaged_merges_are_refused(tmp_path: Path):
    folder = build("gpt2", tmp_path / "model")
    _in_two_files(folder)
    (folder / "merges.txt").write_text("a b\na b c\n")
    with pytest.raises(ValidationFailed, match=r"merges\.txt is damaged: line 2 is not a pair"):
        read_checkpoint(folder)
