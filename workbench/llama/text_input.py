"""A corpus as tokens of a model. Child process only."""

from __future__ import annotations

from pathlib import Path

from ..errors import QuantdeckError
from .binding import lib
from .conversation import TemplateFailed, plain_prompt
from .corpus import Document, read_corpus
from .engine import Engine, Refused
from .serve_load import read_conversation
from .wire import Reply

_LONGEST_MARKERS = 4096


def chunked_tokens(
    engine: Engine, reply: Reply, path: Path, parse_special: bool | None, context: int, chunks: int
) -> tuple[list[int], int, bool]:
    """Tokens of whole chunks of `context`, at most `chunks` (0: all), their number, and whether markers were parsed."""
    tokens, parsed = corpus_tokens(engine, reply, path, parse_special)
    n_chunks = len(tokens) // context
    if n_chunks < 1:
        raise Refused(
            f"the text has {len(tokens)} tokens, fewer than one chunk of {context}; "
            "take more text or a smaller context",
            "argument",
        )
    n_chunks = min(chunks, n_chunks) if chunks > 0 else n_chunks
    return tokens[: n_chunks * context], n_chunks, parsed


def corpus_tokens(engine: Engine, reply: Reply, path: Path, parse_special: bool | None) -> tuple[list[int], bool]:
    """All tokens of a corpus, and whether markers such as <|im_start|> were read as special tokens.

    None decides by the text: it is parsed if it holds a marker of this vocabulary, since markers read letter by letter
    are nothing that the model ever sees. Begins as the vocabulary wants (BOS).
    """
    try:
        documents = read_corpus(path)
    except QuantdeckError as error:
        raise Refused(str(error), "argument") from None
    chats = any(document.messages for document in documents)
    if chats:
        engine.conversation = read_conversation(engine, reply)
    text = "\n".join(_text(engine, document) for document in documents)
    parsed = parse_special if parse_special is not None else chats or _holds_marker(engine, text)
    return engine.tokenize(text, add_special=True, parse_special=parsed), parsed


def _text(engine: Engine, document: Document) -> str:
    if not document.messages:
        return document.text
    template = engine.conversation.template
    if template is None:
        return plain_prompt(document.messages, answer=False)
    try:
        return template.render(document.messages, answer=False)
    except TemplateFailed as failure:
        raise Refused(f"the model's chat template cannot write the conversations of the text: it {failure}") from None


def _holds_marker(engine: Engine, text: str) -> bool:
    controls = (t for t in range(engine.n_vocab) if lib.llama_vocab_is_control(engine.vocab, t))
    markers = {engine.marker(token) for token, _ in zip(controls, range(_LONGEST_MARKERS), strict=False)}
    return any(len(marker) > 2 and marker in text for marker in markers)
