"""``execute``: decide a task if begin could not, else call its function and store what it returns."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.backend.metadata import ObjectKind, TaskRecord, TaskState
from pipedag_airflow.cache.decision import Decision, Identity, Reason
from pipedag_airflow.errors import CacheError, RunError
from pipedag_airflow.run.begin import begin, open_stage
from pipedag_airflow.run.call import call_function
from pipedag_airflow.run.decide import carried, decide, identity_of, identity_to_make, pending, task_hash_for
from pipedag_airflow.run.inputs import load_arguments, missing_inputs, reads_open, resolve_arguments
from pipedag_airflow.run.lazy import reuse_all, valid_row, why_lazy_runs
from pipedag_airflow.run.outputs import prepare
from pipedag_airflow.run.snapshot import Snapshot
from pipedag_airflow.run.storing import InputsMovedError, record_failure, store_result, store_valid

if TYPE_CHECKING:
    from pipedag_airflow.core.task import Task
    from pipedag_airflow.run.session import RunSession
    from pipedag_airflow.run.snapshot import Snapshot

__all__ = ["TaskReport", "execute"]

log = logging.getLogger(__name__)

#: How often a task starts over because another run published one of its inputs meanwhile.
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
    """

    node: str
    decision: Decision
    value: Any
    tables: tuple[tuple[str, str, int], ...]
    seconds: float | None


def execute(session: RunSession, node: str, *, revision: int = 0) -> TaskReport:
    """Execute a task within the open generation of its stage; the generation is opened if this run has none open.

    Idempotent: when the task was finished in this generation before, its result is returned.

    Args:
        session: The run.
        node: Id of the task.
        revision: Grows each time that a user asks to build the task anew; a finished task is built again only then. No
            engine executes what begin found valid: if it is executed all the same, a user has asked for it.

    Raises:
        CacheError: if an input was not made.
        StaleRunError: if this run lost the stage.
        Exception: what the task's function raises.
    """
    task = session.flow.tasks[node]
    with session.holding(task.stage.name):
        for _ in range(_ATTEMPTS):
            try:
                report = _attempt(session, task, revision)
            except InputsMovedError as moved:
                log.info("%s: %s; deciding anew", node, moved)
            else:
                _log(report)
                return report
    raise RunError(
        f"Task {node!r} was computed {_ATTEMPTS} times, and each time another run published its inputs meanwhile. "
        "Let the flows that share these stages run one after the other."
    )


def _attempt(session: RunSession, task: Task, revision: int) -> TaskReport:
    with session.store.transaction() as transaction:
        snapshot = open_stage(session, transaction, task.stage.name, (task.id,))
    if task.id not in snapshot.states:
        # The run was over with the stage, and the user has cleared tasks, but not its begin.
        begin(session, task.stage.name, close=False)
        with session.store.transaction() as transaction:
            snapshot = open_stage(session, transaction, task.stage.name, (task.id,))
    missing = missing_inputs(task, snapshot)
    if missing:
        raise CacheError(
            f"Task {task.id!r} reads {', '.join(map(repr, missing))}, which this run has not made. Run it first (in "
            "Airflow: clear it too)."
        )
    arguments = resolve_arguments(task, snapshot)
    own = snapshot.own_row(task.id)
    forced = own is not None and own.state.has_output and revision > own.revision
    if own is not None and own.state.has_output and not forced:
        return _report(snapshot, own, Decision(True, Reason.VALID, "made earlier in this run"))
    identity = identity_of(session, task, arguments, snapshot)
    decision: Decision | None = Decision(False, Reason.FORCED, "built anew on request")
    if not forced:
        decision, found = decide(session, task, identity, snapshot)
        if found is not None:
            assert decision is not None
            row = carried(found, snapshot, task, decision, reads_open(task, snapshot))
            return _report(snapshot, *store_valid(session, snapshot, attrs.evolve(row, revision=revision), decision))
    return _run(session, task, identity, arguments, snapshot, decision, revision)


def _run(
    session: RunSession,
    task: Task,
    identity: Identity,
    arguments: dict[str, Any],
    snapshot: Snapshot,
    decision: Decision | None,
    revision: int,
) -> TaskReport:
    started = time.monotonic()
    try:
        if decision is not None:
            identity = identity_to_make(session, task, arguments, identity, decision)
        task_hash = task_hash_for(task, identity, snapshot, decision)
        loaded = load_arguments(session, task, arguments, snapshot)
        result = call_function(session, task, loaded, snapshot.open_generations)
        prepared = prepare(session, task, result, task_hash, snapshot.generation.number)
        if decision is None:
            objects = reuse_all(prepared, snapshot)
            if objects is not None:
                decision = Decision(True, Reason.VALID)
                row = valid_row(session, task, identity, task_hash, prepared, objects, snapshot, decision)
                return _report(
                    snapshot, *store_valid(session, snapshot, attrs.evolve(row, revision=revision), decision)
                )
            decision = why_lazy_runs(task, prepared, identity, snapshot)
            present = identity_to_make(session, task, arguments, identity, decision)
            if present != identity:
                identity, task_hash = present, task_hash_for(task, present, snapshot, decision)
                prepared = prepare(session, task, result, task_hash, snapshot.generation.number)
        row = _new_row(session, task, identity, task_hash, snapshot, decision, revision)
        return _report(snapshot, *store_result(session, snapshot, task, row, prepared, decision, started))
    except InputsMovedError:
        raise
    except Exception as error:
        record_failure(session, snapshot, task, error)
        raise


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


def _report(snapshot: Snapshot, row: TaskRecord, decision: Decision) -> TaskReport:
    tables = tuple(
        (stored.name, str(stored.container), stored.rows or 0)
        for stored in row.objects
        if stored.kind is ObjectKind.TABLE
    )
    return TaskReport(row.node, decision, snapshot.value(row), tables, row.seconds)


def _log(report: TaskReport) -> None:
    log.info("%s: %s", report.node, report.decision)
    for name, schema, rows in report.tables:
        log.info("%s: table %s, %s rows, stored in %s", report.node, name, rows, schema)
