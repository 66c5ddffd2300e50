"""Quantization jobs: spec, journal, workers, supervisor, store.

proposal = prepare(store, source, request, output)      all checks, nothing written (a dry run)
job_id = submit(store, proposal)                        the job is in the store
start(store, job_id)                                    its supervisor runs, detached; jobs go one after the other
for snapshot in store.follow(job_id): ...               what happens, also from other programs and later
pause, resume, cancel, set_workers, set_nice            what the user wants, at any time
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .cores import usable_cores
    from .launch import add_workers, cancel, pause, resume, set_nice, set_workers, start
    from .logout import logout_warning
    from .plan import Fingerprint, Plan, PlannedTensor, make_plan
    from .preflight import NotEnoughSpace, OutputExists
    from .proposal import JobOptions, Proposal, prepare, propose, submit
    from .snapshot import ErrorSums, JobSnapshot, JobSummary, Status, TensorProgress
    from .spec import JobSpec
    from .store import JobStore, JobWatch

# Workers come through here too, and must start at once.
__getattr__ = lazy(
    __name__,
    {
        "cores": "usable_cores",
        "launch": "add_workers cancel pause resume set_nice set_workers start",
        "logout": "logout_warning",
        "plan": "Fingerprint Plan PlannedTensor make_plan",
        "preflight": "NotEnoughSpace OutputExists",
        "proposal": "JobOptions Proposal prepare propose submit",
        "snapshot": "ErrorSums JobSnapshot JobSummary Status TensorProgress",
        "spec": "JobSpec",
        "store": "JobStore JobWatch",
    },
)

__all__ = [
    "ErrorSums",
    "Fingerprint",
    "JobOptions",
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
