"""From a request to a recipe."""

from __future__ import annotations

import re
from collections import Counter

from ...kernels import TYPES
from ..errors import BadArgument, ValidationFailed
from ..model import Model, Tensor
from ..model.wording import shown
from .kept import why_kept
from .levels import Level, find_level
from .mixes import EMBEDDINGS, FALLBACKS, VERY_LOW, Place, Role, mixed_type, role_of, type_of_output
from .output_metadata import file_type_of, output_metadata
from .overrides import Override, compile_overrides, find_type
from .recipe import ImatrixFacts, Recipe, Request, TensorChoice
from .traits import OUTPUT, Traits, read_traits


def make_recipe(
    model: Model, request: Request, imatrix: ImatrixFacts | None = None, *, preview: bool = False
) -> Recipe:
    """The same types in the same order as llama.cpp's quantizer gives, and the output's metadata.

    With `preview` a recipe is made that could not be carried out as it is: without the importance matrix that it
    needs, or from weights that are already quantized. For estimates of size only.

    Raises:
        BadArgument: an unknown level or type, an expression that does not compile or finds no tensor, rows that do
            not fit a type that was asked for, no weights at all, and without `preview` a level that needs an importance
            matrix without one, or weights already quantized (unless `allow_requantize`).
        ValidationFailed: metadata that the choice depends on is missing or damaged.
    """
    if not model.tensors:
        raise BadArgument(f"{shown(model.path)} holds no weights, only a vocabulary or metadata.")
    if imatrix is not None and not imatrix.names:
        imatrix = None
    level = find_level(request.level)
    tensors = sorted(model.tensors, key=lambda tensor: output_order(tensor.name))
    chooser = _Chooser(model, request, level, imatrix)
    choices = tuple(chooser.choose(tensor) for tensor in tensors)
    if not preview:
        _refuse_requantizing(choices, request)
        _refuse_without_imatrix(choices, level, imatrix)
    file_type = file_type_of(model, [t.type for t in tensors]) if level.copies else level.file_type
    metadata = output_metadata(model, file_type, imatrix)
    return Recipe(level.name, file_type, choices, metadata, _notes(choices, request, level, imatrix))


_LAYER = re.compile(r"blk\.\s*([+-]?\d+)")


def output_order(name: str) -> tuple[int, bytes]:
    """llama.cpp's order of tensors in an output: those outside of the layers, then layer by layer, each by name."""
    return _layer(name, -1), name.encode("utf-8", "surrogateescape")


def _layer(name: str, default: int) -> int:
    match = _LAYER.match(name)
    return int(match[1]) if match else default


