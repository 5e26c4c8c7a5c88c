"""What is kept of an exception in the metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipedag_airflow.config.known_secrets import without_secrets
from pipedag_airflow.errors import RunError

if TYPE_CHECKING:
    from pipedag_airflow.core.task import Task

__all__ = ["exit_as_failure", "failure_text"]

_LENGTH = 2000


def failure_text(error: BaseException) -> str:
    """Return the class and message of an exception, without secrets and not at any length."""
    return without_secrets(f"{type(error).__name__}: {error}")[:_LENGTH]


def exit_as_failure(task: Task, error: SystemExit) -> RunError:
    """Return what an exit in the code of a task means: the process is not its own, and other tasks may follow in it."""
    return RunError(
        f"Task {task.id!r} has no result, because its function, or its cache function, has called "
        f"sys.exit({'' if error.code is None else repr(error.code)}). Return a result, or raise an exception that says "
        "what is wrong."
    )
