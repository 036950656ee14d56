"""The one exception family. The library raises a complete sentence, the CLI prints it and exits with `exit_code`.

A message names the thing, the requirement, what came instead, and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class ThaitoolError(Exception):
    """Base of everything that a user can be told about. Never raised itself."""

    exit_code = 1


class ConfigError(ThaitoolError):
    """An option, recipe key or value is wrong; the message lists all of them, with file and line."""

    exit_code = 2


class InputError(ThaitoolError):
    """Data, a model directory or an output directory is not what the stage needs.

    `rejected` are the `Rejected` for the ledger, where recordings that were set aside are the reason.
    """

    exit_code = 3

    def __init__(self, message: str, rejected: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.rejected = tuple(rejected)


class QuarantineError(InputError):
    """More input was unusable than the configured share allows."""

    exit_code = 4


class EnvironmentProblem(ThaitoolError):
    """The machine lacks something: a library, a kernel, a device, disk space."""

    exit_code = 5


class OpNotBuiltError(EnvironmentProblem):
    """No kernel of `thaitool.ops` for this device; the message gives the build command."""


class TrainingFailed(ThaitoolError):
    """Training cannot go on, or what was done differs from what was planned."""

    exit_code = 6


class Interrupted(ThaitoolError):
    """SIGINT or SIGTERM was handled: state is on disk and the run can be resumed."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
