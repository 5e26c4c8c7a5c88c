"""Decisions: is what is stored for a task still its result?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.backend.metadata import ObjectKind, ObjectRecord, TaskRecord, TaskState
from pipedag_airflow.cache.decision import Decision, Identity, Reason, identify, why_different
from pipedag_airflow.core.auto_version import AUTO_VERSION
from pipedag_airflow.core.fingerprint import fingerprint, random_fingerprint
from pipedag_airflow.errors import DuplicateNameError

if TYPE_CHECKING:
    from pipedag_airflow.core.task import Task
    from pipedag_airflow.run.outputs import Output
    from pipedag_airflow.run.session import RunSession
    from pipedag_airflow.run.snapshot import Snapshot

__all__ = [
    "carried",
    "claim",
    "decide_eager",
    "duplicate_name",
    "identity_of",
    "pending",
    "reusable",
    "task_hash_for",
    "why_query_runs",
]


def identity_of(session: RunSession, task: Task, arguments: dict[str, Any], snapshot: Snapshot) -> Identity:
    """Return the identity of a task's call; a cache function that begin called in this run is not called again."""
    own = snapshot.own_row(task.id)
    known = own.cache_function_hash if own is not None and own.state is TaskState.PENDING else None
    name = session.identity_names[task.id]
    return identify(task.unbound, name, arguments, f"Task {task.id!r}", known)


def task_hash_for(session: RunSession, task: Task, identity: Identity, forced: bool) -> str:
    """Return the hash that a call's results are identified by when the function runs.

    Without a version, and when the call is forced, every execution is something new: consumers follow.
    """
    unversioned = task.unbound.version is None and not task.unbound.lazy
    if unversioned or forced or _ignores_version(session, task):
        return fingerprint(identity.memo_key, random_fingerprint())
    return identity.memo_key


def _ignores_version(session: RunSession, task: Task) -> bool:
    """Say whether the task's version does not count; AUTO_VERSION is the task's code, which always does."""
    return session.config.ignore_task_version and task.unbound.version is not AUTO_VERSION


def decide_eager(
    session: RunSession, task: Task, identity: Identity, snapshot: Snapshot
) -> tuple[Decision, TaskRecord | None]:
    """Decide a task that is not lazy: valid if its very call is stored, and all that it stored is still there.

    Returns:
        The decision, and the row whose result is valid.
    """
    if task.unbound.version is None:
        return Decision(False, Reason.NO_VERSION), None
    if _ignores_version(session, task):
        return Decision(False, Reason.FORCED, "ignore_task_version is set"), None
    lost = None
    for row in _same_calls(session, identity, snapshot):
        missing = [stored.name for stored in row.objects if not snapshot.is_intact(stored)]
        if not missing:
            return Decision(True, Reason.VALID), row
        lost = lost or Decision(False, Reason.TABLE_MISSING, ", ".join(missing))
    return lost or _why(task, identity, snapshot), None


def _same_calls(session: RunSession, identity: Identity, snapshot: Snapshot) -> list[TaskRecord]:
    found = snapshot.candidates.of_call(identity.memo_key)
    if found or not session.ignore_cache_function:
        return found
    return [
        row
        for row in snapshot.candidates.of_name(identity.name)
        if (row.version, row.input_hash) == (identity.version, identity.input_hash)
    ]


def _why(task: Task, identity: Identity, snapshot: Snapshot) -> Decision:
    before = _previous(task, identity, snapshot)
    if before is not None:
        return why_different(identity, before.version, before.inputs, before.cache_function_hash)
    left_out = (row for row in snapshot.rows.values() if row.stage == snapshot.stage and row.state.has_output)
    if any(row.memo_key == identity.memo_key for row in left_out):
        return Decision(False, Reason.ENCLOSING_ABANDONED, "it was made from data that were never published")
    return Decision(False, Reason.FIRST_RUN)


def _previous(task: Task, identity: Identity, snapshot: Snapshot) -> TaskRecord | None:
    """Return the row to compare with: of the same node, else of the same name."""
    rows = snapshot.candidates.of_name(identity.name)
    return next((row for row in rows if row.node == task.id), rows[0] if rows else None)


