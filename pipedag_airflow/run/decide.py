"""Decisions: is what is stored for a task still its result?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.backend.metadata import ObjectKind, ObjectRecord, TaskRecord, TaskState
from pipedag_airflow.cache.decision import Decision, Identity, Reason, hash_cache_function, identify, why_different
from pipedag_airflow.config.known_secrets import without_secrets
from pipedag_airflow.core.auto_version import AUTO_VERSION
from pipedag_airflow.core.fingerprint import fingerprint, random_fingerprint
from pipedag_airflow.errors import CacheError, DuplicateNameError
from pipedag_airflow.run.emptied import described

if TYPE_CHECKING:
    from pipedag_airflow.core.task import Task
    from pipedag_airflow.run.outputs import Output
    from pipedag_airflow.run.session import RunSession
    from pipedag_airflow.run.snapshot import Snapshot

__all__ = [
    "carried",
    "claim",
    "decide",
    "duplicate_name",
    "identity_of",
    "identity_to_make",
    "pending",
    "reusable",
    "task_hash_for",
    "why_query_runs",
]


_FORCED = (Reason.FORCED, Reason.FORCED_BY_MODE, Reason.SELECTED)


def identity_of(session: RunSession, task: Task, arguments: dict[str, Any], snapshot: Snapshot) -> Identity:
    """Return the identity of a task's call.

    A cache function that begin called in this run is not called again. Nor is it called where the run ignores fresh
    input and has a stored result of the same version and inputs: then that one's hash is adopted.
    """
    identity = _without_cache_function(session, task, arguments)
    if task.unbound.cache is None:
        return identity
    own = snapshot.own_row(task.id)
    if own is not None and own.state is TaskState.PENDING and own.cache_function_hash is not None:
        return attrs.evolve(identity, cache_function_hash=own.cache_function_hash)
    if session.policy.ignores_fresh_input:
        adopted = _stored_cache_function_hash(identity, snapshot)
        if adopted is not None:
            return attrs.evolve(identity, cache_function_hash=adopted, adopted=True)
    return attrs.evolve(identity, cache_function_hash=_call_cache_function(session, task, arguments))


def _call_cache_function(session: RunSession, task: Task, arguments: dict[str, Any]) -> str:
    session.store.let_go()
    return hash_cache_function(task.unbound, arguments, f"Task {task.id!r}", session.classes)


def _without_cache_function(session: RunSession, task: Task, arguments: dict[str, Any]) -> Identity:
    name = session.identity_names[task.id]
    return identify(task.unbound, name, arguments, f"Task {task.id!r}", session.classes, "")


def _stored_cache_function_hash(identity: Identity, snapshot: Snapshot) -> str | None:
    """Return the hash with which the same version and inputs have a result that is still there."""
    for row in snapshot.candidates.of_name(identity.name):
        same = (row.version, row.input_hash) == (identity.version, identity.input_hash)
        if same and all(snapshot.is_intact(stored) for stored in row.objects):
            return row.cache_function_hash
    return None


def identity_to_make(
    session: RunSession, task: Task, arguments: dict[str, Any], identity: Identity, decision: Decision
) -> Identity:
    """Return the identity under which a task that is not valid is made.

    What its function reads now belongs to what its cache function returns now, not to a hash that was adopted.

    Raises:
        FreshInputError: if the task must not read fresh input in this run.
    """
    session.policy.check_may_run(task, decision)
    if not identity.adopted:
        return identity
    present = _call_cache_function(session, task, arguments)
    return attrs.evolve(identity, cache_function_hash=present, adopted=False)


def task_hash_for(task: Task, identity: Identity, snapshot: Snapshot, decision: Decision | None) -> str:
    """Return the hash that a call's results are identified by when the function runs.

    Without a version, and when the call is forced, every execution is something new: consumers follow. A lazy task
    whose very call is stored goes on under the hash of then, be it that of a forced run: its queries are compared by
    it.
    """
    forced = decision is not None and decision.reason in _FORCED
    if forced or (task.unbound.version is None and not task.unbound.lazy):
        return fingerprint(identity.memo_key, random_fingerprint())
    if task.unbound.lazy:
        stored = (row.task_hash for row in snapshot.candidates.of_call(identity.memo_key))
        return next((known for known in stored if known is not None), identity.memo_key)
    return identity.memo_key


def decide(
    session: RunSession, task: Task, identity: Identity, snapshot: Snapshot
) -> tuple[Decision | None, TaskRecord | None]:
    """Decide a task by what is known before its function is called.

    A task that is not lazy is valid if its very call is stored, and all that it stored is still there.

    Returns:
        The decision, None if the queries of a lazy task are to decide; and the row whose result is valid.
    """
    anew = session.why_forced(task)
    if task.unbound.lazy:
        return anew, None
    if anew is None and task.unbound.version is None:
        anew = Decision(False, Reason.NO_VERSION)
    if anew is not None:
        made = _made_by_another(task, identity, snapshot)
        if made is not None:
            return Decision(True, Reason.SAME_CALL, f"the same call as {made.node}"), made
        return anew, None
    lost = None
    for row in snapshot.candidates.of_call(identity.memo_key):
        problem = _why_unusable(row, snapshot)
        if problem is None:
            return Decision(True, Reason.VALID), row
        lost = lost or problem
    return lost or _why(task, identity, snapshot), None


def _why_unusable(row: TaskRecord, snapshot: Snapshot) -> Decision | None:
    missing = [stored for stored in row.objects if not snapshot.is_intact(stored)]
    if missing:
        return Decision(False, Reason.TABLE_MISSING, ", ".join(_lost(stored, snapshot) for stored in missing))
    try:
        snapshot.value(row)
    except CacheError as error:
        return Decision(False, Reason.VALUE_UNREADABLE, str(error))
    return None


def _lost(stored: ObjectRecord, snapshot: Snapshot) -> str:
    return described(stored) if snapshot.inventory.is_emptied(stored) else stored.name


def _made_by_another(task: Task, identity: Identity, snapshot: Snapshot) -> TaskRecord | None:
    """Return the row of another node of the same call that this run has executed already, if it is still there."""
    number = snapshot.generation.number
    rows = (row for row in snapshot.candidates.of_call(identity.memo_key) if row.node != task.id)
    executed = (row for row in rows if row.generation == row.produced_by == number)
    return next((row for row in executed if _why_unusable(row, snapshot) is None), None)


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
            made = {*first.facts["tables"], *first.facts["definitions"]}
            found += [stored for stored in row.objects if stored.kind.is_in_schema and stored.name in made]
        if all(snapshot.is_intact(stored) for stored in found):
            return found
    return None


def why_query_runs(task: Task, output: Output, identity: Identity, snapshot: Snapshot) -> Decision:
    """Say why a lazy output is not reusable."""
    if output.compared is None:
        return Decision(False, Reason.NO_QUERY, f"{output.kind.value} {output.name!r} has nothing to compare it by")
    before = _previous(task, identity, snapshot)
    if before is None:
        return Decision(False, Reason.FIRST_RUN)
    difference = why_different(identity, before.version, before.inputs, before.cache_function_hash)
    if difference.reason is not Reason.FIRST_RUN:
        return difference
    same_name = next((stored for stored in before.objects if stored.name == output.name), None)
    if same_name is not None and same_name.cache_key == output.cache_key:
        return Decision(False, Reason.TABLE_MISSING, _lost(same_name, snapshot))
    present = without_secrets(output.query or output.content or "")
    if same_name is not None and (same_name.query or same_name.facts.get("content")) == present:
        return Decision(
            False,
            Reason.QUERY_CHANGED,
            f"the query or data of {output.name!r} read as before, but its keys, indexes, types or materialization "
            "details do not, or the tables that it is made from are others",
        )
    if output.query is None:
        return Decision(False, Reason.CONTENT_CHANGED, f"the data of {output.name!r} are not those that are stored")
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
        cache_function_hash=None if identity is None or identity.adopted else identity.cache_function_hash,
    )
