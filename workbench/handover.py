"""What follows when a file is finished: command lines that run it elsewhere, and a model card."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .advice import Estimator, Placement, Setup
from .advice.candidates import level_of
from .advice.machine import Machine
from .errors import BadArgument
from .library import Entry
from .model import Model
from .text import count, printable, size

SHORTEST_CONTEXT = 512
_LONGEST_TEXT = 300
_REPOSITORY_URL = re.compile(r"https?://(?:www\.)?huggingface\.co/([\w.-]+/[\w.-]+?)/?")
# A mark in the chat template, the family that uses it, and the word at which an answer ends.
_TEMPLATES = (
    ("<|im_start|>", "ChatML", "<|im_end|>"),
    ("<|start_header_id|>", "Llama 3", "<|eot_id|>"),
    ("<start_of_turn>", "Gemma", "<end_of_turn>"),
    ("<|start_of_role|>", "Granite", "<|end_of_text|>"),
    ("[INST]", "Mistral", "</s>"),
    ("<|end|>", "Phi", "<|end|>"),
)
_HIDDEN_IN_CARDS = ("imatrix", "source", "output", "path")


@dataclass(frozen=True)
class RunSetting:
    """How a file is run on a machine: context in tokens, layers on the card as llama.cpp counts them.

    `note` says where the wanted context was shortened to fit, or that nothing fits; "" if all is well.
    """

    context: int
    placement: Placement
    note: str = ""

    @property
    def gpu_layers(self) -> int:
        """What `-ngl` gets; 0 is the processor alone."""
        return self.placement.gpu_layers


@dataclass(frozen=True)
class Command:
    """How one program runs the file: lines to paste, and what to know about it."""

    program: str
    lines: str
    note: str = ""


def run_setting(model: Model, machine: Machine, wanted: int) -> RunSetting:
    """The longest context up to `wanted` (and to what the model was trained with) that fits on `machine`.

    ValidationFailed if the model's metadata make no sense.
    """
    trained = model.get("{arch}.context_length")
    limit = min(wanted, trained) if isinstance(trained, int) and trained > 0 else wanted
    estimator, context = Estimator(model), limit
    while True:
        placement = estimator.as_it_is(machine, Setup(context)).placement
        if placement.fits != "no" or context // 2 < SHORTEST_CONTEXT:
            break
        context //= 2
    if placement.fits == "no":
        note = f"It does not fit here: {size(-placement.spare)} of memory are missing."
    else:
        note = f"{limit:,} tokens of context do not fit here; {context:,} do." if context < limit else ""
    return RunSetting(context, placement, note)


def commands(model: Model, setting: RunSetting) -> tuple[Command, ...]:
    """Lines for llama-server, llama-cli, Ollama, LM Studio and llama-cpp-python.

    BadArgument for a path that cannot stand in a line.
    """
    path = str(model.path)
    if not path.isprintable():
        raise BadArgument(f"The name {printable(path)!r} holds control characters; rename the file first.")
    file, context, layers = shlex.quote(path), setting.context, setting.gpu_layers
    offload = f" -ngl {layers}"
    return (
        Command(
            "llama-server",
            f"llama-server -m {file} -c {context}{offload} --host 127.0.0.1 --port 8080",
            "An OpenAI-compatible server and a page at http://127.0.0.1:8080.",
        ),
        Command("llama-cli", f"llama-cli -m {file} -c {context}{offload}", "A conversation in the terminal."),
        _ollama(model, setting),
        _lm_studio(model, setting),
        Command("llama-cpp-python", _python(path, context, layers), "pip install llama-cpp-python"),
    )


def _ollama(model: Model, setting: RunSetting) -> Command:
    name = model_name(model)
    family, stop = template_family(model)
    lines = [f"FROM {model.path}", f"PARAMETER num_ctx {setting.context}"]
    if setting.gpu_layers:
        lines.append(f"PARAMETER num_gpu {setting.gpu_layers}")
    if stop:
        lines.append(f'PARAMETER stop "{stop}"')
    modelfile = "\n".join(lines)
    made = f"cat > Modelfile <<'END'\n{modelfile}\nEND\nollama create {shlex.quote(name)} -f Modelfile"
    if family:
        note = f"The chat template is {family}'s, which Ollama recognises; ollama show --template {name} shows it."
    elif "tokenizer.chat_template" in model.metadata:
        note = "The chat template is of its own kind: if answers look wrong, add a TEMPLATE to the Modelfile."
    else:
        note = "The file has no chat template: Ollama continues texts; add a TEMPLATE to the Modelfile to chat."
    if len(model.files) > 1:
        note += " Ollama takes one file: merge the shards first (llama-gguf-split --merge)."
    return Command("Ollama", f"{made}\nollama run {shlex.quote(name)}", note)


def _lm_studio(model: Model, setting: RunSetting) -> Command:
    where = setting.placement
    share = (
        "off"
        if where.where == "cpu"
        else "max"
        if where.where == "gpu"
        else f"{where.gpu_layers / where.all_layers:.2f}"
    )
    name = model_name(model)
    lines = (
        f"lms import --symbolic-link --user-repo quantdeck/{name} {shlex.quote(str(model.path))}\n"
        f"lms load quantdeck/{name} --context-length {setting.context} --gpu {share}"
    )
    return Command("LM Studio", lines, "Or put the file into ~/.lmstudio/models/quantdeck/ and load it in the window.")


def _python(path: str, context: int, layers: int) -> str:
    return (
        "from llama_cpp import Llama\n\n"
        f"llm = Llama(model_path={path!r}, n_ctx={context}, n_gpu_layers={layers})\n"
        'answer = llm.create_chat_completion(messages=[{"role": "user", "content": "Hello"}])\n'
        'print(answer["choices"][0]["message"]["content"])'
    )


def model_name(model: Model) -> str:
    """A short name for other programs: of the file, in letters, digits, dots and dashes."""
    stem = re.sub(r"-00001-of-\d{5}$", "", model.path.stem)
    name = re.sub(r"[^a-z0-9.]+", "-", stem.lower()).strip("-.")
    return name[:80] or "model"


def template_family(model: Model) -> tuple[str, str]:
    """Whose chat template a model has, and the word that ends an answer; ("", "") for none or an unknown one."""
    template = model.get("tokenizer.chat_template")
    if not isinstance(template, str):
        return "", ""
    return next(((family, stop) for mark, family, stop in _TEMPLATES if mark in template), ("", ""))


def model_card(model: Model, setting: RunSetting, entry: Entry | None = None) -> str:
    """A model card in Markdown with its header for the Hub. No path of this machine stands in it.

    What the register knows (`entry`) goes in: recipe, importance matrix, measured figures, hash.
    """
    name = _plain(model.get("general.name")) or model.path.stem
    level = entry.level if entry else level_of(model)
    parts = [_front_matter(model), f"# {_escaped(f'{name} {level}')}"]
    parts.append(_origin(model, level))
    parts.append("## The file\n\n" + _table(_facts(model, entry, level), ("", "")))
    parts.append("## Tensors\n\n" + _table(_types(model), ("type", "tensors", "weights", "bytes")))
    if entry:
        parts.append("## How it was made\n\n" + _recipe(entry))
        if entry.notes:
            parts.append("## To know\n\n" + "\n".join(f"- {_escaped(note)}" for note in entry.notes))
        if entry.figures:
            parts.append("## Measured\n\n" + _figures(entry))
    parts.append("## How to run it\n\n" + _how_to_run(model, setting))
    return "\n\n".join(parts) + "\n"


def _front_matter(model: Model) -> str:
    """YAML; every value is written as JSON, which YAML is a superset of, so that no text can break out of it."""
    licence, base = _plain(model.get("general.license")), base_models(model)
    values: dict[str, Any] = {
        "license": licence or None,
        "base_model": base or None,
        "base_model_relation": "quantized" if base else None,
        "library_name": "gguf",
        "pipeline_tag": "text-generation" if "tokenizer.chat_template" in model.metadata else None,
        "tags": ["gguf", "llama.cpp", "quantdeck", _plain(model.architecture)],
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in values.items() if value is not None]
    return "\n".join(["---", *lines, "---"])


def base_models(model: Model) -> list[str]:
    """Repositories on the Hub that the file names as its origin."""
    urls = [model.get(f"general.base_model.{number}.repo_url") for number in range(4)]
    urls += [model.get("general.source.repo_url"), model.get("general.repo_url"), model.get("general.source.url")]
    matches = (_REPOSITORY_URL.fullmatch(url) for url in urls if isinstance(url, str))
    names = [model.get("general.source.huggingface.repository")]
    named = [name for name in names if isinstance(name, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", name)]
    return list(dict.fromkeys([match[1] for match in matches if match] + named))


def _origin(model: Model, level: str) -> str:
    base = base_models(model)
    licence = _plain(model.get("general.license"))
    origin = " and ".join(f"[{name}](https://huggingface.co/{name})" for name in base)
    made = f"A {level} GGUF" + (f" of {origin}" if origin else "") + ", made with Quantdeck."
    described = _plain(model.get("general.description"))
    terms = f"Licence: {_escaped(licence)}." if licence else "The file does not name its licence: see the original's."
    return "\n\n".join(filter(None, [made, _escaped(described), terms]))


def _facts(model: Model, entry: Entry | None, level: str) -> list[tuple[str, str]]:
    context = model.get("{arch}.context_length")
    facts = [
        ("Architecture", model.architecture),
        ("Parameters", count(model.n_weights)),
        ("Level", level),
        ("Size", f"{size(model.n_bytes)}, {model.bits_per_weight:.2f} bits per weight"),
        ("Context", f"{context:,} tokens" if isinstance(context, int) else "not given"),
    ]
    if not entry:
        return facts
    if not entry.files:
        return [*facts, ("SHA-256", entry.sha256)]
    return [*facts, *((f"SHA-256 of {Path(file.path).name}", file.sha256) for file in entry.files)]


def _types(model: Model) -> list[tuple[str, ...]]:
    kinds: dict[str, list[int]] = {}
    for tensor in model.tensors:
        row = kinds.setdefault(tensor.type, [0, 0, 0])
        for number, value in enumerate((1, tensor.n_weights, tensor.n_bytes)):
            row[number] += value
    ranked = sorted(kinds.items(), key=lambda kind: -kind[1][2])
    return [(name, str(tensors), count(weights), size(n_bytes)) for name, (tensors, weights, n_bytes) in ranked]


def _recipe(entry: Entry) -> str:
    rows = [("Source", Path(entry.source).name), ("Level", entry.level)]
    rows += [
        (str(name), json.dumps(value) if not isinstance(value, str) else value)
        for name, value in entry.recipe.items()
        if value and name not in (*_HIDDEN_IN_CARDS, "level")
    ]
    matrix = f"{Path(entry.imatrix).name}, SHA-256 {entry.imatrix_sha256}" if entry.imatrix else "none"
    rows += [("Importance matrix", matrix), ("Size against the source", f"{entry.ratio:.2f} times smaller")]
    rows += [("Checked", entry.verification if entry.verified else "not checked"), ("Made", entry.created_at[:10])]
    return _table(rows, ("", ""))


def _figures(entry: Entry) -> str:
    rows = []
    for figure in entry.figures:
        details = ", ".join(f"{name} {_detail(value)}" for name, value in figure.details.items())
        rows.append((figure.kind.replace("_", " "), f"{figure.value:.6g}", details))
    return _table(rows, ("figure", "value", "on"))


def _detail(value: object) -> str:
    """A detail without folders of this machine."""
    return Path(value).name if isinstance(value, str) and "/" in value else str(value)


def _how_to_run(model: Model, setting: RunSetting) -> str:
    file = shlex.quote(printable(model.path.name))
    context, layers = setting.context, setting.placement.all_layers
    lines = [f"llama-cli -m {file} -c {context} -ngl {layers}", f"llama-server -m {file} -c {context} -ngl {layers}"]
    need = f"It needs about {size(setting.placement.need.total)} of memory at {context:,} tokens of context."
    return _fenced("\n".join(lines)) + f"\n\n{need} With less graphics memory give `-ngl` fewer layers."


def _fenced(text: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}sh\n{text}\n{fence}"


def _table(rows: Iterable[tuple[str, ...]], header: tuple[str, ...]) -> str:
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *(f"| {' | '.join(map(_escaped, row))} |" for row in rows)])


def _plain(value: object) -> str:
    """Text from metadata: one line of harmless letters, not too long; "" for anything else."""
    text = " ".join(printable(value).split()) if isinstance(value, str) else ""
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


def _escaped(text: str) -> str:
    """Text that Markdown and HTML leave as it is."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", _plain(text))


def describe_setting(setting: RunSetting) -> Mapping[str, str]:
    """The setting in a few lines."""
    where = setting.placement
    layers = (
        "processor alone" if where.where == "cpu" else f"{where.gpu_layers} of {where.all_layers} on the graphics card"
    )
    return {
        "Context": f"{setting.context:,} tokens",
        "Memory": f"{size(where.need.total)} (weights {size(where.need.weights)}, context {size(where.need.kv_cache)})",
        "Layers": layers,
    }