def reusable(output: Output, snapshot: Snapshot) -> list[ObjectRecord] | None:
    """Return the stored objects that a lazy output is valid with, None if it must be made."""
    for row, first in snapshot.candidates.of_output(output.cache_key):
        found = [first]
        if output.kind is ObjectKind.SCRIPT:
            names = first.facts["tables"]
            found += [stored for stored in row.objects if stored.kind is ObjectKind.TABLE and stored.name in names]
        if all(snapshot.is_intact(stored) for stored in found):
            return found
    return None


def why_query_runs(task: Task, output: Output, identity: Identity, snapshot: Snapshot) -> Decision:
    """Say why a lazy output is not reusable."""
    if output.query is None:
        return Decision(False, Reason.NO_QUERY, f"{output.kind.value} {output.name!r} has no query to compare")
    before = _previous(task, identity, snapshot)
    if before is None:
        return Decision(False, Reason.FIRST_RUN)
    difference = why_different(identity, before.version, before.inputs, before.cache_function_hash)
    if difference.reason is not Reason.FIRST_RUN:
        return difference
    same_name = next((stored for stored in before.objects if stored.name == output.name), None)
    if same_name is not None and same_name.query == output.query:
        return Decision(False, Reason.TABLE_MISSING, output.name)
    then = "none" if same_name is None else f"\n{same_name.query}\n"
    return Decision(False, Reason.QUERY_CHANGED, f"query of {output.name!r} was: {then} and is now:\n{output.query}")


def carried(
    row: TaskRecord, snapshot: Snapshot, task: Task, decision: Decision, open_inputs: tuple[tuple[str, int], ...]
) -> TaskRecord:
    """Return the row that takes a valid result over into the open generation, under the node's present place."""
    return claim(
        attrs.evolve(
            row,
            generation=snapshot.generation.number,
            node=task.id,
            position=snapshot.session.plan.node_by_id[task.id].position,
            state=TaskState.VALID,
            reason=decision.reason.value,
            detail=decision.detail,
            reads_open=open_inputs,
            revision=0,
            seconds=None,
            twin=None,
        ),
        snapshot,
    )


def claim(row: TaskRecord, snapshot: Snapshot) -> TaskRecord:
    """Enter a row's objects under the row's node, or make it the twin of the node that stored them.

    Raises:
        DuplicateNameError: if another task of the stage has something else of one of the names.
    """
    others = {stored.name: snapshot.claimant(stored) for stored in row.objects}
    for stored in row.objects:
        other = others[stored.name]
        if other is None or other.node == row.node:
            continue
        if (other.container, other.location) != (stored.container, stored.location):
            raise duplicate_name(stored, other.node, row.node)
        found = tuple(known for known in others.values() if known is not None)
        return attrs.evolve(row, twin=other.node, objects=found)
    owned = (attrs.evolve(stored, generation=row.generation, node=row.node) for stored in row.objects)
    return attrs.evolve(row, objects=tuple(owned))


def duplicate_name(stored: ObjectRecord, first: str, second: str) -> DuplicateNameError:
    """Return the error for two tasks that claim one name."""
    return DuplicateNameError(
        f"The tasks {first!r} and {second!r} both make a {stored.kind.value} of the name {stored.name!r} in stage "
        f'{stored.stage!r}. Rename one of them, or let "%%" at the end of the name make it unique.'
    )


def _known_version(task: Task) -> str | None:
    """Return the version that a user gave; what AUTO_VERSION comes to is part of a call's identity."""
    version = task.unbound.version
    return None if version is None or version is AUTO_VERSION else str(version)


def pending(
    session: RunSession, snapshot: Snapshot, task: Task, decision: Decision, identity: Identity | None
) -> TaskRecord:
    """Return the row of a task that is to run, or to decide by itself."""
    return TaskRecord(
        stage=snapshot.stage,
        generation=snapshot.generation.number,
        node=task.id,
        name=session.identity_names[task.id],
        version=_known_version(task) if identity is None else identity.version,
        position=session.plan.node_by_id[task.id].position,
        state=TaskState.PENDING,
        reason=decision.reason.value,
        detail=decision.detail,
        cache_function_hash=None if identity is None else identity.cache_function_hash,
    )
