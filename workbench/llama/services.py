"""What the child can do: functions of (engine, reply, arguments) that send events and return the fields of `done`.

A new service (calibration, evaluation ...) is one more entry in `SERVICES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .serve_calibrate import calibrate
from .serve_chat import chat, complete, tokenize
from .serve_load import load
from .serve_verify import verify

# Raises `Refused` for a reason to tell, `Stopped` when cancelled with nothing to report.
Service = Callable[..., dict[str, Any]]

SERVICES: dict[str, Service] = {
    "load": load,
    "chat": chat,
    "complete": complete,
    "tokenize": tokenize,
    "verify": verify,
    "calibrate": calibrate,
}
