"""Service `load`: weights, context, what the model is, and whether its chat template works. Child process only."""

from __future__ import annotations

import re
import time
from typing import Any

from .binding import lib
from .contract import LoadSettings
from .conversation import TEMPLATE_PATIENCE, Conversation, TemplateFailed
from .engine import ContextOptions, Engine, Refused
from .wire import Reply

_USUAL = 4096
_BUFFER = re.compile(r"^\S+:\s+(.+?)\s+(model|KV|RS|compute|output) buffer size =\s*([\d.]+) MiB", re.MULTILINE)
_KINDS = {"model": "weights", "KV": "kv_cache", "RS": "state", "compute": "compute", "output": "output"}


def load(
    engine: Engine, reply: Reply, path: str, settings: dict[str, Any], with_context: bool = True
) -> dict[str, Any]:
    """Events: `progress` with a fraction. Ends with the fields of `contract.ModelInfo`."""
    if engine.model is not None:
        raise Refused("this process has a model already")
    chosen = LoadSettings(**settings)
    began = time.perf_counter()
    engine.log.kept = []
    last = -1.0

    def progress(fraction: float) -> None:
        nonlocal last
        if fraction - last >= 0.01 or fraction >= 1:
            last = fraction
            reply("progress", fraction=fraction)

    engine.load(path, chosen, progress)
    engine.life.check()
    if with_context:
        n_ctx = chosen.context or min(int(lib.llama_model_n_ctx_train(engine.model)) or _USUAL, _USUAL)
        engine.open(
            ContextOptions(n_ctx=n_ctx, n_batch=max(chosen.batch, 32), n_ubatch=min(max(chosen.batch, 32), 512))
        )
    engine.life.check()
    why_not = _why_no_chat(engine) if with_context else "the model was not loaded for chatting"
    if not why_not:
        engine.conversation = read_conversation(engine, reply)
    log_text = "".join(engine.log.kept or ())
    engine.log.kept = None
    return {
        **_facts(engine, with_context),
        **_chat_facts(engine, why_not),
        **(_log_facts(log_text) if with_context else {"buffers": [], "alarms": []}),
        "load_seconds": time.perf_counter() - began,
    }


def _facts(engine: Engine, with_context: bool) -> dict[str, Any]:
    model = engine.model
    context = engine.n_ctx if with_context else 0
    trained = int(lib.llama_model_n_ctx_train(model))
    notices = []
    if engine.settings.gpu_layers > 0 and not lib.llama_supports_gpu_offload():
        notices.append("This build of llama.cpp has no GPU support: everything runs on the CPU.")
    if trained and context > max(trained, 256):
        notices.append(f"The context of {context} tokens is longer than the {trained} that the model was trained with.")
    return {
        "name": engine.metadata("general.name"),
        "architecture": engine.metadata("general.architecture"),
        "description": engine.description,
        "n_params": int(lib.llama_model_n_params(model)),
        "n_bytes": int(lib.llama_model_size(model)),
        "n_ctx_train": trained,
        "context": context,
        "n_layers": int(lib.llama_model_n_layer(model)),
        "vocabulary_size": engine.n_vocab,
        "threads": engine.threads,
        "prompt_threads": engine.prompt_threads,
        "notices": notices,
    }


def _chat_facts(engine: Engine, why_not: str) -> dict[str, Any]:
    return {
        "can_chat": not why_not,
        "why_not": why_not,
        "has_template": engine.conversation.template is not None,
        "template_notice": engine.conversation.notice,
    }


def _log_facts(log_text: str) -> dict[str, Any]:
    from .troubles import harmless_lines

    buffers = [
        {"kind": _KINDS[kind], "device": device, "n_bytes": round(float(mebibytes) * (1 << 20))}
        for device, kind, mebibytes in _BUFFER.findall(log_text)
    ]
    return {"buffers": buffers, "alarms": [list(pair) for pair in harmless_lines(log_text)]}


def _why_no_chat(engine: Engine) -> str:
    if not engine.has_vocab:
        return "The model has no vocabulary, so there is no text to chat in."
    if engine.is_encoder_decoder:
        return "The model reads with an encoder and writes with a decoder (T5 family), which chatting does not cover."
    if lib.llama_model_is_diffusion(engine.model):
        return "The model writes by diffusion, not word by word, which chatting does not cover."
    if not engine.memory or not lib.llama_model_has_decoder(engine.model):
        return "The model only makes embeddings: it turns text into numbers and writes none."
    return ""


def read_conversation(engine: Engine, reply: Reply) -> Conversation:
    """Compile the template and try it once, so that its faults show before the first message."""
    raw = lib.llama_model_chat_template(engine.model, None)
    if not raw:
        return Conversation(notice="The model brings no chat template; a plain User/Assistant format is used.")
    from .template import ChatTemplate

    reply("patience", seconds=TEMPLATE_PATIENCE, reason="the model's chat template hangs")
    try:
        template = ChatTemplate(raw.decode("utf-8", "replace"), engine.marker(engine.bos), engine.marker(engine.eos))
        template.render([{"role": "user", "content": "Hello"}])
    except TemplateFailed as failure:
        return Conversation(notice=f"The model's own chat template {failure}; a plain User/Assistant format is used.")
    finally:
        reply("patience", seconds=0)
    return Conversation(template)
