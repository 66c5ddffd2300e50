"""A worker process: takes tasks on its standard input, writes bytes at their final place, reports on its output.

The first line of its input is the job's folder, as JSON; then one JSON line each way: `{"tensor", "first", "count"}`
in, `{"digest", "seconds", "errors"}` or `{"problem", "text"}` out. It ends when its input ends, and dies with its
supervisor.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...kernels import KernelError, NotFinite, dequantize, quantize
from ...kernels.registry import codec
from .. import processes
from ..errors import QuantdeckError
from ..files import is_full
from ..model import open_source
from ..text import printable
from .partial import digest, write_all
from .plan import Plan, PlannedTensor, Range, source_model
from .spec import JobSpec

if TYPE_CHECKING:
    from ..imatrix import ImatrixFile

SAMPLED = 16
"""Errors are measured on every so many-th row of a tensor, beginning with its first."""

COMMON_TYPES = ("F16", "BF16", "Q4_K", "Q8_0")
"""Types whose arithmetic is imported while the job is still being prepared, since most jobs need it."""

_NAN_ABOVE = {
    "F16": (np.uint16, 0x7FFF, 0x7C00),
    "BF16": (np.uint16, 0x7FFF, 0x7F80),
    "F32": (np.uint32, 0x7FFFFFFF, 0x7F800000),
}

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD

_LARGEST_ARRAY, _KEPT_MEMORY = 32 << 20, 256 << 20
"""Above what a range takes; glibc allows no more for one array."""


class NoNumber(Exception):
    """A weight is NaN or infinite; the text names tensor and row."""


def main(supervisor: int) -> None:
    """Work for a job until the input ends."""
    die_with(supervisor)
    keep_memory()
    np.setbufsize(512)
    for name in COMMON_TYPES:
        codec(name)
    told = sys.stdin.buffer.readline()
    if not told:
        return
    folder = Path(json.loads(told))
    processes.begin_in(folder, folder / "worker.log", sys.stderr)
    worker = Worker(folder)
    sys.stdout.buffer.write(b"{}\n")
    sys.stdout.buffer.flush()
    for line in sys.stdin.buffer:
        report = worker.attempt(Range(**json.loads(line)))
        sys.stdout.buffer.write(json.dumps(report).encode() + b"\n")
        sys.stdout.buffer.flush()


def die_with(supervisor: int) -> None:
    """Leave the supervisor's process group, ignore what a terminal sends, and die when the supervisor does."""
    os.setpgid(0, 0)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # if memory runs out, the system shall take a worker, which can be replaced
            Path("/proc/self/oom_score_adj").write_text("500")
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != supervisor:  # it died before the signal was arranged
        sys.exit(1)


def keep_memory() -> None:
    """Have glibc keep what is freed: each batch needs the same again, and the system would clear every page of it."""
    with contextlib.suppress(AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _LARGEST_ARRAY)
        mallopt(_TRIM_THRESHOLD, _KEPT_MEMORY)