class _Chooser:
    """Chooses tensor by tensor, in the output's order: some rules count the tensors of a role before this one."""

    def __init__(self, model: Model, request: Request, level: Level, imatrix: ImatrixFacts | None) -> None:
        self.request = request
        self.level = level
        self.imatrix = imatrix
        self.traits = read_traits(model) if TYPES[level.type].quantized else _no_traits(model)
        quantizable = [t.name for t in model.tensors if not why_kept(t, model.architecture)]
        self.overrides = compile_overrides(request.tensor_types, quantizable)
        self.output_type = find_type(request.output_type) if request.output_type else None
        self.embedding_type = find_type(request.embedding_type) if request.embedding_type else None
        self.n_values = sum(role_of(t.name) is Role.VALUES for t in model.tensors)
        self.seen: Counter[Role] = Counter()

    def choose(self, tensor: Tensor) -> TensorChoice:
        """The type of one tensor; each is asked for once, in the output's order."""
        kept = self._why_kept(tensor)
        if kept:
            return self._choice(tensor, tensor.type, f"kept, because {kept}")
        role = role_of(tensor.name)
        if role is Role.EMBEDDING and self.embedding_type and not self._named_on_its_own(tensor):
            return self._choice(tensor, self._fitting(tensor, self.embedding_type), "asked for the token embeddings")
        if role is Role.OUTPUT and self.output_type:
            return self._choice(tensor, self._fitting(tensor, self.output_type), "asked for the output")
        if not TYPES[self.level.type].quantized:
            return self._choice(tensor, self.level.type, "")
        wanted, reason, fallback = self._wanted(tensor, role)
        fitted = _fallback(tensor, wanted)
        if fitted != wanted:
            reason, fallback = f"{_misfit(tensor, wanted)}, so not {wanted}", True
        return self._choice(tensor, fitted, reason, fallback=fallback)

    def _wanted(self, tensor: Tensor, role: Role) -> tuple[str, str, bool]:
        """The type before its blocks are held against the rows, why, and whether the rows had a say already."""
        default = self.level.type
        override = self._override(tensor.name)
        if override:
            return override.type, f"asked by '{shown(override.pattern.pattern)}'", False
        if self.request.pure:
            return default, "", False
        if self.traits.architecture == "glm5-next" and _needs_eight_bits(tensor.name):
            return "Q8_0", "this architecture loses too much below 8 bits here", False
        if role is Role.OUTPUT or (role is Role.EMBEDDING and self.traits.tied_embeddings):
            return self._output(tensor)
        if self.level.name == "MXFP4_MOE":
            return self._mxfp4(tensor, role)
        return (*mixed_type(self.level.name, default, role, self._place(tensor, role)), False)

    def _output(self, tensor: Tensor) -> tuple[str, str, bool]:
        default = self.level.type
        if self.output_type:
            return self.output_type, "asked for the output, which the token embeddings serve as", False
        if self.level.name != "MXFP4_MOE" and not self.traits.falcon and _misfits(tensor, default):
            return "Q8_0", f"{_misfit(tensor, default)}, so not {default}", True
        return (*type_of_output(self.level.name, default, self.traits), False)

    def _mxfp4(self, tensor: Tensor, role: Role) -> tuple[str, str, bool]:
        experts = len(tensor.shape) > 2 and tensor.shape[2] > 1
        if self.traits.architecture == "bailingmoe3":
            experts = experts and role in (Role.UP, Role.GATE, Role.DOWN)
        return ("MXFP4", "", False) if experts else ("Q8_0", "only experts become MXFP4 in the mix MXFP4_MOE", False)

    def _place(self, tensor: Tensor, role: Role) -> Place:
        index, total = self.seen[role], self.traits.n_layers
        self.seen[role] += 1
        if role is Role.VALUES:
            total = self.n_values
        elif role in (Role.DOWN, Role.GATE, Role.UP) and self.traits.n_experts > 1 and self.level.name not in VERY_LOW:
            # Experts are not laid out in the order of the layers, so counting would mistake them.
            index = _layer(tensor.name, -1)
            if not 0 <= index < total:
                raise ValidationFailed(
                    f"Tensor {shown(tensor.name)} belongs to none of the model's {total} layers, so its type"
                    " cannot be chosen."
                )
        return Place(index, total, self.traits, self.imatrix is not None)

    def _why_kept(self, tensor: Tensor) -> str:
        if self.level.copies:
            return "everything is only copied"
        if self.request.leave_output and tensor.name == OUTPUT:
            return "the output was asked to stay"
        return why_kept(tensor, self.traits.architecture)

    def _override(self, name: str) -> Override | None:
        return next((override for override in self.overrides if override.pattern.search(name)), None)

    def _named_on_its_own(self, tensor: Tensor) -> bool:
        """True for a table of embeddings for each layer that an expression names."""
        return tensor.name == EMBEDDINGS[1] and self._override(tensor.name) is not None

    def _fitting(self, tensor: Tensor, asked: str) -> str:
        if _misfits(tensor, asked):
            raise BadArgument(
                f"Tensor {shown(tensor.name)} cannot become {asked}: {_misfit(tensor, asked)}; Q8_0 or F16 may do."
            )
        return asked

    def _choice(self, tensor: Tensor, chosen: str, reason: str, *, fallback: bool = False) -> TensorChoice:
        if chosen != tensor.type and tensor.type not in TYPES:
            raise ValidationFailed(f"Tensor {shown(tensor.name)} of type {tensor.type} cannot be quantized.")
        asked = tensor.type if self.level.copies else self.level.type
        return TensorChoice(
            tensor,
            chosen,
            asked,
            "" if chosen == asked else reason,
            fallback,
            chosen != tensor.type and _needs_imatrix(tensor.name, chosen, self.level),
        )


