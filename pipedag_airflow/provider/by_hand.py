"""What people do to single steps of a run: they clear some and mark others, and the rest stays as it is.

Airflow then runs only what was cleared, and takes what was marked at its word. So a step that finds itself alone sees
to it that nothing is shown as done which is not: it publishes what nobody else will, or fails and says what to clear.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from pipedag_airflow.errors import StageError
from pipedag_airflow.provider.dag_runs import OVER
from pipedag_airflow.run.abandon import abandon
from pipedag_airflow.run.deciding import FOUND_BY_BEGIN
from pipedag_airflow.run.publish import publish
from pipedag_airflow.run.release import FINISHED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow.sdk import DAG

    from pipedag_airflow.core.plan import Plan, PlanStage
    from pipedag_airflow.run.begin import StageReport
    from pipedag_airflow.run.session import RunSession

__all__ = ["publish_if_alone", "refuse_if_alone", "refuse_if_read", "refuse_marked"]

log = logging.getLogger(__name__)


def refuse_marked(session: RunSession, stages: Iterable[str], dag: DAG) -> None:
    """Refuse to begin stages if Airflow shows a commit before them as done, but the run has never published its stage.

    Args:
        session: The run.
        stages: Names of the stages that are to be begun.
        dag: The DAG.

    Raises:
        StageError: if that is so; the message names the stages before.
    """
    plan, selection = session.plan, session.selection
    names = set(stages)
    before = {
        name
        for stage in names
        for name in plan.stage_by_name[stage].reads
        if name in selection.stages and name not in names
        # Of stages that are nested into each other one is read while the other is open.
        if not plan.is_inside(stage, name) and not plan.is_inside(name, stage)
    }
    if not before:
        return
    with session.store.transaction() as transaction:
        generations = transaction.metadata.generations(run_id=session.run_id)
    finished = {record.stage for record in generations if record.state in FINISHED}
    marked = sorted(name for name in before - finished if selection.of(plan.stage_by_name[name]))
    if marked:
        read = ", ".join(map(repr, marked))
        raise StageError(
            f"{', '.join(map(repr, sorted(names)))} would read {read}, which this run has not published although "
            f"Airflow shows {', '.join(dict.fromkeys(_publisher(dag, plan, name) for name in marked))} as done: "
            "somebody has marked it. Readers see there what they saw before. Clear it, with all that follows; or, to "
            "go on with what is published, start a run that selects only what is to be made."
        )


def _publisher(dag: DAG, plan: Plan, stage: str) -> str:
    """Return the operator that publishes a stage: its commit, or the one that runs it, or a stage around it, whole."""
    names = (plan.stage_by_name[stage].commit, stage, *plan.enclosing(stage))
    # The DAG of a stage has nothing of the others.
    return next((name for name in names if dag.has_task(name)), names[-1])


def refuse_if_read(session: RunSession, stage: PlanStage, task: str, instance: Any) -> None:
    """Refuse to make a task anew in a stage that the run was over with, if its readers in the stage will not run.

    They would have been made from something else, so that the stage could not be published.

    Args:
        session: The run.
        stage: The stage.
        task: Id of the task.
        instance: The task instance of Airflow's.

    Raises:
        StageError: if there are such tasks; the message names them.
    """
    if stage.name not in session.selection.stages:
        return
    states = _states(stage, instance)
    inputs = {node: session.plan.node_by_id[node].inputs for node in stage.tasks}
    left = [node for node, read in inputs.items() if task in read and states.get(node) in OVER]
    if states.get(stage.commit) not in _DONE or not left:
        return
    if all(states.get(node) in OVER for node in stage.tasks if node != task):
        abandon(session, stage.name)
    raise StageError(
        f"Task {task!r} was cleared alone, but {', '.join(left)} of the same stage would still be what was made from "
        "its former result, and a stage is published as a whole. Nothing was made; readers see what they saw before. "
        "Clear it with all that follows."
    )


def publish_if_alone(session: RunSession, stage: PlanStage, task: str, instance: Any) -> None:
    """Publish a stage that the run was over with after a task of it was made anew, if no other step will do it.

    Args:
        session: The run.
        stage: The stage.
        task: Id of the task.
        instance: The task instance of Airflow's.

    Raises:
        StageError: if other tasks of the stage were made from what was made anew.
        PipedagError: what publishing raises.
    """
    if stage.name not in session.selection.stages:
        return
    states = _states(stage, instance)
    if states.get(stage.commit) not in _DONE:
        return
    left = [node for node in stage.tasks if node != task and states.get(node) not in OVER]
    waits_for = sorted(set(left) - _made(session, stage)) if left else []
    if waits_for:
        log.info("Stage %s: is published when %s is done, too", stage.name, ", ".join(waits_for))
        return
    log.info("Stage %s: its commit was not cleared with %s, so it is published here", stage.name, task)
    publish(session, stage.name)


def refuse_if_alone(session: RunSession, stage: PlanStage, report: StageReport, instance: Any) -> None:
    """Refuse to leave work to tasks that will not run: only the begin of a stage was cleared.

    Args:
        session: The run.
        stage: The stage.
        report: What its begin has found.
        instance: The task instance of Airflow's.

    Raises:
        StageError: if there is something to do that nobody will; the message says what to clear.
    """
    if report.closed:
        return
    states = _states(stage, instance)
    if states.get(stage.commit) not in _DONE:
        return
    left = [node for node, decision in report.decisions.items() if not decision.valid and states.get(node) in OVER]
    at_work = [node for node in stage.tasks if states.get(node) not in OVER]
    if left or not at_work:
        abandon(session, stage.name)
        raise StageError(
            f"Stage {stage.name!r} is not up to date: {', '.join(left) or stage.commit} would have to run, but was not "
            "cleared with this begin. Readers see what they saw before. Clear this begin with all that follows."
        )


#: How Airflow shows a commit that a user has not cleared.
_DONE = ("success", "skipped")


def _states(stage: PlanStage, instance: Any) -> dict[str, str | None]:
    nodes = [*stage.tasks, stage.commit]
    states = instance.get_task_states(instance.dag_id, task_ids=nodes, run_ids=[instance.run_id])
    found: dict[str, str | None] = states.get(instance.run_id, {})
    return found


def _made(session: RunSession, stage: PlanStage) -> set[str]:
    """Return the tasks that steps of their own have finished in the open generation, whether Airflow knows it or not.

    Of two that finish at once each may still be at work for Airflow; but the later one finds the other one's row.
    """
    with session.store.transaction() as transaction:
        newest = transaction.metadata.latest_generation(stage.name, session.run_id)
        rows = transaction.metadata.read_tasks([(stage.name, newest.number)]) if newest is not None else []
    return {row.node for row in rows if row.state.has_output and row.revision > FOUND_BY_BEGIN}
