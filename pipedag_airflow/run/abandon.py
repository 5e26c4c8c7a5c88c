"""``abandon`` and ``set_aside``: a stage ends without being published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipedag_airflow.backend.metadata import GenerationState
from pipedag_airflow.run.release import release_finished

if TYPE_CHECKING:
    from pipedag_airflow.run.session import RunSession

__all__ = ["abandon", "set_aside"]


def abandon(session: RunSession, stage: str) -> None:
    """Close this run's open generation of a stage as abandoned and release the lease; idempotent.

    What readers see stays as it is. The schema of the generation stays too: for inspection, and because the next run
    takes over from it what is still valid.
    """
    _close(session, stage)
    session.locks.release(stage, session.owner)


def set_aside(session: RunSession, stage: str) -> None:
    """Close this run's open generation of a stage that is selected in part; idempotent.

    Other stages of the run still read from it what they select, so the lease is kept as that of a published stage is.
    """
    _close(session, stage)
    release_finished(session)


def _close(session: RunSession, stage: str) -> None:
    with session.store.transaction() as transaction:
        newest = transaction.metadata.latest_generation(stage, session.run_id)
        if newest is not None and newest.state is GenerationState.OPEN:
            transaction.metadata.close_generation(stage, newest.number, GenerationState.ABANDONED)
