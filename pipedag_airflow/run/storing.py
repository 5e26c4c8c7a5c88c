"""What a task made is stored, together with the row that describes it, in one transaction.

Before anything is written it is checked that this run still holds the stage; and after it, as queries read when they
are stored, that what was read is still what is published. If another process has finished the task meanwhile, a zombie
or its retry, what that one stored stays.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import attrs

from pipedag_airflow.backend.metadata import ObjectRecord, TaskRecord, TaskState
from pipedag_airflow.cache.decision import Decision, Reason
from pipedag_airflow.core.values import dump_stored
from pipedag_airflow.run.copies import keep_copies
from pipedag_airflow.run.crash import crash_point
from pipedag_airflow.run.decide import duplicate_name, pending, reusable
from pipedag_airflow.run.emptied import check_rows, emptied_places, is_emptied
from pipedag_airflow.run.failures import failure_text
from pipedag_airflow.run.ground import check_inputs, check_open
from pipedag_airflow.run.outputs import Output, Prepared, renamed, store_output
from pipedag_airflow.run.replaced import drop_replaced
from pipedag_airflow.run.sources import tables_read, with_sources

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.core.task import Task
    from pipedag_airflow.run.session import RunSession
    from pipedag_airflow.run.snapshot import Snapshot

__all__ = ["record_failure", "store_result", "store_valid"]

log = logging.getLogger(__name__)


def store_result(
    session: RunSession,
    snapshot: Snapshot,
    task: Task,
    row: TaskRecord,
    prepared: Prepared,
    decision: Decision,
    started: float,
) -> tuple[TaskRecord, Decision]:
    """Store what a task's function returned.

    Args:
        session: The run.
        snapshot: What the step had read.
        task: The task.
        row: The row of the task, without its result.
        prepared: The result.
        decision: Why the task ran.
        started: When it started, by the monotonic clock.

    Returns:
        The row that stands now, and why: another node or another process may have made the same call meanwhile.

    Raises:
        GroundMovedError: if an input was published anew since the snapshot, or the generation was closed.
        CacheError: if a crash of the server has emptied an input.
        StaleRunError: if this run lost the stage.
        LockError: if it is not known whether it did.
        DuplicateNameError: if another task of the stage has a table of the same name.
    """
    crash_point("execute.before_store")
    session.confirm_lease(row.stage)
    objects: list[ObjectRecord] = []
    with session.store.transaction() as transaction:
        _lock(transaction, row, [output.name for output in prepared.outputs])
        transaction.metadata.check_fence(snapshot.stage, snapshot.generation.number)
        place = [(row.stage, row.generation)]
        rows = transaction.metadata.read_tasks(place, nodes=[row.node], memo_key=row.memo_key)
        standing = _with_rows(transaction, rows)
        done = _finished_meanwhile(standing, row)
        if done is not None:
            return done, Decision(True, Reason.VALID, "made by another process of this run meanwhile")
        check_open(transaction, snapshot)
        twin = None if decision.reason is Reason.FORCED else next(iter(_same_calls(standing, row)), None)
        emptied: list[TaskRecord] = []
        if twin is not None:
            decision = Decision(True, Reason.SAME_CALL, f"the same call as {twin.node}")
            row = _twin_row(row, twin, decision)
        else:
            # What a crash has emptied is made anew for all nodes of the call; all of it perhaps under other names.
            emptied = [other for other in _same_calls(rows, row) if other not in standing]
            replaced = {row.node, *(other.node for other in emptied)}
            drop_replaced(transaction, [other for other in rows if other.node in replaced])
            objects = _store_objects(session, transaction, snapshot, task, prepared.outputs)
            _check_names(transaction, snapshot, row, objects, replaced)
            output = dump_stored(prepared.value, f"Task {task.id!r}: result", session.classes)
            seconds = time.monotonic() - started
            row = attrs.evolve(row, objects=tuple(objects), output=output, seconds=seconds)
        again = Decision(True, Reason.SAME_CALL, f"the same call as {row.node}")
        transaction.metadata.write_tasks([row, *(_twin_row(other, row, again) for other in emptied)])
        check_inputs(transaction, snapshot)
        tables = tables_read(task, snapshot)
        check_rows(task, tables, emptied_places(transaction, tables), snapshot)
        crash_point("execute.stored")
    if objects:
        keep_copies(session, prepared.outputs, objects)
    return row, decision


def store_valid(
    session: RunSession, snapshot: Snapshot, row: TaskRecord, decision: Decision
) -> tuple[TaskRecord, Decision]:
    """Record a result that is stored already; raises like :func:`store_result`."""
    session.confirm_lease(row.stage)
    with session.store.transaction() as transaction:
        _lock(transaction, row, [stored.name for stored in row.objects])
        transaction.metadata.check_fence(snapshot.stage, snapshot.generation.number)
        rows = transaction.metadata.read_tasks([(row.stage, row.generation)], nodes=[row.node])
        done = _finished_meanwhile(_with_rows(transaction, rows), row)
        if done is not None:
            return done, decision
        check_open(transaction, snapshot)
        if row.twin is None:
            _check_names(transaction, snapshot, row, list(row.objects), {row.node})
        drop_replaced(transaction, [other for other in rows if other.node == row.node], [row])
        transaction.metadata.write_tasks([row])
        check_inputs(transaction, snapshot)
    return row, decision


def record_failure(session: RunSession, snapshot: Snapshot, task: Task, error: Exception) -> None:
    """Note in the metadata that a task failed; if even that fails, the task's own error matters more."""
    own = snapshot.own_row(task.id)
    failed = attrs.evolve(
        pending(session, snapshot, task, Decision(False, Reason.FIRST_RUN), None),
        state=TaskState.FAILED,
        reason="failed",
        detail=failure_text(error),
        cache_function_hash=None if own is None else own.cache_function_hash,
    )
    try:
        with session.store.transaction() as transaction:
            _lock(transaction, failed, ())
            transaction.metadata.check_fence(snapshot.stage, snapshot.generation.number)
            now = transaction.metadata.task_states(snapshot.stage, snapshot.generation.number).get(task.id)
            if now is None or not now.has_output:
                transaction.metadata.write_tasks([failed])
    except Exception as second:
        log.warning("%s: that it failed could not be recorded: %s", task.id, second)


