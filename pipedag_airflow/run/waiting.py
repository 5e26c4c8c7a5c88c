"""What a run does that has to wait for a stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipedag_airflow.backend.lock.lease import how_to_free
from pipedag_airflow.errors import DeadlockError, StageBusyError
from pipedag_airflow.run.release import kept_for

if TYPE_CHECKING:
    from collections.abc import Collection

    from pipedag_airflow.backend.lock import Place
    from pipedag_airflow.run.session import RunSession

__all__ = ["wait_for"]


def wait_for(
    session: RunSession, stage: str, busy: StageBusyError, *, still: Collection[str] = (), since: float | None = None
) -> Place:
    """Keep a place in the queue for a stage, and let go of what the run is done with; to be called after each refusal.

    Args:
        session: The run.
        stage: Name of the stage.
        busy: The refusal.
        still: Names of the stages whose steps wait with it, whatever they need, because one process does them all.
        since: When the waiting began, if the run knows it.

    Returns:
        The place.

    Raises:
        StageBusyError: if the run has waited for ``wait_seconds``.
        DeadlockError: if runs wait for each other in a circle, and this one is to give up.
    """
    keeps = kept_for(session, stage, still)
    place = session.locks.wait(stage, session.owner, since=since, keeps=keeps)
    if place.deadlock is not None:
        session.locks.withdraw(stage, session.owner)
        raise DeadlockError(
            f"Run {session.run_id} can never have stage {stage!r}, for runs wait for each other in a circle: "
            f"{place.deadlock}. Each keeps what it has until it has had what it waits for. The run that began to wait "
            "last gives up, so that the others go on: this one. What it has finished is kept for the next run; start "
            "that when they are over. So that it does not happen again, have these flows nest (or, in a "
            "StageLockContext, run) the stages that they share in one order, or run one after the other. "
            f"{how_to_free(stage)}"
        ) from busy
    waited = session.locks.now() - place.since
    if 0 < session.config.wait_seconds <= waited:
        session.locks.withdraw(stage, session.owner)
        raise StageBusyError(
            f"Given up after {waited:.0f} s of waiting, for more than wait_seconds: {session.config.wait_seconds:g} of "
            f"the configuration. {busy}"
        ) from busy
    return place
