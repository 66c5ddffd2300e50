"""llama.cpp's own functions (`lib`) and ggml's (`libggml`), as ctypes knows them. Child process only.

llama-cpp-python's package also imports its class `Llama` with all that a server needs, which nobody here uses and which
takes longer than loading a small model. Its two modules of plain functions are imported without it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec


@contextmanager
def package_unrun(name: str) -> Iterator[None]:
    """Inside, modules of the package `name` can be imported although its `__init__` has not run.

    Afterwards it is as if nobody had asked for the package itself. A package that is imported already stays as it is.
    """
    spec = None if name in sys.modules else find_spec(name)
    if spec is None:
        yield
        return
    sys.modules[name] = module_from_spec(spec)
    try:
        yield
    finally:
        del sys.modules[name]


with package_unrun("llama_cpp"):
    from llama_cpp import llama_cpp as lib
    from llama_cpp._ggml import libggml

__all__ = ["lib", "libggml"]
