"""``begin``: take the stage, open a generation, decide every task that can be decided."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.backend.metadata import GenerationRecord, GenerationState, TaskRecord
from pipedag_airflow.run.crash import crash_point
from pipedag_airflow.run.deciding import decide_stage
from pipedag_airflow.run.ground import GroundMovedError, check_open
from pipedag_airflow.run.inputs import check_unselected_inputs
from pipedag_airflow.run.release import FINISHED, release_finished
from pipedag_airflow.run.replaced import drop_replaced
from pipedag_airflow.run.snapshot import Snapshot, take_snapshot
from pipedag_airflow.run.unchanged import is_unchanged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.cache.decision import Decision
    from pipedag_airflow.run.session import RunSession

__all__ = ["StageReport", "begin", "open_stage"]

log = logging.getLogger(__name__)


@attrs.frozen
class StageReport:
    """What begin found.

    Args:
        stage: Name of the stage.
        generation: Number of the generation that was opened.
        decisions: The decision on each selected task, by node id.
        closed: Whether everything was valid, so that the stage is over already.
        rows: The rows of the valid tasks, by node id.
        values: Their results, likewise; descriptors for tables.
        live: The generation that readers see.
        also_over: Stages around this one that had only been waiting for it: their commits have nothing to do either.
        snapshot: What a step would read now; None if the stage is over.
    """

    stage: str
    generation: int
    decisions: Mapping[str, Decision]
    closed: bool
    rows: Mapping[str, TaskRecord] = attrs.field(repr=False)
    values: Mapping[str, Any]
    live: int | None = None
    also_over: tuple[str, ...] = ()
    snapshot: Snapshot | None = attrs.field(default=None, repr=False, eq=False)

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
        LockError: if it is not known whether this run still does when all is decided.
        CacheError: if something is read that the run does not select, and that is not published.
        FlowChangedError: if the flow was changed since the run began.
        PipedagError: if the metadata cannot be used.
    """
    while True:
        try:
            return _begin(session, stage, close)
        except GroundMovedError as moved:
            log.info("Stage %s: %s; deciding anew", stage, moved)


def _begin(session: RunSession, stage: str, close: bool) -> StageReport:
    with session.holding(stage):
        tasks = session.selection.of(session.plan.stage_by_name[stage])
        with session.store.transaction() as transaction:
            snapshot = open_stage(session, transaction, stage, tasks)
            check_unselected_inputs(session, tasks, snapshot)
        crash_point("begin.opened")
        decisions, rows = decide_stage(session, snapshot, tasks)
        closed = close and bool(tasks) and is_unchanged(rows, snapshot)
        session.confirm_lease(stage)
        with session.store.transaction() as transaction:
            transaction.metadata.check_fence(stage, snapshot.generation.number, alone=True)
            check_open(transaction, snapshot)
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
    valid = {node: row for node, row in shown.items() if row.state.has_output}
    values = {node: snapshot.value(row) for node, row in valid.items()}
    now = None if closed else snapshot.with_rows(rows.values())
    return StageReport(
        stage, snapshot.generation.number, decisions, closed, valid, values, snapshot.live, also_over, now
    )


def _enclosing_over(session: RunSession, transaction: SQLTransaction, stage: str) -> tuple[str, ...]:
    """Return the stages around a stage that are over now that it is: they are closed, and so is all that is in them."""
    newest = {record.stage: record for record in transaction.metadata.generations(run_id=session.run_id)}
    unfinished = {
        other.name
        for other in session.plan.stages
        if session.selection.of(other) and (other.name not in newest or newest[other.name].state not in FINISHED)
    }
    return tuple(
        outer
        for outer in session.plan.enclosing(stage)
        if outer not in unfinished and not any(session.plan.is_inside(name, outer) for name in unfinished)
    )


def _write_decisions(transaction: SQLTransaction, snapshot: Snapshot, rows: Mapping[str, TaskRecord]) -> None:
    """Record the decisions, but leave alone what tasks of the stage have recorded since the snapshot.

    What they had made in this generation goes with the rows that described it.
    """
    stage, number = snapshot.stage, snapshot.generation.number
    now = transaction.metadata.task_states(stage, number)
    decided = [row for node, row in rows.items() if now.get(node) == snapshot.states.get(node)]
    replaced = [row.node for row in decided if row.node in now and now[row.node].has_output]
    if replaced:
        earlier = transaction.metadata.read_tasks([(stage, number)], nodes=replaced)
        drop_replaced(transaction, earlier, rows.values())
    transaction.metadata.write_tasks(decided)


def open_stage(session: RunSession, transaction: SQLTransaction, stage: str, nodes: tuple[str, ...]) -> Snapshot:
    """Return a snapshot in which this run has a generation of the stage open; it is opened if need be."""
    metadata = transaction.metadata
    begins = metadata.note_run(session.run_id, session.plan, session.engine)
    if begins and session.locks.warning is not None:
        log.warning("%s", session.locks.warning)
    newest = metadata.latest_generation(stage)
    if not _is_open(session, newest):
        transaction.lock(f"opening of {stage}")
        newest = metadata.latest_generation(stage)
    own = newest if newest is not None and newest.run_id == session.run_id else None
    if own is None and newest is not None and not session.locks.guards:
        _refuse_if_taken_over(session, transaction, newest)
    if not _is_open(session, newest):
        holder = f"{session.owner.host}, process {session.owner.pid or 'of each step'}"
        above = transaction.highest_generation(stage) if newest is None else 0
        if above:
            left = session.store.generation_schema(stage, above)
            log.warning("Stage %s: the metadata know nothing of %s or older; drop what nobody reads", stage, left)
        opened = metadata.open_generation(stage, session.run_id, holder, above=above)
        log.info("Stage %s: opened generation %s", stage, opened.number)
    return take_snapshot(session, transaction, stage, nodes)


def _is_open(session: RunSession, newest: GenerationRecord | None) -> bool:
    """Say whether the newest generation of a stage is this run's, and still open."""
    return newest is not None and newest.run_id == session.run_id and newest.state is GenerationState.OPEN


def _refuse_if_taken_over(session: RunSession, transaction: SQLTransaction, newest: GenerationRecord) -> None:
    """Without a lock nothing but the metadata tells a run that another one has taken its stage: do not take it back."""
    own = transaction.metadata.latest_generation(newest.stage, session.run_id)
    if own is not None and own.state is GenerationState.ABANDONED and newest.state is GenerationState.OPEN:
        transaction.metadata.check_fence(newest.stage, own.number)