class Worker:
    """The open files of a job, and the arithmetic on one task."""

    def __init__(self, folder: Path) -> None:
        spec, self.plan = JobSpec.read(folder / "spec.toml"), Plan.read(folder)
        self.partials = spec.partials
        self.output = (-1, -1)
        self.model = source_model(spec, self.plan)
        self.source = open_source(self.model)
        self.imatrix = open_imatrix(spec)
        self.weights: tuple[str, npt.NDArray[np.float32] | None] = ("", None)

    def attempt(self, task: Range) -> dict[str, Any]:
        """Do a task; what goes wrong becomes a report."""
        name = printable(self.plan.tensors[task.tensor].name)
        try:
            return self.do(task)
        except NoNumber as error:
            return {"problem": "weights", "text": str(error)}
        except OSError as error:
            return {"problem": "space" if is_full(error) else "write", "text": error.strerror or str(error)}
        except KernelError as error:
            return {"problem": "weights", "text": f"Tensor {name} cannot be quantized: {error}."}
        except QuantdeckError as error:
            return {"problem": "source", "text": str(error)}
        except MemoryError:
            return {"problem": "memory", "text": f"There was not enough memory for tensor {name}; use fewer workers."}

    def do(self, task: Range) -> dict[str, Any]:
        """Read the rows, quantize them, write them; the report."""
        began = time.perf_counter()
        tensor = self.plan.tensors[task.tensor]
        packed, errors = self.copy(tensor, task) if tensor.copied else self.quantize(tensor, task)
        place = self.plan.place(task)
        assert packed.nbytes == place.n_bytes, f"{tensor.name}: {packed.nbytes} bytes instead of {place.n_bytes}"
        write_all(self.file(place.file), packed.data.cast("B"), place.offset)
        seconds = round(time.perf_counter() - began, 6)
        return {"digest": digest(packed.data), "seconds": seconds, "errors": errors}

    def file(self, number: int) -> int:
        """A descriptor of a file of the output; tasks come in the order of the files, so one is open at a time."""
        before, descriptor = self.output
        if before != number:
            self.output = (number, os.open(self.partials[number], os.O_WRONLY))
            if descriptor >= 0:
                os.close(descriptor)
        return self.output[1]

    def copy(self, tensor: PlannedTensor, task: Range) -> tuple[npt.NDArray[np.uint8], list[float]]:
        """The source's own bytes. NaN in them is refused, since models with NaN load and compute without an error."""
        raw = np.frombuffer(self.source.raw(tensor.name, task.first, task.count), np.uint8)
        if tensor.type in _NAN_ABOVE:
            word, mask, largest = _NAN_ABOVE[tensor.type]
            words = raw.view(word) & word(mask)
            if words.size and words.max() > largest:
                raise NoNumber(_where(tensor, task, (words > largest).reshape(task.count, -1)))
        return raw, []

    def quantize(self, tensor: PlannedTensor, task: Range) -> tuple[npt.NDArray[np.uint8], list[float]]:
        """Packed rows (count, row_bytes), and the error sums over the sampled ones."""
        rows = self.source.rows(tensor.name, task.first, task.count)
        packed = np.empty((task.count, tensor.row_bytes), np.uint8)
        sums = np.zeros(5)
        for start, stop, importance in self.slices(tensor, task):
            try:
                packed[start:stop] = quantize(rows[start:stop], tensor.type, importance)
            except NotFinite as error:
                raise NoNumber(_where(tensor, task, ~np.isfinite(rows))) from error
            first = start + -(task.first + start) % SAMPLED
            sums += error_sums(rows[first:stop:SAMPLED], packed[first:stop:SAMPLED], tensor.type, importance)
        return packed, [float(f"{value:.9g}") for value in sums]

    def slices(self, tensor: PlannedTensor, task: Range) -> list[tuple[int, int, npt.NDArray[np.float32] | None]]:
        """The task cut where one expert's rows end and another slice of the importance matrix begins."""
        weights = self.weights_of(tensor)
        if weights is None:
            return [(0, task.count, None)]
        size, end = tensor.rows_per_matrix, task.first + task.count
        cuts = [task.first, *range((task.first // size + 1) * size, end, size), end]
        return [(a - task.first, b - task.first, weights[a // size]) for a, b in itertools.pairwise(cuts)]

    def weights_of(self, tensor: PlannedTensor) -> npt.NDArray[np.float32] | None:
        """Importance (n_matrices, row_length) of a tensor's columns; that of the last tensor asked for is kept."""
        if not self.imatrix or tensor.copied:
            return None
        if self.weights[0] != tensor.name:
            self.weights = (tensor.name, self.imatrix.weights_for(self.model.by_name[tensor.name]))
        return self.weights[1]


def open_imatrix(spec: JobSpec) -> ImatrixFile | None:
    """The job's importance matrix, None if it has none."""
    if not spec.imatrix:
        return None
    from ..imatrix import ImatrixFile

    return ImatrixFile(Path(spec.imatrix))


def error_sums(
    rows: npt.NDArray[np.float32], packed: npt.NDArray[np.uint8], name: str, importance: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float64]:
    """The five numbers of `ErrorSums` for rows (n, k) and their packed form; sums of float32 squares in float64."""
    if not len(rows):
        return np.zeros(5)
    difference = dequantize(np.ascontiguousarray(packed), name, rows.shape[1])
    difference -= rows
    # One sum a column serves the plain and the weighted figures.
    error = np.einsum("ij,ij->j", difference, difference, dtype=np.float64)
    squares = np.einsum("ij,ij->j", rows, rows, dtype=np.float64)
    weights = np.ones(rows.shape[1]) if importance is None else importance
    return np.array([rows.size, squares.sum(), error.sum(), squares @ weights, error @ weights])


def _where(tensor: PlannedTensor, task: Range, bad: npt.NDArray[np.bool_]) -> str:
    row = (task.first + int(np.argmax(bad.any(axis=1)))) // tensor.split
    return f"Tensor {printable(tensor.name)} holds NaN or infinity in row {row}; the source is damaged, get it again."


if __name__ == "__main__":
    main(int(sys.argv[1]))
