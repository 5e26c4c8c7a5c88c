"""When a run lets go of a stage.

A stage that is over is kept until all stages of the run that read it are over, too, so that what the run planned on
stays put. But a run that waits for a stage keeps nothing that is over: what it reads may change meanwhile, and each
step looks at that anyway. That is why runs never wait for each other in a circle, in whatever orders their flows have
the stages that they share:

    In a circle each run waits for a stage that the next one holds. That one waits, too, so what it holds is not over:
    the stage has been begun, and some of its tasks are left. They need nothing but the results of their own stage and
    of others that were over when it was begun. So whatever else the run waits for, they get done, the stage is over,
    and, as the run waits, it is let go at once. There is no circle that lasts.

That proof needs that what a run holds gets done while it waits. It does not where

* the stage that is waited for is nested in one that the run holds, or leads to one that is;
* a task of a stage that it holds has failed, or only parts of the stage are selected, so that it is never published;
* an open :class:`StageLockContext` keeps what is over.

Therefore who waits says which of its stages are so (:func:`kept_for`). Runs wait for each other for ever only
in a circle of stages that are kept like this (see ``backend.lock.circles``): then the run that was the last to wait
gives up, with a :class:`DeadlockError`. What it holds is free when it has ended, and one circle less is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipedag_airflow.backend.metadata import GenerationState
from pipedag_airflow.core.plan import NodeKind
from pipedag_airflow.run.lock_context import StageLockContext

if TYPE_CHECKING:
    from collections.abc import Collection

    from pipedag_airflow.run.session import RunSession

__all__ = ["FINISHED", "kept_for", "release_finished", "states_in"]

#: The states in which a stage needs nothing more from its run.
FINISHED = (GenerationState.PUBLISHED, GenerationState.UNCHANGED)


def states_in(session: RunSession) -> dict[str, GenerationState]:
    """Return the state of the newest generation of each stage that a run has begun, by the names of the stages."""
    with session.store.transaction() as transaction:
        return {record.stage: record.state for record in transaction.metadata.generations(run_id=session.run_id)}


def release_finished(session: RunSession) -> set[str]:
    """Release the leases of all stages that are over, but not of those that unfinished ones read, unless the run waits.

    Of a stage that is selected in part nothing is published: it is over once its generation is closed. An open
    :class:`StageLockContext` keeps all of them.

    Until then what the run planned on stays put.

    Returns:
        The names of the stages that the run has begun and keeps.
    """
    newest = states_in(session)
    if session.keeps_stages:
        return set(newest)
    stages = session.plan.stages
    over = {stage for stage, state in newest.items() if state in FINISHED}
    over |= {
        stage.name
        for stage in stages
        if session.selection.is_unpublished(stage) and newest.get(stage.name) is GenerationState.ABANDONED
    }
    # A stage of which nothing runs is never begun.
    over |= {stage.name for stage in stages if not session.selection.of(stage)}
    read = {stage for stage in over if not over.issuperset(session.plan.readers[stage])}
    if read and session.locks.waits_for(session.run_id):
        read.clear()
    for stage in over - read:
        session.locks.release(stage, session.owner)
    return set(newest) - (over - read)


def kept_for(session: RunSession, stage: str, still: Collection[str]) -> tuple[str, ...]:
    """Let go of what the run is done with, and return what it keeps until it has had a stage that it waits for.

    Args:
        session: The run.
        stage: Name of the stage that it waits for.
        still: Names of the stages whose steps wait with it, whatever they need, because one process does them all.

    Returns:
        The names of the stages that it keeps, sorted.
    """
    kept = release_finished(session) & (_held_up(session, stage) | set(still))
    if StageLockContext.is_open():
        kept |= {lease.stage for lease in session.locks.leases() if StageLockContext.has_ended(lease)}
    return tuple(sorted(kept - {stage}))


def _held_up(session: RunSession, stage: str) -> set[str]:
    """Return the stages that cannot be over before a stage is begun."""
    late: set[str] = set()
    for node in session.plan.nodes:
        if node.kind is NodeKind.TASK and node.id not in session.selection.tasks:
            continue  # it is skipped, and waits for nothing
        if node.stage == stage or not late.isdisjoint(node.upstream):
            late.add(node.id)
    return {node.stage for node in session.plan.nodes if node.kind is NodeKind.COMMIT and node.id in late}
