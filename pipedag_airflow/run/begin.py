"""``begin``: take the stage, open a generation, decide every task that can be decided."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.backend.metadata import GenerationRecord, GenerationState, TaskRecord
from pipedag_airflow.cache.decision import Decision, Identity, Reason
from pipedag_airflow.run.crash import crash_point
from pipedag_airflow.run.decide import carried, decide, identity_of, input_hash_of, pending
from pipedag_airflow.run.inputs import reads_open, resolve_arguments
from pipedag_airflow.run.lazy import decide_lazy_ahead
from pipedag_airflow.run.release import FINISHED, release_finished
from pipedag_airflow.run.snapshot import Snapshot, take_snapshot
from pipedag_airflow.run.unchanged import is_unchanged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.core.task import Task
    from pipedag_airflow.run.session import RunSession

__all__ = ["StageReport", "begin", "open_stage"]

log = logging.getLogger(__name__)

#: The revision of what begin found valid: less than any that a step of the task's own can have.
FOUND_BY_BEGIN = -1


@attrs.frozen
class StageReport:
    """What begin found.

    Args:
        stage: Name of the stage.
        generation: Number of the generation that was opened.
        decisions: The decision on each task, by node id.
        closed: Whether everything was valid, so that the stage is over already.
        values: The results of the valid tasks, by node id; descriptors for tables.
        also_over: Stages around this one that had only been waiting for it: their commits have nothing to do either.
    """

    stage: str
    generation: int
    decisions: Mapping[str, Decision]
    closed: bool
    values: Mapping[str, Any]
    also_over: tuple[str, ...] = ()

    @property
    def valid(self) -> list[str]:
        """Ids of the valid tasks, in plan order."""
        return [node for node, decision in self.decisions.items() if decision.valid]


def begin(session: RunSession, stage: str, *, close: bool = True) -> StageReport:
    """Begin a stage: afterwards its valid tasks have their results, and the others may run.

    Idempotent: a second call of the same run keeps the open generation and what was made in it.

    Args:
        session: The run.
        stage: Name of the stage.
        close: Whether a stage of which everything is valid is over.

    Raises:
        StageBusyError: if another run holds the stage.
        FlowChangedError: if the flow was changed since the run began.
        PipedagError: if the metadata cannot be used.
    """
    with session.holding(stage):
        tasks = session.plan.stage_by_name[stage].tasks
        with session.store.transaction() as transaction:
            snapshot = open_stage(session, transaction, stage, tasks)
        crash_point("begin.opened")
        decisions, rows = _decide_stage(session, snapshot, tasks)
        closed = close and bool(tasks) and is_unchanged(rows, snapshot)
        with session.store.transaction() as transaction:
            transaction.metadata.check_fence(stage, snapshot.generation.number)
            also_over: tuple[str, ...] = ()
            if closed:
                transaction.metadata.close_generation(stage, snapshot.generation.number, GenerationState.UNCHANGED)
                also_over = _enclosing_over(session, transaction, stage)
            else:
                _write_decisions(transaction, snapshot, rows)
            crash_point("begin.decided")
    for node, decision in decisions.items():
        log.info("%s: %s", node, decision)
    if closed:
        log.info("Stage %s: everything is valid, generation %s stays", stage, snapshot.live)
        release_finished(session)
    shown = snapshot.live_rows() if closed else rows
    values = {node: snapshot.value(row) for node, row in shown.items() if row.state.has_output}
    return StageReport(stage, snapshot.generation.number, decisions, closed, values, also_over)


def _enclosing_over(session: RunSession, transaction: SQLTransaction, stage: str) -> tuple[str, ...]:
    """Return the stages around a stage that are over now that it is: they are closed, and so is all that is in them."""
    newest = {record.stage: record for record in transaction.metadata.generations(run_id=session.run_id)}
    unfinished = {
        other.name
        for other in session.plan.stages
        if other.tasks and (other.name not in newest or newest[other.name].state not in FINISHED)
    }
    return tuple(
        outer
        for outer in session.plan.enclosing(stage)
        if outer not in unfinished and not any(session.plan.is_inside(name, outer) for name in unfinished)
    )


def _write_decisions(transaction: SQLTransaction, snapshot: Snapshot, rows: Mapping[str, TaskRecord]) -> None:
    """Record the decisions, but leave alone what tasks of the stage have recorded since the snapshot."""
    number = snapshot.generation.number
    now = transaction.metadata.task_states(snapshot.stage, number)
    transaction.metadata.write_tasks([row for node, row in rows.items() if now.get(node) == snapshot.states.get(node)])


def open_stage(session: RunSession, transaction: SQLTransaction, stage: str, nodes: tuple[str, ...]) -> Snapshot:
    """Return a snapshot in which this run has a generation of the stage open; it is opened if need be."""
    metadata = transaction.metadata
    metadata.note_run(session.run_id, session.plan, session.engine)
    newest = metadata.latest_generation(stage)
    own = newest if newest is not None and newest.run_id == session.run_id else None
    if own is None and newest is not None and not session.locks.guards:
        _refuse_if_taken_over(session, transaction, newest)
    if own is None or own.state is not GenerationState.OPEN:
        holder = f"{session.owner.host}, process {session.owner.pid or 'of each step'}"
        own = metadata.open_generation(stage, session.run_id, holder)
        log.info("Stage %s: opened generation %s", stage, own.number)
    return take_snapshot(session, transaction, stage, nodes)


def _refuse_if_taken_over(session: RunSession, transaction: SQLTransaction, newest: GenerationRecord) -> None:
    """Without a lock nothing but the metadata tells a run that another one has taken its stage: do not take it back."""
    own = transaction.metadata.latest_generation(newest.stage, session.run_id)
    if own is not None and own.state is GenerationState.ABANDONED and newest.state is GenerationState.OPEN:
        transaction.metadata.check_fence(newest.stage, own.number)


def _decide_stage(
    session: RunSession, snapshot: Snapshot, tasks: tuple[str, ...]
) -> tuple[dict[str, Decision], dict[str, TaskRecord]]:
    """Decide the tasks of a stage in plan order; what is found valid is an input of the next ones."""
    decisions: dict[str, Decision] = {}
    rows: dict[str, TaskRecord] = {}
    for node in tasks:
        task = session.flow.tasks[node]
        own = snapshot.own_row(node)
        decision, identity, row = _decide_task(session, task, snapshot)
        if row is None:
            row = pending(session, snapshot, task, decision, identity)
            # What this run made before stays hidden until the task's own step has looked at it again.
            snapshot.hide(node)
        elif row is not own:
            row = attrs.evolve(row, revision=FOUND_BY_BEGIN)
            snapshot.add(row)
        decisions[node], rows[node] = decision, row
    return decisions, rows


def _decide_task(
    session: RunSession, task: Task, snapshot: Snapshot
) -> tuple[Decision, Identity | None, TaskRecord | None]:
    missing = [source for source in task.inputs if _is_unsettled(session, task, source, snapshot)]
    if missing:
        names = ", ".join(source.id for source in missing)
        return Decision(False, Reason.INPUTS_OPEN, f"waits for {names}"), None, None
    arguments = resolve_arguments(task, snapshot)
    own = snapshot.own_row(task.id)
    if own is not None and own.state.has_output and own.input_hash == input_hash_of(session, task, arguments):
        return Decision(True, Reason.VALID, "made earlier in this run"), None, own
    identity = identity_of(session, task, arguments, snapshot)
    decision, found = decide(session, task, identity, snapshot)
    if decision is None:
        seconds = session.config.begin_query_seconds
        decision, row = decide_lazy_ahead(session, task, arguments, identity, snapshot, seconds)
        return decision, identity, row
    if found is None:
        return decision, identity, None
    return decision, identity, carried(found, snapshot, task, decision, reads_open(task, snapshot))


def _is_unsettled(session: RunSession, task: Task, source: Task, snapshot: Snapshot) -> bool:
    """Say whether a result is not there yet, or may still change: a nested stage runs within the one that reads it."""
    nested = session.plan.is_inside(source.stage.name, task.stage.name)
    return nested or snapshot.output_row(source.id) is None
