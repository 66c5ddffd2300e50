"""What the workbench found, as labels and values for a person: the same words on a screen and in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..workbench.shards import SHARD_NAME
from ..workbench.text import count, duration, printable, size

# Named in signatures only: the first screen must not wait for numpy.
if TYPE_CHECKING:
    from ..workbench.advice import Advice, Candidate, Placement, Step
    from ..workbench.hardware import Bandwidth, Gpu, Hardware
    from ..workbench.jobs import JobSnapshot, JobSummary, Proposal, TensorProgress
    from ..workbench.llama.calibrate import CalibrationProgress, Coverage
    from ..workbench.llama.evaluate import Estimate
    from ..workbench.measure import Measurement, MeasureProgress, Speed
    from ..workbench.model import Model


def one_line(text: str) -> str:
    """What came from a file, harmless and in one line, so that a name with line breaks cannot pose as lines of ours."""
    return " ".join(printable(text).split("\n"))


STATUS_WORDS = {
    "queued": "waits",
    "running": "running",
    "paused": "paused",
    "verifying": "verifying",
    "done": "done",
    "failed": "failed",
    "cancelled": "cancelled",
    "interrupted": "cut off",
}

FEATURES_SHOWN = ("AVX2", "AVX512", "AVX512_VNNI", "AVX512_BF16", "AVX_VNNI", "AMX_INT8", "FMA", "F16C")
FEATURES_SHOWN_ARM = ("NEON", "DOTPROD", "MATMUL_INT8", "SVE", "SME")


def hardware_facts(hardware: Hardware, bandwidth: Bandwidth | None) -> dict[str, str]:
    """The machine in a few lines."""
    cpu, memory, disk = hardware.cpu, hardware.memory, hardware.disk
    cores = f"{cpu.usable_cores:g} of {cpu.logical_cores} usable" if cpu.cores_source else f"{cpu.logical_cores}"
    wanted = FEATURES_SHOWN if "86" in cpu.architecture else FEATURES_SHOWN_ARM
    features = [name for name in wanted if name in cpu.features] or list(cpu.features[:8])
    facts = {
        "Processor": f"{cpu.model or 'unknown'} ({cpu.architecture})",
        "Cores": cores + (f", bounded by {cpu.cores_source}" if cpu.cores_source else ""),
        "Instructions": " ".join(features) or "unknown",
        "Memory": f"{size(memory.usable)} usable of {size(memory.total)}"
        + (f", limited to {size(memory.limit)} by {memory.limit_source}" if memory.limit is not None else ""),
        "Bandwidth": f"{size(bandwidth.bytes_per_second)}/s read by {bandwidth.threads} threads"
        if bandwidth
        else "not measured yet",
        "Graphics": "none found" if not hardware.gpus else "; ".join(map(gpu_words, hardware.gpus)),
        "Disk": f"{size(disk.free)} free of {size(disk.total)} at {disk.path}",
        "System": hardware.system + (f" in {hardware.environment}" if hardware.environment else ""),
    }
    if hardware.gpus and hardware.gpu_offload is False:
        facts["llama.cpp"] = "built without GPU support: models run on the processor"
    return facts


def gpu_words(gpu: Gpu) -> str:
    """One graphics processor in a line."""
    if gpu.unified:
        memory = "shares the machine's memory"
    elif gpu.memory_total is None:
        memory = "memory unknown"
    elif gpu.memory_free is None:
        memory = size(gpu.memory_total)
    else:
        memory = f"{size(gpu.memory_free)} free of {size(gpu.memory_total)}"
    return f"{gpu.name} ({gpu.backend}), {memory}"


def model_facts(model: Model) -> dict[str, str]:
    """A model in a few lines."""
    kinds: dict[str, int] = {}
    for tensor in model.tensors:
        kinds[tensor.type] = kinds.get(tensor.type, 0) + tensor.n_weights
    mix = ", ".join(
        f"{name} {100 * n / max(1, model.n_weights):.0f} %"
        for name, n in sorted(kinds.items(), key=lambda kind: -kind[1])
    )
    context = model.get("{arch}.context_length")
    return {
        "File": str(model.path) + (f" and {len(model.files) - 1} more" if len(model.files) > 1 else ""),
        "Name": str(model.get("general.name", "not given")),
        "Architecture": model.architecture,
        "Parameters": count(model.n_weights),
        "Size": f"{size(model.n_bytes)}, {model.bits_per_weight:.2f} bits per weight",
        "Types": mix,
        "Tensors": str(len(model.tensors)),
        "Trained context": f"{context:,} tokens" if isinstance(context, int) else "not given",
    }


def running_words(running: Sequence[JobSummary]) -> str:
    """How the jobs that are not done stand, in a few words; empty if there are none."""
    if not running:
        return ""
    first = next((job for job in running if job.status != "queued"), running[0])
    others = f", {len(running) - 1} more" if len(running) > 1 else ""
    return f"{first.level} {100 * first.fraction:.0f} %{others}"


def progress_words(job: JobSnapshot) -> str:
    """How a job stands, in one line: for the screen and for `jobs watch`."""
    if job.status == "running":
        left = f"{duration(job.seconds_left)} left" if job.seconds_left is not None else "time left not known yet"
        done = f"{size(job.bytes_done)} of {size(job.plan.data_bytes)}"
        return f"{100 * job.fraction:.0f} % · {done} · {count(job.weights_per_second)} weights/s · {left}"
    if job.status == "verifying":
        return f"verifying: {printable(job.step)}"
    if job.status == "done":
        error = job.errors.relative
        quality = f" · relative error {100 * error:.2f} %" if error is not None else ""
        return f"done in {duration(job.seconds)} · {size(job.plan.total)}{quality}"
    return STATUS_WORDS[job.status] + (f": {printable(job.message)}" if job.message else "")


def check_words(done: int, total: int) -> str:
    """How the look at a source's weights stands, before a job begins."""
    return f"Looking for damaged weights: {100 * done / max(1, total):.0f} % of {size(total)}"


