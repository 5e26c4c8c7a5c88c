"""``abandon``: let a stage go without publishing it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipedag_airflow.backend.metadata import GenerationState

if TYPE_CHECKING:
    from pipedag_airflow.run.session import RunSession

__all__ = ["abandon"]


def abandon(session: RunSession, stage: str) -> None:
    """Close this run's open generation of a stage as abandoned and release the lease; idempotent.

    What readers see stays as it is. The schema of the generation stays too: for inspection, and because the next run
    takes over from it what is still valid.
    """
    with session.store.transaction() as transaction:
        newest = transaction.metadata.latest_generation(stage, session.run_id)
        if newest is not None and newest.state is GenerationState.OPEN:
            transaction.metadata.close_generation(stage, newest.number, GenerationState.ABANDONED)
    session.locks.release(stage, session.owner)
