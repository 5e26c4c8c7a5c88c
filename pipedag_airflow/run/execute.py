"""``execute``: decide a task if begin could not, else call its function and store what it returns."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.backend.metadata import ObjectKind, ObjectRecord, TaskRecord, TaskState
from pipedag_airflow.cache.decision import Decision, Identity, Reason
from pipedag_airflow.errors import CacheError, RunError
from pipedag_airflow.run.begin import begin, open_stage
from pipedag_airflow.run.call import call_function
from pipedag_airflow.run.decide import carried, decide, identity_of, identity_to_make, pending, task_hash_for
from pipedag_airflow.run.emptied import check_rows
from pipedag_airflow.run.failures import exit_as_failure
from pipedag_airflow.run.ground import GroundMovedError, inputs_moved
from pipedag_airflow.run.inputs import (
    load_arguments,
    missing_inputs,
    needs_no_data,
    reads_open,
    resolve_arguments,
)
from pipedag_airflow.run.lazy import reuse_all, valid_row, why_lazy_runs
from pipedag_airflow.run.materializing import Materializer
from pipedag_airflow.run.outputs import prepare
from pipedag_airflow.run.snapshot import Snapshot
from pipedag_airflow.run.sources import tables_read
from pipedag_airflow.run.storing import record_failure, store_result, store_valid
from pipedag_airflow.run.versions import say_what_readers_see

if TYPE_CHECKING:
    from pipedag_airflow.core.task import Task
    from pipedag_airflow.run.session import RunSession
    from pipedag_airflow.run.snapshot import Snapshot

__all__ = ["TaskReport", "execute"]

log = logging.getLogger(__name__)

#: How often a task starts over because one of its inputs, or its stage, was published meanwhile.
_ATTEMPTS = 3


@attrs.frozen
class TaskReport:
    """What became of a task.

    Args:
        node: Id of the task.
        decision: Why it ran, or why it is valid.
        value: Its result; descriptors for tables.
        tables: Its tables: name, schema, rows.
        seconds: How long its function and storing took; None if neither was needed.
        reopened: Whether the run had been over with the stage before.
    """

    node: str
    decision: Decision
    value: Any
    tables: tuple[tuple[str, str, int], ...]
    seconds: float | None
    reopened: bool = False


def execute(session: RunSession, node: str, *, revision: int = 0, known: Snapshot | None = None) -> TaskReport:
    """Execute a task within the open generation of its stage; the generation is opened if this run has none open.

    Idempotent: when the task was finished in this generation before, its result is returned.

    Args:
        session: The run.
        node: Id of the task.
        revision: Grows each time that a user asks to build the task anew; a finished task is built again only then. No
            engine executes what begin found valid: if it is executed all the same, a user has asked for it.
        known: What this process knows of the stage since its begin, in place of another look; what is made is added.
            None, unless nothing was begun or published since. If it is outdated all the same, the task is decided anew.

    Raises:
        CacheError: if an input was not made.
        StaleRunError: if this run lost the stage.
        Exception: what the task's function raises.
    """
    task = session.flow.tasks[node]
    with session.holding(task.stage.name):
        for _ in range(_ATTEMPTS):
            try:
                report, row = _attempt(session, task, revision, known)
            except GroundMovedError as moved:
                log.info("%s: %s; deciding anew", node, moved)
                known = None
            else:
                if known is not None:
                    known.add_made(row)
                session.watcher.made(session, row)
                _log(report)
                return report
    raise RunError(
        f"Task {node!r} was computed {_ATTEMPTS} times, and each time its inputs or its stage were published "
        "meanwhile. Let the flows that share these stages run one after the other."
    )


def _look(session: RunSession, task: Task) -> Snapshot:
    with session.store.transaction() as transaction:
        snapshot = open_stage(session, transaction, task.stage.name, (task.id,))
        session.watcher.opened(task, snapshot, transaction)
    if task.id not in snapshot.states:
        # The run was over with the stage, and the user has cleared tasks, but not its begin.
        begin(session, task.stage.name, close=False)
        with session.store.transaction() as transaction:
            snapshot = open_stage(session, transaction, task.stage.name, (task.id,))
        if snapshot.reopened:
            log.info(
                "Stage %s: this run was over with it. It is open again, as generation %s, for %s; what is valid in "
                "generation %s, which readers see, is taken over",
                snapshot.stage,
                snapshot.generation.number,
                task.id,
                snapshot.live,
            )
    return snapshot


def _attempt(session: RunSession, task: Task, revision: int, known: Snapshot | None) -> tuple[TaskReport, TaskRecord]:
    snapshot = _look(session, task) if known is None or missing_inputs(task, known) else known
    if snapshot.reopened:
        session.watcher.reopened(task, snapshot)
    missing = missing_inputs(task, snapshot)
    if missing:
        raise CacheError(
            f"Task {task.id!r} reads {', '.join(map(repr, missing))}, which this run has not made. Run it first (in "
            "Airflow: clear it too)."
        )
    arguments = resolve_arguments(task, snapshot)
    session.watcher.reads(snapshot, arguments)
    own = snapshot.own_row(task.id)
    forced = own is not None and own.state.has_output and revision > own.revision
    if own is not None and own.state.has_output and not forced and snapshot.has_rows(own):
        return _reported(snapshot, own, Decision(True, Reason.VALID, "made earlier in this run"))
    return _run(session, task, arguments, snapshot, revision, forced=forced)


def _run(
    session: RunSession, task: Task, arguments: dict[str, Any], snapshot: Snapshot, revision: int, *, forced: bool
) -> tuple[TaskReport, TaskRecord]:
    """Decide and make a task; whatever fails, the user's cache function included, is a failure of the task."""
    materializer = Materializer(session, task, snapshot)
    objects: tuple[ObjectRecord, ...] = ()
    try:
        row, decision = _decide_or_make(materializer, arguments, revision, forced=forced)
        objects = row.objects
    except GroundMovedError:
        raise
    except (Exception, SystemExit) as error:
        moved = inputs_moved(session, snapshot)
        if moved is not None:
            raise moved from error
        failure = exit_as_failure(task, error) if isinstance(error, SystemExit) else error
        say_what_readers_see(task, snapshot)
        record_failure(session, snapshot, task, failure)
        if failure is not error:
            raise failure from error
        raise
    finally:
        materializer.drop_unless_in(objects)
    return _reported(snapshot, row, decision)