FEW_BITS = 4.0


def imatrix_advice(row: Candidate) -> str:
    """What an importance matrix means for a level, in a sentence or two."""
    what = "It tells which weights matter, from how the model reacts to a text, and costs nothing while running."
    if row.needs_imatrix:
        return f"{row.level} cannot be made without one: the result would be garbage. {what}"
    if row.bits_per_weight < FEW_BITS:
        bits = f"{row.bits_per_weight:.1f} bits a weight"
        return f"Do not go on without one: at {bits} it decides whether the model still makes sense. {what}"
    return f"It makes {row.level} better. {what}"


def wants_imatrix(row: Candidate) -> bool:
    """True if a level is not to be made without the question of an importance matrix."""
    kind = row.facts.imatrix if row.facts else "none"
    return row.needs_imatrix or kind in ("wants", "needs") or (kind == "helps" and row.bits_per_weight < FEW_BITS)


def calibration_words(progress: CalibrationProgress) -> str:
    """How a calibration stands."""
    left = f" · {duration(progress.seconds_left)} left" if progress.done > progress.resumed else ""
    return f"{progress.done} of {progress.chunks} chunks{left} · esc stops; what is done is kept"


LEVEL_COLUMNS = ("level", "file", "bits/w", "memory", "fits, to spare", "tok/s", "quality")
LEVEL_COLUMNS_RIGHT = (1, 2, 3, 4, 5)
FASTEST_SHOWN = 1000
SIXTEEN_BIT_ENDINGS = ("f16", "bf16", "f32", "fp16", "fp32")


