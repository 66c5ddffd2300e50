"""The child process: llama.cpp, one model, and the services on it. Started by `host.Child`.

It ends when its input ends or its parent is gone, whatever it is doing then.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING

from .contract import default_threads
from .wire import BadLine, Line, Reply, read, write

if TYPE_CHECKING:
    from .engine import Engine, Life
    from .services import Service

_CROWDED = 25.0
_FEW_SPINS = 1000  # as OpenMP's own where it knows of more threads than cores


class Channel:
    """The pipes to the parent. File descriptor 1 goes to the log: nothing else can write between our lines."""

    def __init__(self) -> None:
        self.requests: queue.Queue[Line] = queue.Queue()
        self.current = 0
        self.life: Life | None = None
        self._cancelled: set[int] = set()
        self._pen = threading.Lock()
        self._state = threading.Lock()
        self._incoming = os.fdopen(os.dup(0), "rb")
        self._outgoing: IO[bytes] = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123
            os.dup2(nothing.fileno(), 0)

    def start(self) -> None:
        """Begin to listen, and to watch the parent."""
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._watch, args=(os.getppid(),), daemon=True).start()

    def send(self, line: Line) -> None:
        """One line to the parent; without a parent there is nothing left to do."""
        try:
            with self._pen:
                write(self._outgoing, line)
        except OSError:
            os._exit(0)

    def begin(self, number: int) -> None:
        """A request is being worked on; it may have been cancelled already."""
        assert self.life is not None
        with self._state:
            self.current = number
            self.life.cancelled = number in self._cancelled
            self._cancelled.clear()

    def _listen(self) -> None:
        with contextlib.suppress(BadLine, OSError):
            while (line := read(self._incoming)) is not None:
                if "cancel" in line:
                    self._cancel(int(line["cancel"]))
                else:
                    self.requests.put(line)
        os._exit(0)

    def _cancel(self, number: int) -> None:
        with self._state:
            self._cancelled.add(number)
            if self.life is not None and number == self.current:
                self.life.cancelled = True

    def _watch(self, parent: int) -> None:
        """End with the parent even if its pipe stays open in another process; tell it about long calls that move on."""
        seen = 0
        while True:
            time.sleep(1.0)
            if os.getppid() != parent:
                os._exit(0)
            if self.life is not None and self.life.signs != seen:
                seen = self.life.signs
                self.send({"event": "alive"})


def main(next_service: str = "", threads: int | None = None) -> None:
    """Set up the process, greet the parent, serve until it goes.

    `next_service` is what will be asked after the loading; its modules are imported while llama.cpp loads;
    `threads` how many will compute.
    """
    os.environ["GGML_NO_BACKTRACE"] = "1"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # BLAS threads and llama.cpp's spin against each other
    if (spins := _spins(threads or default_threads())) is not None:
        os.environ.setdefault("GOMP_SPINCOUNT", str(spins))
        os.environ.setdefault("KMP_BLOCKTIME", "0")
    _be_the_first_to_go()
    channel = Channel()
    channel.start()
    try:
        from .engine import Engine, Life, Log, stderr_stream
        from .services import service
    except Exception as error:
        reason = f"llama-cpp-python cannot be used: {error}"
        channel.send({"event": "failed", "reason": reason, "kind": "engine"})
        sys.exit(1)
    log = Log(stderr_stream())
    channel.life = Life()
    engine = Engine(log, channel.life)
    channel.send({"event": "hello", "pid": os.getpid()})
    if next_service:
        threading.Thread(target=service, args=(next_service,), daemon=True).start()
    while True:
        _serve(channel, engine, service, channel.requests.get())


def _spins(threads: int) -> int | None:
    """How often each of `threads` looks whether the others are done before it sleeps; None leaves that to OpenMP.

    Threads that spin while they wait for one that lost its core rob it of the next: sixty times slower was seen. Where
    all have a core each, sleeping at once takes nine tenths of a small model's speed.
    """
    cores = os.cpu_count() or 1
    try:
        wanted = _running() + threads
        crowded = wanted > cores or _waited() > _CROWDED
    except (OSError, ValueError, IndexError):
        return None
    return None if not crowded else 0 if wanted > 2 * cores else _FEW_SPINS


def _running() -> int:
    """Threads that run or want to at this moment, ours not counted (proc_loadavg(5))."""
    with open("/proc/loadavg", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[3].split("/")[0]) - 1


def _waited() -> float:
    """Share of the last ten seconds, in percent, in which something waited for a core (Linux's PSI); 0 if not told."""
    try:
        with open("/proc/pressure/cpu", encoding="ascii") as file:  # noqa: PTH123
            return float(file.read().split()[1].removeprefix("avg10="))
    except OSError:
        return 0.0


def _be_the_first_to_go() -> None:
    """If memory runs out the system shall take this process, which can be started again, and not the user's others."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123
        file.write("500")


def _serve(channel: Channel, engine: Engine, find: Callable[[str], Service], line: Line) -> None:
    from .engine import Refused, Stopped

    number = int(line.pop("id"))
    reply = Reply(channel.send, number)
    channel.begin(number)
    engine.log.forget()
    try:
        service = find(line.pop("do"))
        reply("done", **service(engine, reply, **line))
    except Stopped:
        reply("done", cancelled=True)
    except Refused as refused:
        reply("failed", reason=str(refused), kind=refused.kind)
    except MemoryError:
        reply("failed", reason="out of memory", kind="engine")
    except OSError as error:
        from ..files import is_full

        reply("failed", reason=error.strerror or str(error), kind="space" if is_full(error) else "engine")
    except Exception as error:
        import traceback

        traceback.print_exc()
        reply("failed", reason=f"{type(error).__name__}: {error}", kind="engine")
    channel.current = 0
