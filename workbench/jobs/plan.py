"""The plan of a job: the output's files laid out to the last byte before the first weight is read."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ResumeFailed
from ..files import write_atomically
from ..weights import bits_per_weight

if TYPE_CHECKING:
    from ..model import Model
    from ..recipe import Recipe, TensorChoice
    from .spec import JobSpec

RANGE_WEIGHTS = 2 << 20
"""Weights in one task: 8 MB as float32, so that a worker stays small whatever the model's size."""

FINGERPRINT_BYTES = 16 << 20
"""How much of the beginning of a source file is hashed: the header, vocabulary included, of any model we know."""


@dataclass(frozen=True)
class Fingerprint:
    """What a source file was when the plan was made. `head_sha256` is over its first FINGERPRINT_BYTES."""

    path: str
    size: int
    mtime_ns: int
    head_sha256: str

    @classmethod
    def of(cls, path: Path) -> Fingerprint:
        """Take the fingerprint of a file; OSError if it cannot be read."""
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            head = hashlib.sha256(file.read(FINGERPRINT_BYTES)).hexdigest()
        return cls(str(path), status.st_size, status.st_mtime_ns, head)

    def looks_unchanged(self) -> bool:
        """True if size and time are still the same: one system call, for checks while a job runs."""
        status = Path(self.path).stat()
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)

    def unchanged(self) -> bool:
        """True if size, time and beginning are still the same."""
        return self.looks_unchanged() and Fingerprint.of(Path(self.path)) == self


@dataclass(frozen=True)
class Range:
    """One task: some rows of one tensor of the plan, given by its number."""

    tensor: int
    first: int
    count: int


class Place(NamedTuple):
    """A stretch of the output: the number of a file, and an offset and a length in bytes."""

    file: int
    offset: int
    n_bytes: int