def headline(advice: Advice) -> str:
    """The recommendation in a line."""
    row = advice.recommended
    if row is None:
        return "Nothing that can be made here fits this machine"
    return (
        f"{row.level} is recommended: a file of {size(row.n_bytes)}, {size(row.memory.total)} of memory at "
        f"{advice.setup.context:,} tokens, {_about(row.tokens_per_second)} tokens/s"
    )


def level_cells(advice: Advice, row: Candidate, measured: Mapping[str, str]) -> list[str]:
    """One level as cells under LEVEL_COLUMNS; the recommended one carries a mark.

    What was measured of this model at this level takes the place of the published class of quality.
    """
    published = row.facts.quality if row.facts else ""
    return [
        ("▶ " if row.level == advice.level else "  ") + row.level,
        size(row.n_bytes),
        f"{row.bits_per_weight:.2f}",
        size(row.memory.total),
        fit_words(row.placement),
        speed_words(row.tokens_per_second),
        measured.get(row.level, published) + (", imatrix" if row.needs_imatrix else ""),
    ]


def fit_words(placement: Placement) -> str:
    """Whether it fits, and what is left or missing."""
    return f"{placement.fits} {'+' if placement.spare >= 0 else '-'}{size(abs(placement.spare))}"


def _about(tokens_per_second: float) -> str:
    words = speed_words(tokens_per_second)
    return words if words.endswith("+") else f"about {words}"


def speed_words(tokens_per_second: float) -> str:
    """Tokens a second without digits that nobody can know."""
    if tokens_per_second >= FASTEST_SHOWN:
        return f"{FASTEST_SHOWN}+"
    return f"{tokens_per_second:.0f}" if tokens_per_second >= 10 else f"{tokens_per_second:.1f}"


def step_words(step: Step) -> str:
    """A question's answer in words that stand alone."""
    units = {"tokens": " tokens", "users": " at a time"}
    return step.words + units.get(step.question.kind, "")


def default_output(source: Path, level: str, folder: Path) -> Path:
    """NAME-LEVEL.gguf in `folder`, without the number of a shard and the 16-bit level that NAME may end in."""
    shard = SHARD_NAME.fullmatch(source.name)
    stem = shard["stem"] if shard else source.name if source.is_dir() else source.stem
    for ending in SIXTEEN_BIT_ENDINGS:
        for joint in ("-", ".", "_"):
            if stem.lower().endswith(joint + ending):
                stem = stem[: -len(ending) - 1]
    return folder / f"{stem}-{level.upper()}.gguf"


def plan_facts(proposal: Proposal) -> dict[str, str]:
    """What a job will make, in a few lines."""
    spec, plan = proposal.spec, proposal.plan
    kinds: dict[str, int] = {}
    for tensor in plan.tensors:
        kinds[tensor.type] = kinds.get(tensor.type, 0) + 1
    facts = {
        "Source": spec.source,
        "Model": f"{spec.architecture}, {count(spec.n_weights)} parameters, {size(spec.source_bytes)}",
        "Result": spec.output + (f" and {len(plan.files) - 1} more" if len(plan.files) > 1 else ""),
        "Level": f"{spec.level}: {size(plan.total)}, {plan.bits_per_weight:.2f} bits per weight",
        "Tensors": ", ".join(f"{n} in {name}" for name, n in sorted(kinds.items(), key=lambda kind: -kind[1])),
        "Workers": str(spec.workers),
    }
    if spec.imatrix:
        facts["Imatrix"] = spec.imatrix
    return facts


MOST_NAMED = 12