def _lock(transaction: SQLTransaction, row: TaskRecord, names: Iterable[str]) -> None:
    """Let those wait who store the same meanwhile: a zombie of the task, a task of the same call or the same names."""
    place = f"{row.stage} {row.generation}"
    wanted = [f"task {row.node}", f"call {row.name} {row.memo_key}", *(f"name {name}" for name in names)]
    transaction.lock(*(f"{place} {name}" for name in wanted))


def _with_rows(transaction: SQLTransaction, rows: list[TaskRecord]) -> list[TaskRecord]:
    """Return the rows of tasks of whose tables a crash of the server has emptied none."""
    emptied = emptied_places(transaction, (stored for row in rows for stored in row.objects))
    return [row for row in rows if not any(is_emptied(stored, emptied) for stored in row.objects)]


def _finished_meanwhile(rows: list[TaskRecord], row: TaskRecord) -> TaskRecord | None:
    """Return the row of the same task that another process has stored, unless a user asked for this one since."""
    return next(
        (
            other
            for other in rows
            if other.node == row.node and other.state.has_output and other.revision >= row.revision
        ),
        None,
    )


def _same_calls(rows: list[TaskRecord], row: TaskRecord) -> list[TaskRecord]:
    """Return the rows of other nodes that made the same call in this generation."""
    call = (row.memo_key, row.name)
    return [
        other
        for other in rows
        if other.node != row.node and other.state.has_output and (other.memo_key, other.name) == call
    ]


def _twin_row(row: TaskRecord, twin: TaskRecord, decision: Decision) -> TaskRecord:
    return attrs.evolve(
        twin,
        node=row.node,
        position=row.position,
        state=TaskState.VALID,
        reason=decision.reason.value,
        detail=decision.detail,
        revision=row.revision,
        twin=twin.twin or twin.node,
    )


def _store_objects(
    session: RunSession,
    transaction: SQLTransaction,
    snapshot: Snapshot,
    task: Task,
    outputs: list[Output],
) -> list[ObjectRecord]:
    """Store the containers of a result; those of a lazy task whose query is unchanged are there already."""
    generation = snapshot.generation.number
    objects: list[ObjectRecord] = []
    for output in outputs:
        if output.stored:
            objects += output.stored
            continue
        found = reusable(output, snapshot) if task.unbound.lazy else None
        if found is None:
            made = store_output(session, transaction, task, output, generation)
            objects += [with_sources(stored, task, snapshot, objects) for stored in made]
        else:
            kept = renamed(output, found)
            objects += [attrs.evolve(stored, generation=generation, node=task.id) for stored in kept]
    return objects


def _check_names(
    transaction: SQLTransaction,
    snapshot: Snapshot,
    row: TaskRecord,
    objects: list[ObjectRecord],
    replaced: Collection[str],
) -> None:
    for kind in sorted({stored.kind for stored in objects}):
        named = {stored.name: stored for stored in objects if stored.kind is kind}
        owners = transaction.metadata.object_owners(snapshot.stage, snapshot.generation.number, kind, list(named))
        for name, owner in owners.items():
            if owner not in replaced:
                raise duplicate_name(named[name], owner, row.node)
