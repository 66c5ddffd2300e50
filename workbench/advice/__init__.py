"""What to choose, and why: decision trees as data, fit and speed estimates, ranked recommendations."""

from .candidates import Candidate, Estimator
from .decode_name import DecodedName, decode_name
from .fit import Budget, MemoryNeed, Placement, Setup
from .machine import Machine, OtherMachine
from .recommend import Advice, Settled, advise, conclude
from .speed import Corrections
from .walk import Step, Walk, Wish

__all__ = [
    "Advice",
    "Budget",
    "Candidate",
    "Corrections",
    "DecodedName",
    "Estimator",
    "Machine",
    "MemoryNeed",
    "OtherMachine",
    "Placement",
    "Settled",
    "Setup",
    "Step",
    "Walk",
    "Wish",
    "advise",
    "conclude",
    "decode_name",
]