def coverage_lines(reached: Coverage) -> list[str]:
    """What a calibration text reached, and by name what it did not."""
    if reached.complete and not reached.rare:
        return [f"All {reached.covered} weights were reached, with all their experts."]
    lines = [f"{reached.covered} weights were reached."]
    if reached.missing:
        lines.append(f"Never reached: {_named(reached.missing)}.")
    for name, experts in list(reached.experts.items())[:MOST_NAMED]:
        lines.append(f"{printable(name)}: experts never reached: {_named(list(map(str, experts)))}.")
    for name, experts in list(reached.rare.items())[:MOST_NAMED]:
        few = _named(list(map(str, experts)))
        lines.append(f"{printable(name)}: experts reached by fewer than {reached.few} tokens: {few}.")
    left = sum(max(0, len(found) - MOST_NAMED) for found in (reached.experts, reached.rare))
    if left:
        lines.append(f"The same in {left} more weights; --json lists them all.")
    if not reached.complete:
        lines.append("Take more text, or text of more kinds.")
    return lines


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(map(printable, names[:MOST_NAMED]))
    return shown + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")


def stage_words(progress: MeasureProgress) -> str:
    """Where a measurement stands."""
    if not progress.chunks:
        return f"{progress.stage} {100 * progress.fraction:.0f} %"
    chunks = f"chunk {min(progress.done + 1, progress.chunks)} of {progress.chunks}"
    if progress.resumed and progress.done == progress.resumed:
        return f"{progress.stage}: goes on at {chunks}"
    rate = f" · {progress.rate:.0f} tokens/s" if progress.rate else ""
    left = f" · {duration(progress.seconds_left)} left" if progress.seconds_left is not None else ""
    before = f" ({progress.resumed} from before)" if progress.resumed else ""
    return f"{progress.stage}: {chunks}{before}{rate}{left}"


def measurement_facts(done: Measurement) -> dict[str, str]:
    """What was measured of a model, in a few lines."""
    e = done.evaluation
    markers = "special tokens parsed" if e.parse_special else "no special tokens parsed"
    facts = {
        "Text": f"{e.chunks} chunks, {e.scored:,} tokens scored, {markers}",
        "Perplexity": _with_error(e.perplexity, 4),
    }
    if d := e.divergence:
        facts["KL divergence"] = (
            f"{_with_error(d.kl, 5)}; median {d.kl_median:.5f}, 99 % {d.kl_99:.4f}, maximum {d.kl_max:.3f}"
        )
        facts["Same top token"] = _with_error(d.same_top, 2, 100, " %")
        facts["RMS change of p"] = _with_error(d.rms_p, 3, 100, " %")
    if q := done.questions:
        facts["Questions"] = f"{q.exact} of {q.total} answered word for word, {q.contains} contain the answer"
    return facts | (_speed_facts(done.speed) if done.speed else {})


def _speed_facts(speed: Speed) -> dict[str, str]:
    trial, expected = speed.trial, speed.estimated
    facts = {
        "Generation": f"{trial.tokens_per_second:.1f} tokens/s at half of {trial.context} tokens "
        f"on {_threads(trial.threads)} (estimated {speed_words(expected.tokens_per_second)})",
        "Prompt": f"{trial.prompt_tokens_per_second:.0f} tokens/s on {_threads(trial.prompt_threads)}",
        "Load time": duration(trial.load_seconds),
    }
    if trial.peak_memory:
        expects = f" (estimated {size(expected.memory)})" if expected.memory else ""
        facts["Peak memory"] = size(trial.peak_memory) + expects
    return facts


def _threads(number: int) -> str:
    return "1 thread" if number == 1 else f"{number} threads"


def _with_error(estimate: Estimate, digits: int, factor: float = 1, unit: str = "") -> str:
    return f"{factor * estimate.value:.{digits}f} ± {factor * estimate.error:.{digits}f}{unit}"


def tensor_cells(progress: TensorProgress) -> list[str]:
    """One tensor of a job: name, types, size before and after, and the relative error once it is finished."""
    tensor = progress.tensor
    error = progress.errors.relative if progress.done else None
    kind = tensor.type if tensor.copied else f"{tensor.source_type} → {tensor.type}"
    words = "copied" if tensor.copied and progress.done else f"{100 * error:.2f} %" if error is not None else ""
    return [tensor.name, kind, size(tensor.source_bytes), size(tensor.n_bytes), words]
