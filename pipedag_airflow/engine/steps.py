"""A step of a run in another thread, process or machine: what goes there, and what comes back.

What goes there says where things are found, and holds as little as it can: the flow by the name of its module, the
configuration by its file. What comes back is a decision or an error. Results travel through the store.
"""

from __future__ import annotations

import pickle
import traceback
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.engine.parcel import packed, unpacked
from pipedag_airflow.errors import RunError
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.failures import failure_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipedag_airflow.cache.decision import Decision
    from pipedag_airflow.run.session import RunSession

__all__ = ["StepEnd", "TravellingRun", "execute_step"]


class TravellingRun:
    """A run that steps elsewhere take part in.

    In the process that made it, it is the run itself. A copy of it in another process imports the flow and reads the
    configuration there, when a step asks for the run, and keeps both for the next step.

    Args:
        session: The run.
    """

    def __init__(self, session: RunSession) -> None:
        self._session: RunSession | None = session
        self._parcel: bytes | None = None

    @property
    def session(self) -> RunSession:
        """The run, as this process sees it.

        Raises:
            FlowError: if the module of the flow cannot be imported in this process.
            ConfigError: if the configuration cannot be read in this process.
        """
        if self._session is None:
            assert self._parcel is not None
            self._session = _session_of(self._parcel)
        return self._session

    def __getstate__(self) -> dict[str, Any]:
        if self._parcel is None:
            assert self._session is not None
            self._parcel = packed(self._session)
        return {"_session": None, "_parcel": self._parcel}


@lru_cache(maxsize=1)
def _session_of(parcel: bytes) -> RunSession:
    """Return the run of a parcel: the same for all of its steps that this process executes."""
    return unpacked(parcel)


@attrs.frozen
class StepEnd:
    """How the step of a task ended: with a decision, or with an error.

    Args:
        decision: Why the task ran, or why it is valid.
        error: What it failed with; as it is in the process where it was raised, and in others as far as it can be
            pickled.
    """

    decision: Decision | None = None
    # Orchestrators log what a step returns, and the text of an error is the user's own.
    error: Exception | None = attrs.field(default=None, repr=False)

    def __reduce__(self) -> tuple[Callable[..., StepEnd], tuple[Any, ...]]:
        if self.error is None:
            return StepEnd, (self.decision,)
        return _failed, _portable(self.error)


def execute_step(run: TravellingRun, node: str) -> StepEnd:
    """Execute a task, wherever this is; it never raises an ``Exception``.

    Args:
        run: The run.
        node: Id of the task.

    Returns:
        How it ended.
    """
    try:
        return StepEnd(execute(run.session, node).decision)
    except Exception as error:
        return StepEnd(error=error)


def _portable(error: Exception) -> tuple[bytes | None, str, str]:
    """Return an error for other processes: pickled if it survives that, its text, and where it was raised."""
    import cloudpickle

    told = "".join(traceback.format_exception(error))
    try:
        data: bytes = cloudpickle.dumps(error)
        survives = type(pickle.loads(data)) is type(error)  # noqa: S301 - our own bytes
    except Exception:  # whatever a class of the user's does when it is copied
        survives = False
    return data if survives else None, failure_text(error), told


def _failed(data: bytes | None, text: str, told: str) -> StepEnd:
    if data is None:
        error: Exception = RunError(f"{text} (Its own exception cannot be pickled, and stayed in its process.)")
    else:
        error = pickle.loads(data)  # noqa: S301 - from a worker of this run
    error.add_note(f"In the process that executed the task:\n{told}")
    return StepEnd(error=error)
