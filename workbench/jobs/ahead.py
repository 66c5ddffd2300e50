"""A supervisor and its workers that come up while the job is still being prepared."""

from __future__ import annotations

from ..processes import Detached


def supervisor_ahead(workers: int, *shown: str) -> Detached:
    """A supervisor without a job, with so many workers; `shown` is for those who look at command lines.

    `start` gives it its job. It ends when it is closed, or when this program ends, before it has got one.
    """
    return Detached(f"{__package__}.supervisor", str(workers), *shown)
