"""When a run lets go of a stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipedag_airflow.backend.metadata import GenerationState

if TYPE_CHECKING:
    from pipedag_airflow.run.session import RunSession

__all__ = ["FINISHED", "release_finished"]

#: The states in which a stage needs nothing more from its run.
FINISHED = (GenerationState.PUBLISHED, GenerationState.UNCHANGED)


def release_finished(session: RunSession) -> None:
    """Release the leases of all stages that are over and that no unfinished stage of the run reads.

    Until then what the run planned on stays put.
    """
    with session.store.transaction() as transaction:
        newest = {record.stage: record.state for record in transaction.metadata.generations(run_id=session.run_id)}
    over = {stage for stage, state in newest.items() if state in FINISHED}
    # A stage without tasks of its own is never begun.
    over |= {stage.name for stage in session.plan.stages if not stage.tasks}
    for stage in session.plan.stages:
        if stage.name in over and over.issuperset(session.plan.readers[stage.name]):
            session.locks.release(stage.name, session.owner)
