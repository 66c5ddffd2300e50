"""Services `chat`, `complete` and `tokenize`: prompt in, pieces of text out. Child process only."""

from __future__ import annotations

import codecs
import ctypes
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .binding import lib
from .contract import Sampling
from .conversation import PLAIN_STOPS, TEMPLATE_PATIENCE, TemplateFailed, plain_prompt
from .engine import ContextFull, Engine, Refused, Stopped, now
from .wire import Reply

_PENALTY_WINDOW = 64


def chat(
    engine: Engine, reply: Reply, messages: list[dict[str, str]], sampling: dict[str, Any], max_tokens: int
) -> dict[str, Any]:
    """The assistant's next turn. Events: `text`. Ends with the fields of `contract.ChatDone`."""
    prompt, stops, notice = _prompt(engine, reply, messages)
    tokens = _prompt_tokens(engine, prompt)
    return {**_generate(engine, reply, tokens, Sampling(**sampling), max_tokens, stops), "notice": notice}


def complete(
    engine: Engine, reply: Reply, prompt: str, sampling: dict[str, Any], max_tokens: int, parse_special: bool = False
) -> dict[str, Any]:
    """Go on from raw text; events and end as `chat`."""
    tokens = engine.tokenize(prompt, add_special=False, parse_special=parse_special)
    if engine.adds_bos or not tokens:
        tokens = [max(0, engine.bos), *tokens]
    return {**_generate(engine, reply, tokens, Sampling(**sampling), max_tokens, ()), "notice": ""}


def tokenize(engine: Engine, reply: Reply, text: str, add_special: bool, parse_special: bool) -> dict[str, Any]:
    """Token ids of a text."""
    return {"tokens": engine.tokenize(text, add_special, parse_special)}


def _prompt(engine: Engine, reply: Reply, messages: list[dict[str, str]]) -> tuple[str, Sequence[str], str]:
    conversation = engine.conversation
    if conversation.template is None:
        return plain_prompt(messages), PLAIN_STOPS, ""
    reply("patience", seconds=TEMPLATE_PATIENCE, reason="the model's chat template hangs")
    try:
        return conversation.template.render(messages), (), ""
    except TemplateFailed as failure:
        notice = f"The model's own chat template {failure}; a plain User/Assistant format was used for this answer."
        return plain_prompt(messages), PLAIN_STOPS, notice
    finally:
        reply("patience", seconds=0)


def _prompt_tokens(engine: Engine, prompt: str) -> list[int]:
    """A template may write BOS itself; it stands there once in any case."""
    tokens = engine.tokenize(prompt, add_special=False, parse_special=True)
    if (engine.adds_bos or not tokens) and tokens[:1] != [engine.bos]:
        tokens = [max(0, engine.bos), *tokens]
    return tokens


@dataclass
class _Clock:
    """When things happened, in seconds of `now`."""

    began: float
    prompt_done: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0


def _generate(
    engine: Engine, reply: Reply, prompt: list[int], sampling: Sampling, max_tokens: int, stops: Sequence[str]
) -> dict[str, Any]:
    if not engine.memory:
        raise Refused("the model only makes embeddings and writes no text")
    if engine.is_encoder_decoder:
        raise Refused("models of the T5 family can be verified here, but not chatted with")
    clock = _Clock(began=now())
    text = _TextStream(reply, stops)
    reused = generated = 0
    reason = "length"
    try:
        reused = engine.feed(prompt)
        clock.prompt_done = now()
        with _sampler(engine, sampling, prompt) as sampler:
            while True:
                token = _next_token(engine, sampler)
                if engine.ends_answer(token):
                    reason = "stop"
                    break
                generated += 1
                clock.last_token = now()
                clock.first_token = clock.first_token or clock.last_token
                if text.add(engine.piece(token)):
                    reason = "stop"
                    break
                if generated >= max_tokens > 0:
                    break
                engine.append(token)
    except Stopped:
        reason = "cancelled"
    except ContextFull:
        reason = "context full"
    text.finish()
    return {
        "reason": reason,
        "prompt_tokens": len(prompt),
        "generated_tokens": generated,
        "reused_tokens": reused,
    } | _figures(engine, clock, len(prompt) - reused, generated)


def _next_token(engine: Engine, sampler: Any) -> int:
    engine.life.check()
    engine.check_logits()
    return int(lib.llama_sampler_sample(sampler, engine.ctx, -1))


def _figures(engine: Engine, clock: _Clock, n_prompt: int, n_generated: int) -> dict[str, Any]:
    generating = clock.last_token - clock.first_token
    reading = clock.prompt_done - clock.began
    return {
        "seconds_to_first_token": max(0.0, clock.first_token - clock.began),
        "tokens_per_second": (n_generated - 1) / generating if n_generated > 1 and generating > 0 else 0.0,
        "prompt_tokens_per_second": n_prompt / reading if reading > 0 else 0.0,
        "context_used": len(engine.cached),
        "context_size": engine.n_ctx,
    }


@contextmanager
def _sampler(engine: Engine, sampling: Sampling, prompt: Sequence[int]) -> Iterator[Any]:
    """A chain in the usual order: penalty, cuts, temperature, draw."""
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    try:
        for sampler in _links(sampling, engine.n_vocab):
            lib.llama_sampler_chain_add(chain, sampler)
        if sampling.repeat_penalty != 1:
            for token in prompt[-_PENALTY_WINDOW:]:
                lib.llama_sampler_accept(chain, token)
        yield chain
    finally:
        lib.llama_sampler_free(chain)


def _links(sampling: Sampling, n_vocab: int) -> Iterator[Any]:
    if sampling.repeat_penalty != 1:
        yield lib.llama_sampler_init_penalties(n_vocab, _PENALTY_WINDOW, sampling.repeat_penalty, 0.0, 0.0)
    if sampling.temperature <= 0:
        yield lib.llama_sampler_init_greedy()
        return
    if sampling.top_k > 0:
        yield lib.llama_sampler_init_top_k(sampling.top_k)
    if sampling.top_p < 1:
        yield lib.llama_sampler_init_top_p(sampling.top_p, 1)
    if sampling.min_p > 0:
        yield lib.llama_sampler_init_min_p(sampling.min_p, 1)
    yield lib.llama_sampler_init_temp(sampling.temperature)
    seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
    yield lib.llama_sampler_init_dist(ctypes.c_uint32(seed).value)


class _TextStream:
    """Bytes of tokens to pieces of text: whole characters only, and nothing that may become a stop mark."""

    def __init__(self, reply: Reply, stops: Sequence[str]) -> None:
        self._reply = reply
        self._stops = stops
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def add(self, raw: bytes) -> bool:
        """Take a token's bytes; True if a stop mark was found."""
        self._held += self._decoder.decode(raw)
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self._held = self._held[: min(found)]
            return True
        self._send(len(self._held) - self._may_become_stop())
        return False

    def finish(self) -> None:
        """Send what was held back."""
        self._held += self._decoder.decode(b"", final=True)
        self._send(len(self._held))

    def _may_become_stop(self) -> int:
        longest = 0
        for stop in self._stops:
            for n in range(1, len(stop)):
                if self._held.endswith(stop[:n]):
                    longest = max(longest, n)
        return longest

    def _send(self, n: int) -> None:
        if n > 0:
            self._reply("text", text=self._held[:n])
            self._held = self._held[n:]
