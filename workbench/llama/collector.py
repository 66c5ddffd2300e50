"""Statistics of what goes into matrix multiplications, gathered while llama.cpp computes. Child process only.

A statistic is something that rows of activations are added to: sums of squares today (for importance matrices), sums
of absolute values or Gram matrices for later formats.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .binding import lib
from .engine import Life
from .tensors import F32, Tensor, TensorPointer, check_layout, numbers, operation_number, weight_name

Floats = npt.NDArray[np.float32]

FEWEST_ROWS = 16  # as llama.cpp's tool: below it, what is multiplied is no batch of tokens
_MOST_AHEAD = 3  # copies of inputs in memory; of the widest models each takes 60 MB
_AT_ONCE = 1 << 17  # numbers squared at a time, half a megabyte


@dataclass(frozen=True)
class Statistic:
    """`shape` of what is kept for inputs of k numbers, and `add`: into it, in place, rows float32 (n, k)."""

    name: str
    shape: Callable[[int], tuple[int, ...]]
    add: Callable[[Floats, Floats], None]


def add_squares(sums: Floats, rows: Floats) -> None:
    """Add x^2 of each row to sums float32 (k,), one row after the other.

    That is llama.cpp's order: over a long text its small terms are lost to float32, and so they are here.
    """
    step = max(1, _AT_ONCE // rows.shape[1])
    for first in range(0, len(rows), step):
        squares = np.square(rows[first : first + step])
        squares[0] += sums
        np.add.reduce(squares, axis=0, out=sums)


SQUARES = Statistic("squares", lambda k: (k,), add_squares)


@dataclass
class _Memo:
    """The last addition: the same rows on the same sums, which weights that share their inputs have, need no other."""

    rows: Floats | None = None
    before: Floats | None = None
    after: Floats | None = None

    def add(self, statistic: Statistic, sums: Floats, rows: Floats) -> None:
        """Add `rows` to `sums`, in place."""
        if self._same(rows) and self.before is not None and np.array_equal(sums, self.before):
            sums[...] = self.after
            return
        before = sums.copy()
        statistic.add(sums, rows)
        self.rows, self.before, self.after = rows, before, sums.copy()

    def _same(self, rows: Floats) -> bool:
        """They are at the same place, which nothing else can be while we hold it."""
        known = self.rows
        return known is not None and known.shape == rows.shape and known.ctypes.data == rows.ctypes.data


@dataclass
class Totals:
    """What was gathered for one weight: `sums` (slots, ...), one slot an expert or a matrix, and `counts` of rows.

    Experts have a count each; all matrices of a dense weight share one.
    """

    sums: Floats
    counts: npt.NDArray[np.int64]


@dataclass
class Collector:
    """An eval callback that measures the inputs of weights named `blk.*` (and `output.weight`, if wanted).

    Inputs are copied, and added up by a thread while llama.cpp goes on: `finish` before `totals` are read.
    Nothing raised in a callback reaches anybody: the first problem is kept in `problem`, for the caller to look at.
    Once `life` is cancelled no more is computed.
    """

    statistic: Statistic
    life: Life
    with_output: bool = False
    totals: dict[str, Totals] = field(default_factory=dict)
    problem: str = ""

    def __post_init__(self) -> None:
        check_layout()
        self._dense = operation_number("MUL_MAT")
        self._experts = operation_number("MUL_MAT_ID")
        self._shared: tuple[int, Floats] | None = None
        self._memo = _Memo()
        self._adder = ThreadPoolExecutor(1)
        self._ahead: deque[Future[None]] = deque()
        self.callback: Any = lib.ggml_backend_sched_eval_callback(self._evaluate)

    def end_step(self) -> None:
        """A graph is done: the next one has other numbers at the same places."""
        self._shared = None

    def finish(self) -> None:
        """Wait until everything that was seen is in the totals."""
        while self._ahead:
            self._ahead.popleft().result()

    def _later(self, action: Callable[..., None], *arguments: Any) -> None:
        if len(self._ahead) >= _MOST_AHEAD:
            self._ahead.popleft().result()
        self._ahead.append(self._adder.submit(action, *arguments))

    def _evaluate(self, address: int, ask: bool, _data: int | None) -> bool:
        try:
            tensor = ctypes.cast(address, TensorPointer).contents
            self.life.sign()
            if ask:
                return self._wants(tensor)
            if self.life.cancelled:
                return False
            if self._is_end(tensor):
                return False  # ends the graph: logits are not needed, and with a large vocabulary cost much
            if tensor.op == self._experts:
                self._take_experts(tensor)
            else:
                self._take_dense(tensor)
        except Exception as error:
            self.problem = self.problem or f"{type(error).__name__}: {error}"
        return True

    def _is_end(self, tensor: Tensor) -> bool:
        return not self.with_output and bytes(tensor.name) == b"result_norm"

    def _wants(self, tensor: Tensor) -> bool:
        if self._is_end(tensor):
            return True
        if tensor.op == self._experts:
            return True
        if tensor.op != self._dense:
            return False
        inputs = tensor.src[1].contents
        if inputs.type != F32 or inputs.ne[1] < FEWEST_ROWS:
            return False
        name = weight_name(tensor.src[0].contents)
        if not (name.startswith("blk.") or (self.with_output and name == "output.weight")):
            return False
        if self._is_shared(inputs):
            self._take_dense(tensor)  # of which nothing but the inputs counts; the graph need not stop for it
            return False
        return True

    def _take_dense(self, tensor: Tensor) -> None:
        weight = tensor.src[0].contents
        name, n2, n3 = weight_name(weight), int(weight.ne[2]), int(weight.ne[3])
        inputs = self._inputs(tensor.src[1].contents)
        if n2 * n3 > 1:
            self._later(self._add_matrices, name, inputs, n2, n3)
        else:
            self._later(self._add, name, 1, 0, inputs.reshape(-1, inputs.shape[-1]))

    def _inputs(self, tensor: Tensor) -> Floats:
        """A copy of them, the last one if they are the same: query, key and value share theirs, as do gate and up."""
        if self._shared is None or not self._is_shared(tensor):
            self._shared = ctypes.addressof(tensor), numbers(tensor, np.float32).copy()
        return self._shared[1]

    def _is_shared(self, tensor: Tensor) -> bool:
        return self._shared is not None and self._shared[0] == ctypes.addressof(tensor)

    def _take_experts(self, tensor: Tensor) -> None:
        weight = tensor.src[0].contents
        inputs = numbers(tensor.src[1].contents, np.float32)[0].copy()
        chosen = numbers(tensor.src[2].contents, np.int32)[0, 0].T.copy()
        self._later(self._add_experts, weight_name(weight), inputs, chosen, int(weight.ne[2]))

    def _add_matrices(self, name: str, inputs: Floats, n2: int, n3: int) -> None:
        """A weight of several matrices: each has its own inputs, and one count serves all, as in llama.cpp's tool."""
        total = self._total(name, n2 * n3, 1, inputs.shape[-1])
        for i3 in range(inputs.shape[0]):
            for i2 in range(inputs.shape[1]):
                self._put(name, total, (i3 % n3) * n2 + i2 % n2, inputs[i3, i2])
        total.counts[0] += inputs.shape[0] * inputs.shape[1] * inputs.shape[2] // (n2 * n3)

    def _add_experts(self, name: str, inputs: Floats, chosen: npt.NDArray[np.int32], n_experts: int) -> None:
        """inputs (tokens, used or 1, k), chosen experts (used, tokens); first all first choices, then all second."""
        for expert in np.unique(chosen):
            place, token = np.nonzero(chosen == expert)
            self._add(name, n_experts, int(expert), inputs[token, place % inputs.shape[1]])

    def _add(self, name: str, n_slots: int, slot: int, rows: Floats) -> None:
        total = self._total(name, n_slots, n_slots, rows.shape[-1])
        self._put(name, total, slot, rows)
        total.counts[slot] += len(rows)

    def _total(self, name: str, n_slots: int, n_counts: int, k: int) -> Totals:
        shape = (n_slots, *self.statistic.shape(k))
        total = self.totals.get(name)
        if total is None:
            total = Totals(np.zeros(shape, np.float32), np.zeros(n_counts, np.int64))
            self.totals[name] = total
        elif total.sums.shape != shape:
            total.sums = total.sums.reshape(shape)  # read back from a file, which holds it flat
        return total

    def _put(self, name: str, total: Totals, slot: int, rows: Floats) -> None:
        self._memo.add(self.statistic, total.sums[slot], rows)
        if not np.isfinite(total.sums[slot]).all():
            self.problem = self.problem or f"the inputs of {name} are not numbers (NaN)"