def _no_traits(model: Model) -> Traits:
    """For levels without a mix, which ask nothing of the model."""
    return Traits(model.architecture, 0, 0, 0, OUTPUT not in model.by_name, False)


def _needs_eight_bits(name: str) -> bool:
    return any(part in name for part in ("attn_q_a", "attn_q_b", "nextn.eh_proj"))


def _misfits(tensor: Tensor, kind: str) -> bool:
    return tensor.row_length % TYPES[kind].block_size != 0


def _misfit(tensor: Tensor, kind: str) -> str:
    return f"its rows of {tensor.row_length} weights are not a multiple of {TYPES[kind].block_size}"


def _fallback(tensor: Tensor, wanted: str) -> str:
    if not _misfits(tensor, wanted):
        return wanted
    if wanted not in FALLBACKS and TYPES[wanted].block_size > 32:
        raise BadArgument(
            f"Tensor {shown(tensor.name)} cannot become {wanted}, and no other type is meant to take its place:"
            f" {_misfit(tensor, wanted)}."
        )
    instead = FALLBACKS.get(wanted, wanted)
    return "F16" if _misfits(tensor, instead) else instead


_NEED_IMATRIX = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"}


def _needs_imatrix(name: str, kind: str, level: Level) -> bool:
    """True where the result would be garbage without one. Output and embeddings are spared where the type can do."""
    if name == OUTPUT or name in EMBEDDINGS:
        return TYPES[kind].needs_imatrix
    return kind in _NEED_IMATRIX or (kind == "Q2_K" and level.name == "Q2_K_S")


def _refuse_requantizing(choices: tuple[TensorChoice, ...], request: Request) -> None:
    if request.allow_requantize:
        return
    for choice in choices:
        if not choice.copied and TYPES[choice.tensor.type].quantized:
            raise BadArgument(
                f"The model is already quantized ({shown(choice.tensor.name)} is {choice.tensor.type}), and"
                " quantizing it again would lose quality: start from the 16-bit or 32-bit model"
                " (--allow-requantize does it all the same)."
            )


def _refuse_without_imatrix(choices: tuple[TensorChoice, ...], level: Level, imatrix: ImatrixFacts | None) -> None:
    covered = imatrix.names if imatrix else frozenset[str]()
    missing = [choice for choice in choices if choice.needs_imatrix and choice.tensor.name not in covered]
    if not missing:
        return
    first = f"{len(missing)} tensors, among them {shown(missing[0].tensor.name)} as {missing[0].type}"
    if imatrix is None:
        raise BadArgument(
            f"{level.name} needs an importance matrix, or the result is garbage ({first}): calibrate one, or choose"
            " a level with more bits."
        )
    raise BadArgument(f"The importance matrix is for another model or incomplete: it does not cover {first}.")


def _notes(
    choices: tuple[TensorChoice, ...], request: Request, level: Level, imatrix: ImatrixFacts | None
) -> tuple[str, ...]:
    notes: list[str] = []
    if request.tensor_types and not TYPES[level.type].quantized:
        notes.append(f"Types for single tensors have no effect at {level.name}.")
    if imatrix is not None:
        left_out = [c for c in choices if _uses_imatrix(c) and c.tensor.name not in imatrix.names]
        if left_out:
            some = "1 tensor" if len(left_out) == 1 else f"{len(left_out)} tensors"
            notes.append(
                f"The importance matrix does not cover {some} (such as {shown(left_out[0].tensor.name)}), quantized"
                " without it."
            )
    return tuple(notes)


def _uses_imatrix(choice: TensorChoice) -> bool:
    special = choice.tensor.name == OUTPUT or choice.tensor.name in EMBEDDINGS
    return not choice.copied and TYPES[choice.type].quantized and not special
