"""From a wish to a job: read the model, choose the types, lay the file out, check everything; nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadArgument, ModelNotFound
from ..shards import MOST_SHARDS, SHARD_NAME, shard_path
from ..text import printable
from . import preflight
from .control import MAX_WORKERS
from .cores import usable_cores
from .plan import Plan, make_plan
from .spec import JobSpec
from .store import JobStore

if TYPE_CHECKING:
    from ..model import Model
    from ..recipe import Recipe, Request


@dataclass(frozen=True)
class Proposal:
    """A job that could be submitted as it is, and what is known of it beforehand."""

    spec: JobSpec
    plan: Plan = field(repr=False)
    recipe: Recipe = field(repr=False)
    model: Model = field(repr=False)


@dataclass(frozen=True)
class JobOptions:
    """How a job is to be done, whatever it makes.

    `workers` processes, one a usable core if None, with the scheduling priority `nice`: 0 (normal) to 19 (only when
    nothing else wants to). `overwrite`: replace a file of the output's name; the old one stays until the new one is
    verified. `verify`: load the result in llama.cpp before it gets its name. `library`: the register to put the result
    into. `imatrix`: importance matrix file. `max_file_bytes`: split the output into files of so many bytes at most, see
    `model.write_headers`; their names are made from the output's (NAME-00001-of-0000N.gguf), and the job's own output
    is the first of them.
    """

    workers: int | None = None
    nice: int = 0
    overwrite: bool = False
    verify: bool = True
    library: Path | None = None
    imatrix: Path | None = None
    max_file_bytes: int | None = None

    def check(self) -> None:
        """BadArgument for numbers that make no sense."""
        if self.workers is not None and not 1 <= self.workers <= MAX_WORKERS:
            raise BadArgument(f"{self.workers} workers make no sense; choose 1 to {MAX_WORKERS}.")
        if not -20 <= self.nice <= 19:
            raise BadArgument(f"A nice level of {self.nice} makes no sense; choose -20 to 19.")
        if self.max_file_bytes is not None and self.max_file_bytes < 1:
            raise BadArgument(f"Files of at most {self.max_file_bytes} bytes make no sense; choose a larger size.")


_USUAL = JobOptions()


def prepare(
    store: JobStore,
    source: Path,
    request: Request,
    output: Path,
    options: JobOptions = _USUAL,
    pre: str | None = None,
) -> Proposal:
    """Everything that `submit` needs, with all checks done and nothing written.

    Args:
        source: a model that `read_model` reads.
        pre: llama.cpp's name of a checkpoint's pre-tokenizer, see `read_model`.

    Raises:
        QuantdeckError: whatever stands in the way, in words.
    """
    from ..model import read_model

    model = plainly_converted(read_model(source, pre), request)
    recipe = make_request_recipe(model, request, options.imatrix)
    return propose(store, model, recipe, request, output, options)


def plainly_converted(model: Model, request: Request) -> Model:
    """For a checkpoint asked for in F32, F16 or BF16: rounded once, from what is stored, and not by way of 16 bits."""
    if model.format == "gguf":  # most models are: what reads the others is not imported for them
        return model
    from ..checkpoint import MATRIX_TYPES, with_matrices
    from ..recipe import find_level

    level = find_level(request.level).name
    return with_matrices(model, level) if level in MATRIX_TYPES else model


def make_request_recipe(model: Model, request: Request, imatrix: Path | None) -> Recipe:
    """The recipe of a request; BadArgument or ValidationFailed for an importance matrix that does not fit the model."""
    from ..recipe import make_recipe

    if imatrix is None:
        return make_recipe(model, request)
    from ..imatrix import ImatrixFile

    matrix = ImatrixFile(imatrix)
    recipe = make_recipe(model, request, matrix.facts())
    made = [choice for choice in recipe.tensors if not choice.copied]
    for choice in made:
        matrix.weights_for(choice.tensor)
    without = make_recipe(model, request, preview=True)
    other = sum(a.type != b.type for a, b in zip(recipe.tensors, without.tensors, strict=True))
    weighed = sum(choice.tensor.name in matrix.names for choice in made)
    also = f"; {other} get another type than they would without it" if other else ""
    note = f"The importance matrix decides how {weighed} of {len(made)} tensors are rounded{also}."
    return replace(recipe, notes=(*recipe.notes, note))


def propose(
    store: JobStore,
    model: Model,
    recipe: Recipe,
    request: Request,
    output: Path,
    options: JobOptions = _USUAL,
) -> Proposal:
    """As `prepare`, for a model that was read and a recipe that was made already (a matrix of jobs on one source)."""
    options.check()
    imatrix, library, max_file_bytes = options.imatrix, options.library, options.max_file_bytes
    try:
        plan = make_plan(model, recipe, imatrix, max_file_bytes)
    except OSError as error:
        raise ModelNotFound(f"{printable(str(model.path))} cannot be read: {error.strerror}.") from error
    spec = JobSpec(
        source=str(model.path.absolute()),
        output=str(first_file(output.expanduser().absolute(), len(plan.files), max_file_bytes is not None)),
        level=recipe.level,
        workers=usable_cores() if options.workers is None else options.workers,
        nice=options.nice,
        overwrite=options.overwrite,
        verify=options.verify,
        library=str(library.absolute()) if library else "",
        imatrix=str(imatrix.absolute()) if imatrix else "",
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        architecture=model.architecture,
        source_format=model.format,
        n_weights=plan.n_weights,
        source_bytes=sum(fingerprint.size for fingerprint in plan.sources),
        output_bytes=plan.total,
        max_file_bytes=max_file_bytes or 0,
        notes=(*recipe.notes, *model.notes),
        request=asdict(request),
    )
    check(store, spec, plan)
    return Proposal(spec, plan, recipe, model)


def first_file(output: Path, count: int, split: bool) -> Path:
    """The file that a result of `count` files is opened by; BadArgument for a name that cannot be used so."""
    shown = printable(output.name)
    if split and count > MOST_SHARDS:
        raise BadArgument(
            f"{shown} would be split into {count} files, and {MOST_SHARDS} are allowed; make them larger."
        )
    if SHARD_NAME.fullmatch(output.name):
        raise BadArgument(f"{shown} is the name of one file of several; give the name without its number.")
    return shard_path(output.parent, output.name.removesuffix(".gguf"), 1, count) if split else output


def check(store: JobStore, spec: JobSpec, plan: Plan) -> None:
    """All checks that can be made before a job is in the store, cheapest first."""
    steps: tuple[Callable[[], None], ...] = (
        lambda: preflight.check_output(spec, [Path(source.path) for source in plan.inputs]),
        lambda: preflight.check_rivals(store, spec),
        lambda: preflight.check_space(store, spec, plan.total),
        lambda: preflight.check_memory(spec),
    )
    for step in steps:
        step()


def submit(
    store: JobStore,
    proposal: Proposal,
    on_progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> str:
    """Put a job into the store and return its id. It begins with `start`.

    All weights of the source are looked at before, once for the job: see `model.check_weights` for `on_progress`
    (bytes done, bytes in all), `cancelled`, and what it raises.
    """
    from ..model import check_weights

    preflight.check_sources(proposal.plan)
    check(store, proposal.spec, proposal.plan)
    check_weights(proposal.model, on_progress, cancelled)
    return store.create(proposal.spec, proposal.plan)
