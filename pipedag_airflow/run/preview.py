"""What a run would do, without doing it: no stage is taken, no generation opened, no result stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipedag_airflow.run.deciding import decide_stage
from pipedag_airflow.run.inputs import check_unselected_inputs
from pipedag_airflow.run.snapshot import snapshot_ahead

if TYPE_CHECKING:
    from pipedag_airflow.cache.decision import Decision
    from pipedag_airflow.run.session import RunSession

__all__ = ["preview"]


def preview(session: RunSession) -> dict[str, Decision]:
    """Decide every selected task by what is published now.

    Cache functions are called, and those of lazy tasks whose inputs are all there, as the begin of a stage does. What
    reads something that would be made anew waits for it: the run itself would decide it then.

    Args:
        session: The run.

    Returns:
        The decisions by node id, in the order of the stages.

    Raises:
        CacheError: if something is read that the run does not select, and that is not published.
        PipedagError: if the metadata cannot be used.
    """
    decisions: dict[str, Decision] = {}
    for stage in session.plan.stages:
        tasks = session.selection.of(stage)
        if not tasks:
            continue
        with session.store.transaction() as transaction:
            snapshot = snapshot_ahead(session, transaction, stage.name, tasks)
            check_unselected_inputs(session, tasks, snapshot)
        snapshot.forget({node for node, decision in decisions.items() if not decision.valid})
        found, _ = decide_stage(session, snapshot, tasks)
        decisions |= found
    return decisions
