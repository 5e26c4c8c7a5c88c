"""Lazy tasks: the function is called to see its queries, which are then judged one by one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.backend.metadata import TaskRecord, TaskState
from pipedag_airflow.cache.decision import Decision, Identity, Reason
from pipedag_airflow.core.values import dump_stored
from pipedag_airflow.run.call import call_function
from pipedag_airflow.run.decide import claim, reusable, task_hash_for, why_query_runs
from pipedag_airflow.run.inputs import load_arguments, needs_no_data, reads_open
from pipedag_airflow.run.materializing import Materializer, NotAheadError
from pipedag_airflow.run.outputs import Prepared, prepare, renamed

if TYPE_CHECKING:
    from pipedag_airflow.backend.metadata import ObjectRecord
    from pipedag_airflow.core.task import Task
    from pipedag_airflow.run.session import RunSession
    from pipedag_airflow.run.snapshot import Snapshot

__all__ = ["decide_lazy_ahead", "reuse_all", "valid_row", "why_lazy_runs"]

log = logging.getLogger(__name__)


def decide_lazy_ahead(
    session: RunSession, task: Task, arguments: dict[str, Any], identity: Identity, snapshot: Snapshot
) -> tuple[Decision, TaskRecord | None]:
    """Judge a lazy task in begin, so that a valid one needs no process of its own.

    Only a task whose inputs can be had without loading data is judged here. If its function fails, the task's own step
    decides; the failure is then reported where it belongs.

    Returns:
        The decision, and the row of a valid task.
    """
    own_step = Decision(False, Reason.DECIDED_LATER)
    if not needs_no_data(task, arguments):
        return own_step, None
    try:
        return _evaluate(session, task, arguments, identity, snapshot)
    except (Exception, SystemExit) as error:  # whatever the user's function raises
        log.info("%s: its query cannot be evaluated ahead (%s: %s)", task.id, type(error).__name__, error)
        return own_step, None


def _evaluate(
    session: RunSession, task: Task, arguments: dict[str, Any], identity: Identity, snapshot: Snapshot
) -> tuple[Decision, TaskRecord | None]:
    loaded = load_arguments(session, task, arguments, snapshot)
    task_hash = task_hash_for(task, identity, snapshot, None)
    materializer = Materializer(session, task, snapshot, ahead=True).begin_call(task_hash)
    result = call_function(session, task, loaded, snapshot.open_generations, materializer)
    if materializer.refused:
        raise NotAheadError("a table is to be stored")
    prepared = prepare(session, task, result, task_hash, snapshot.generation.number, materializer.known)
    objects = reuse_all(prepared, snapshot)
    if objects is None:
        return why_lazy_runs(task, prepared, identity, snapshot), None
    decision = Decision(True, Reason.VALID)
    return decision, valid_row(session, task, identity, task_hash, prepared, objects, snapshot, decision)


def why_lazy_runs(task: Task, prepared: Prepared, identity: Identity, snapshot: Snapshot) -> Decision:
    """Say why a lazy task is not valid: because of the first of its outputs that must be made."""
    first = next(output for output in prepared.outputs if reusable(output, snapshot) is None)
    return why_query_runs(task, first, identity, snapshot)


def reuse_all(prepared: Prepared, snapshot: Snapshot) -> list[ObjectRecord] | None:
    """Return the stored objects of all outputs under their present names; None if one of them must be made."""
    objects: list[ObjectRecord] = []
    for output in prepared.outputs:
        found = reusable(output, snapshot)
        if found is None:
            return None
        objects += renamed(output, found)
    return objects


def valid_row(
    session: RunSession,
    task: Task,
    identity: Identity,
    task_hash: str,
    prepared: Prepared,
    objects: list[ObjectRecord],
    snapshot: Snapshot,
    decision: Decision,
) -> TaskRecord:
    """Return the row of a lazy task all of whose outputs are stored already."""
    generation = snapshot.generation.number
    row = TaskRecord(
        stage=snapshot.stage,
        generation=generation,
        node=task.id,
        name=identity.name,
        version=identity.version,
        position=session.plan.node_by_id[task.id].position,
        state=TaskState.VALID,
        reason=decision.reason.value,
        detail=decision.detail,
        input_hash=identity.input_hash,
        cache_function_hash=identity.cache_function_hash,
        task_hash=task_hash,
        memo_key=identity.memo_key,
        inputs=identity.inputs_json(),
        output=dump_stored(prepared.value, f"Task {task.id!r}: result", session.classes),
        produced_by=generation,
        reads_open=reads_open(task, snapshot),
        objects=tuple(attrs.evolve(stored, generation=generation) for stored in objects),
    )
    # A twin that made the same call has entered the same tables already.
    return claim(row, snapshot)
