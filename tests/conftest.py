"""What all tests need of the process they run in."""

from __future__ import annotations

import signal

# What starts the tests in the background (a shell, nohup) may have them ignore Ctrl-C and the end of a terminal, and
# with them the programs that they start: what has a handler here is at its default in those.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda _number, _frame: None)