def _decide_or_make(
    materializer: Materializer, arguments: dict[str, Any], revision: int, *, forced: bool
) -> tuple[TaskRecord, Decision]:
    session, task, snapshot = materializer.session, materializer.task, materializer.snapshot
    identity = identity_of(session, task, arguments, snapshot)
    decision: Decision | None = Decision(False, Reason.FORCED, "built anew on request")
    if not forced:
        decision, found = decide(session, task, identity, snapshot)
        if found is not None:
            assert decision is not None
            row = carried(found, snapshot, task, decision, reads_open(task, snapshot))
            return store_valid(session, snapshot, attrs.evolve(row, revision=revision), decision)
    return _make(materializer, identity, arguments, decision, revision, time.monotonic())


def _make(
    materializer: Materializer,
    identity: Identity,
    arguments: dict[str, Any],
    decision: Decision | None,
    revision: int,
    started: float,
) -> tuple[TaskRecord, Decision]:
    """Call the function; store what it returns, unless that turns out to be stored already."""
    session, task, snapshot = materializer.session, materializer.task, materializer.snapshot
    number = snapshot.generation.number
    if decision is not None:
        identity = identity_to_make(session, task, arguments, identity, decision)
    task_hash = task_hash_for(task, identity, snapshot, decision)
    materializer.begin_call(task_hash)
    if not task.unbound.lazy or not needs_no_data(task, arguments):  # else the query alone may show that it is valid
        check_rows(task, tables_read(task, snapshot), snapshot.inventory.emptied, snapshot)
    loaded = load_arguments(session, task, arguments, snapshot)
    result = call_function(session, task, loaded, snapshot.open_generations, materializer)
    prepared = prepare(session, task, result, task_hash, number, materializer.known)
    session.watcher.makes(session, prepared.outputs)
    if decision is None:
        objects = reuse_all(prepared, snapshot)
        if objects is not None:
            decision = Decision(True, Reason.VALID)
            row = valid_row(session, task, identity, task_hash, prepared, objects, snapshot, decision)
            return store_valid(session, snapshot, attrs.evolve(row, revision=revision), decision)
        decision = why_lazy_runs(task, prepared, identity, snapshot)
        present = identity_to_make(session, task, arguments, identity, decision)
        if present != identity and materializer.known:
            # What was materialized belongs to the identity that was given up.
            return _make(materializer, present, arguments, decision, revision, started)
        if present != identity:
            identity, task_hash = present, task_hash_for(task, present, snapshot, decision)
            prepared = prepare(session, task, result, task_hash, number, {})
    row = _new_row(session, task, identity, task_hash, snapshot, decision, revision)
    return store_result(session, snapshot, task, row, prepared, decision, started)


def _new_row(
    session: RunSession,
    task: Task,
    identity: Identity,
    task_hash: str,
    snapshot: Snapshot,
    decision: Decision,
    revision: int,
) -> TaskRecord:
    return attrs.evolve(
        pending(session, snapshot, task, decision, identity),
        state=TaskState.EXECUTED,
        input_hash=identity.input_hash,
        task_hash=task_hash,
        memo_key=identity.memo_key,
        inputs=identity.inputs_json(),
        revision=revision,
        produced_by=snapshot.generation.number,
        reads_open=reads_open(task, snapshot),
    )


def _reported(snapshot: Snapshot, row: TaskRecord, decision: Decision) -> tuple[TaskReport, TaskRecord]:
    return _report(snapshot, row, decision), row


def _report(snapshot: Snapshot, row: TaskRecord, decision: Decision) -> TaskReport:
    tables = tuple(
        (stored.name, str(stored.container), stored.rows or 0)
        for stored in row.objects
        if stored.kind is ObjectKind.TABLE
    )
    return TaskReport(row.node, decision, snapshot.value(row), tables, row.seconds, snapshot.reopened)


def _log(report: TaskReport) -> None:
    log.info("%s: %s", report.node, report.decision)
    for name, schema, rows in report.tables:
        log.info("%s: table %s, %s rows, stored in %s", report.node, name, rows, schema)