@dataclass(frozen=True)
class PlannedFile:
    """One file of the output: its complete header, and its size in bytes."""

    header: bytes = field(repr=False)
    n_bytes: int


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the output. `offset` counts from the beginning of file `file`; `n_bytes` is without padding.

    `shape` is in ggml's order (shape[0] is the row length). `asked` is the level's own type, `reason` says why `type`
    is another one. `source_file` is an index into `Plan.sources`, `source_offset` a position in that file. Huge rows
    are worked on in `split` equal pieces, each a row of its own to the workers.
    """

    name: str
    shape: tuple[int, ...]
    source_type: str
    source_bytes: int
    type: str
    offset: int
    n_bytes: int
    asked: str = ""
    reason: str = ""
    source_file: int = 0
    source_offset: int = 0
    split: int = 1
    file: int = 0

    @property
    def row_length(self) -> int:
        """Weights in one row, or in one piece of a huge row."""
        return self.shape[0] // self.split

    @cached_property
    def n_rows(self) -> int:
        """Rows, or pieces of huge rows, over all other dimensions."""
        return self.split * math.prod(self.shape[1:])

    @property
    def n_weights(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def copied(self) -> bool:
        """True if the source's bytes are taken as they are."""
        return self.type == self.source_type

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in the output."""
        return self.n_bytes // max(1, self.n_rows)

    @property
    def rows_per_matrix(self) -> int:
        """Rows that share one slice of an importance matrix: those of one expert."""
        return self.shape[1] if len(self.shape) > 1 else 1


@dataclass(frozen=True)
class Plan:
    """The output as files, mostly one: headers, sizes, every tensor's place; and what the inputs were.

    `tensors` are in the order of the files. `sources` are the model's files, `imatrix` is the importance matrix's, or
    empty.

    Two plans of the same request on the same source are equal, and so are the files they lead to.
    """

    files: tuple[PlannedFile, ...]
    tensors: tuple[PlannedTensor, ...]
    sources: tuple[Fingerprint, ...]
    imatrix: tuple[Fingerprint, ...] = ()
    range_weights: int = RANGE_WEIGHTS

    @property
    def inputs(self) -> tuple[Fingerprint, ...]:
        """All files that the output depends on."""
        return self.sources + self.imatrix

    @property
    def source_fingerprint(self) -> str:
        """One string that tells whether a source is still the same: size and beginning of each of its files."""
        return " ".join(f"{source.size}-{source.head_sha256[:32]}" for source in self.sources)

    @cached_property
    def total(self) -> int:
        """Bytes of all files of the output."""
        return sum(file.n_bytes for file in self.files)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Where each file would begin if all stood one after another."""
        return tuple(accumulate((file.n_bytes for file in self.files[:-1]), initial=0))

    @cached_property
    def n_weights(self) -> int:
        """Elements of all tensors."""
        return sum(tensor.n_weights for tensor in self.tensors)

    @cached_property
    def data_bytes(self) -> int:
        """Bytes of all tensors in the output, headers and padding not counted."""
        return sum(tensor.n_bytes for tensor in self.tensors)

    @cached_property
    def source_bytes(self) -> int:
        """Bytes of all tensors in the source."""
        return sum(tensor.source_bytes for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Average bits per weight of the output over all tensors."""
        return bits_per_weight(self.data_bytes, self.n_weights)

    def ranges_of(self, index: int) -> Iterator[Range]:
        """The tasks of one tensor. They depend on the plan alone, so that a resumed job cuts as the first run did."""
        tensor = self.tensors[index]
        step = max(1, self.range_weights // max(1, tensor.row_length))
        for first in range(0, tensor.n_rows, step):
            yield Range(index, first, min(step, tensor.n_rows - first))

    def ranges(self) -> Iterator[Range]:
        """All tasks, in the order of the files."""
        for index in range(len(self.tensors)):
            yield from self.ranges_of(index)

    def place(self, task: Range) -> Place:
        """Where a task's output belongs."""
        tensor = self.tensors[task.tensor]
        return Place(tensor.file, tensor.offset + task.first * tensor.row_bytes, task.count * tensor.row_bytes)

    def gaps(self, number: int = 0) -> Iterator[tuple[int, int]]:
        """(offset, length) of the padding in a file, behind the header and behind each tensor, which holds zeros."""
        file = self.files[number]
        end = len(file.header)
        for tensor in sorted((t for t in self.tensors if t.file == number), key=lambda t: t.offset):
            if tensor.offset > end:
                yield end, tensor.offset - end
            end = tensor.offset + tensor.n_bytes
        if file.n_bytes > end:
            yield end, file.n_bytes - end

    def write(self, folder: Path) -> None:
        """Put the plan into a job's folder."""
        headers = b"".join(file.header for file in self.files)
        document = {
            "header_sha256": hashlib.sha256(headers).hexdigest(),
            "files": [[len(file.header), file.n_bytes] for file in self.files],
            "range_weights": self.range_weights,
            "sources": [asdict(source) for source in self.sources],
            "imatrix": [asdict(source) for source in self.imatrix],
            "tensors": [asdict(tensor) for tensor in self.tensors],
        }
        write_atomically(folder / "header.bin", headers)
        write_atomically(folder / "plan.json", json.dumps(document, indent=0).encode())

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """The plan in a job's folder; ResumeFailed if it is missing or damaged."""
        try:
            document = json.loads((folder / "plan.json").read_bytes())
            headers = (folder / "header.bin").read_bytes()
            if hashlib.sha256(headers).hexdigest() != document["header_sha256"]:
                raise ValueError("the header does not have its hash")
            return cls(
                files=_files(headers, document),
                tensors=tuple(_tensor(entry) for entry in document["tensors"]),
                sources=tuple(Fingerprint(**entry) for entry in document["sources"]),
                imatrix=tuple(Fingerprint(**entry) for entry in document["imatrix"]),
                range_weights=int(document["range_weights"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ResumeFailed(
                f"The plan of the job in {folder} is missing or damaged; submit the job again."
            ) from error


def _tensor(entry: dict[str, Any]) -> PlannedTensor:
    return PlannedTensor(**entry | {"shape": tuple(int(extent) for extent in entry["shape"])})


def _files(headers: bytes, document: dict[str, Any]) -> tuple[PlannedFile, ...]:
    # Jobs of older versions make one file.
    sizes = document["files"] if "files" in document else [[len(headers), document["total"]]]
    ends = list(accumulate(int(length) for length, _ in sizes))
    if not ends or ends[-1] != len(headers):
        raise ValueError("the headers do not have their lengths")
    return tuple(PlannedFile(headers[end - length : end], int(n)) for (length, n), end in zip(sizes, ends, strict=True))


def make_plan(model: Model, recipe: Recipe, imatrix: Path | None = None, max_file_bytes: int | None = None) -> Plan:
    """Lay the recipe out as GGUF files, and take the fingerprints of the model's files and the importance matrix.

    With `max_file_bytes` the output is split as `model.write_headers` says, even into one file.

    Raises:
        OSError: one of them cannot be read.
    """
    from ..model import write_headers

    layout = [(choice.tensor.name, choice.tensor.shape, choice.type) for choice in recipe.tensors]
    headers = write_headers(recipe.metadata, layout, max_file_bytes)
    places = [
        Place(number, offset, n_bytes)
        for number, header in enumerate(headers)
        for offset, n_bytes in zip(header.offsets, header.sizes, strict=True)
    ]
    tensors = [
        PlannedTensor(
            name=choice.tensor.name,
            shape=choice.tensor.shape,
            source_type=choice.tensor.type,
            source_bytes=choice.tensor.n_bytes,
            type=choice.type,
            offset=place.offset,
            n_bytes=place.n_bytes,
            asked=choice.asked,
            reason=choice.reason,
            source_file=choice.tensor.file,
            source_offset=choice.tensor.offset,
            split=pieces(choice, weighted=imatrix is not None),
            file=place.file,
        )
        for choice, place in zip(recipe.tensors, places, strict=True)
    ]
    return Plan(
        files=tuple(PlannedFile(header.content, header.total_size) for header in headers),
        tensors=tuple(tensors),
        sources=tuple(Fingerprint.of(path) for path in model.files),
        imatrix=(Fingerprint.of(imatrix.absolute()),) if imatrix else (),
    )


def pieces(choice: TensorChoice, weighted: bool) -> int:
    """Into how many equal pieces each row is cut, so that no row takes more memory than a few ranges; 1 for usual rows.

    Blocks do not know of one another, so that the bytes stay the same; but under an importance matrix some types look
    at the whole row, which then stays whole.
    """
    length = choice.tensor.row_length
    if length <= 2 * RANGE_WEIGHTS or (weighted and not choice.copied):
        return 1
    # All block sizes divide 256.
    block = 1 if choice.type in ("F32", "F16", "BF16") and choice.copied else 256
    fewest = -(-length // RANGE_WEIGHTS)
    return next((n for n in range(fewest, 64 * fewest) if length % (n * block) == 0), 1)


def source_model(spec: JobSpec, plan: Plan) -> Model:
    """The source as the plan knows it: its tensors and where they lie, without metadata, which no worker needs."""
    from ..model import Model, Tensor

    tensors = tuple(
        Tensor(
            name=t.name,
            shape=t.shape if t.split == 1 else (t.row_length, t.n_rows),
            type=t.source_type,
            n_bytes=t.source_bytes,
            file=t.source_file,
            offset=t.source_offset,
        )
        for t in plan.tensors
    )
    files = tuple(Path(source.path) for source in plan.sources)
    return Model(Path(spec.source), spec.source_format, spec.architecture, {}, tensors, files)
