"""What can go wrong, as one clear sentence each, with the exit code that scripts rely on."""

from __future__ import annotations


class QuantdeckError(Exception):
    """A failure that the user should read: one sentence that says what is wrong and what to do."""

    exit_code = 1


class BadArgument(QuantdeckError):
    """Something was asked for that makes no sense, or that is not there to be asked for."""

    exit_code = 2


class ModelNotFound(QuantdeckError):
    """There is no model where one was named."""

    exit_code = 3


class AuthenticationNeeded(QuantdeckError):
    """A gated or private repository, and no token that opens it."""

    exit_code = 4


class NotEnoughMemory(QuantdeckError):
    """It does not fit into memory."""

    exit_code = 5


class ValidationFailed(QuantdeckError):
    """A file is damaged, hostile, or not what it says it is."""

    exit_code = 6


class ResumeFailed(QuantdeckError):
    """A job cannot go on from where it stopped."""

    exit_code = 7
