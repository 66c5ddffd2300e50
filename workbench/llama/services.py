"""What the child can do: functions of (engine, reply, arguments) that send events and return the fields of `done`.

A new service is one more entry here and one module. Modules are imported when first asked for: a chat needs few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

# Raises `Refused` for a reason to tell, `Stopped` when cancelled with nothing to report.
Service = Callable[..., dict[str, Any]]

MODULES: Mapping[str, str] = MappingProxyType(
    {
        "load": "serve_load",
        "chat": "serve_chat",
        "complete": "serve_chat",
        "tokenize": "serve_chat",
        "verify": "serve_verify",
        "calibrate": "serve_calibrate",
        "evaluate": "serve_evaluate",
        "trial": "serve_trial",
        "kernels": "serve_kernels",
    }
)


def service(name: str) -> Service:
    """The function that serves `name`; KeyError for an unknown one."""
    found: Service = getattr(import_module(f".{MODULES[name]}", __package__), name)
    return found
