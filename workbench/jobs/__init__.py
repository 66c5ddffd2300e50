"""Quantization jobs: spec, journal, workers, supervisor, store.

proposal = prepare(store, source, request, output)      all checks, nothing written (a dry run)
job_id = submit(store, proposal)                        the job is in the store
start(store, job_id)                                    its supervisor runs, detached; jobs go one after the other
for snapshot in store.follow(job_id): ...               what happens, also from other programs and later
pause, resume, cancel, set_workers, set_nice            what the user wants, at any time
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cores import usable_cores
    from .launch import add_workers, cancel, pause, resume, set_nice, set_workers, start
    from .logout import logout_warning
    from .plan import Fingerprint, Plan, PlannedTensor, make_plan
    from .preflight import NotEnoughSpace, OutputExists
    from .proposal import Proposal, prepare, propose, submit
    from .snapshot import ErrorSums, JobSnapshot, JobSummary, Status, TensorProgress
    from .spec import JobSpec
    from .store import JobStore, JobWatch

_HOMES = {
    "ErrorSums": "snapshot",
    "Fingerprint": "plan",
    "JobSnapshot": "snapshot",
    "JobSpec": "spec",
    "JobStore": "store",
    "JobSummary": "snapshot",
    "JobWatch": "store",
    "NotEnoughSpace": "preflight",
    "OutputExists": "preflight",
    "Plan": "plan",
    "PlannedTensor": "plan",
    "Proposal": "proposal",
    "Status": "snapshot",
    "TensorProgress": "snapshot",
    "add_workers": "launch",
    "cancel": "launch",
    "logout_warning": "logout",
    "make_plan": "plan",
    "pause": "launch",
    "prepare": "proposal",
    "propose": "proposal",
    "resume": "launch",
    "set_nice": "launch",
    "set_workers": "launch",
    "start": "launch",
    "submit": "proposal",
    "usable_cores": "cores",
}


def __getattr__(name: str) -> Any:
    """Names are imported when they are first used: workers come through here too, and must start at once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


__all__ = [
    "ErrorSums",
    "Fingerprint",
    "JobSnapshot",
    "JobSpec",
    "JobStore",
    "JobSummary",
    "JobWatch",
    "NotEnoughSpace",
    "OutputExists",
    "Plan",
    "PlannedTensor",
    "Proposal",
    "Status",
    "TensorProgress",
    "add_workers",
    "cancel",
    "logout_warning",
    "make_plan",
    "pause",
    "prepare",
    "propose",
    "resume",
    "set_nice",
    "set_workers",
    "start",
    "submit",
    "usable_cores",
]
