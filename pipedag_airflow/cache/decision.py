"""Whether a stored result is still valid, and why not."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.cache.auto_version import code_version, what_changed
from pipedag_airflow.cache.disclosure import shown_identity
from pipedag_airflow.config.known_secrets import without_secrets
from pipedag_airflow.core.auto_version import AUTO_VERSION
from pipedag_airflow.core.fingerprint import fingerprint
from pipedag_airflow.core.values import dump_identity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipedag_airflow.core.classes import Classes
    from pipedag_airflow.core.task import UnboundTask

__all__ = ["Decision", "Identity", "Reason", "hash_cache_function", "hash_inputs", "identify", "why_different"]

#: The key of the code's parts among the inputs; no parameter is called like it.
_CODE = "$code"
_CONTAINERS = {"table": "table", "rawsql": "SQL script", "blob": "blob"}


class Reason(StrEnum):
    """Why a task is valid, or runs."""

    VALID = "valid"
    #: The same call stands in the stage already, and this run has its result.
    SAME_CALL = "same_call"
    FIRST_RUN = "first_run"
    NO_VERSION = "no_version"
    VERSION_CHANGED = "version_changed"
    INPUT_CHANGED = "input_changed"
    CACHE_FUNCTION_CHANGED = "cache_function_changed"
    QUERY_CHANGED = "query_changed"
    #: A lazy task returned a frame, and its data are not those that are stored.
    CONTENT_CHANGED = "content_changed"
    #: A lazy task returned something that has neither a query nor data to compare.
    NO_QUERY = "no_query"
    TABLE_MISSING = "table_missing"
    #: The stored result holds a class or stage that the flow no longer has as it was.
    VALUE_UNREADABLE = "value_unreadable"
    #: It was made from data of an enclosing stage that were never published.
    ENCLOSING_ABANDONED = "enclosing_abandoned"
    #: A user asked to build it anew, by clearing it.
    FORCED = "forced"
    #: The mode of the run, or ignore_task_version, makes it run.
    FORCED_BY_MODE = "forced_by_mode"
    #: The run selects it as a single task.
    SELECTED = "selected"
    #: An input is made in this run: the task's own step decides.
    INPUTS_OPEN = "inputs_open"
    #: A rollback has brought its result back.
    ROLLED_BACK = "rolled_back"
    #: A lazy task that could not be judged ahead: the task's own step decides.
    DECIDED_LATER = "decided_later"


@attrs.frozen
class Decision:
    """Whether a task is valid, with the reason. It goes to logs, to the metadata and to XCom: it tells no secret."""

    valid: bool
    reason: Reason
    detail: str = attrs.field(default="", converter=without_secrets)

    def __str__(self) -> str:
        outcome = "valid" if self.valid else f"runs ({self.reason.value})"
        return f"{outcome}: {self.detail}" if self.detail else outcome


@attrs.frozen
class Identity:
    """What identifies the result of a call: everything that a change of the result must show in."""

    name: str
    version: str | None
    #: Identity of each argument as JSON text, by parameter.
    inputs: Mapping[str, str]
    input_hash: str
    cache_function_hash: str
    #: Whether the hash of the cache function is that of a stored result, and not of what it returns now.
    adopted: bool = False
    #: Hashes of the parts of the task's code, where that is the version: for the reason of a change.
    code: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def memo_key(self) -> str:
        """The key under which equal calls find each other."""
        return fingerprint("task", self.name, str(self.version), self.input_hash, self.cache_function_hash)

    def inputs_json(self) -> str:
        """The inputs as kept in the metadata, for a person to read."""
        shown: dict[str, Any] = {name: shown_identity(name, text) for name, text in self.inputs.items()}
        return json.dumps(shown | {_CODE: dict(self.code)} if self.code else shown)


def identify(
    task: UnboundTask,
    name: str,
    arguments: Mapping[str, Any],
    where: str,
    classes: Classes,
    cache_function_hash: str | None = None,
) -> Identity:
    """Return the identity of a call whose arguments are known; calls the cache function unless its hash is given.

    Args:
        task: The task.
        name: The task's name, made distinct where two functions of one stage share it.
        arguments: The arguments by parameter; tables and blobs are descriptors.
        where: The task for messages, such as ``Task 'clean.flights'``.
        classes: The classes of the flow.
        cache_function_hash: The result of an earlier call of :func:`hash_cache_function` in this run.

    Raises:
        UnsupportedValueError: if an argument, or the result of the cache function, cannot be stored.
        AutoVersionError: if the code of a task with AUTO_VERSION cannot be followed.
    """
    inputs = _identities(arguments, where, classes)
    hashed = _hash(inputs)
    if cache_function_hash is None:
        cache_function_hash = hash_cache_function(task, arguments, where, classes)
    if task.version is AUTO_VERSION:
        code = code_version(task.fn, task.input_type, where, arguments)
        return Identity(name, code.version, inputs, hashed, cache_function_hash, code=code.parts)
    return Identity(name, None if task.version is None else str(task.version), inputs, hashed, cache_function_hash)


def hash_inputs(arguments: Mapping[str, Any], where: str, classes: Classes) -> str:
    """Return the hash of a call's arguments alone; no code is looked at, and no function called."""
    return _hash(_identities(arguments, where, classes))


def _identities(arguments: Mapping[str, Any], where: str, classes: Classes) -> dict[str, str]:
    return {key: dump_identity(value, f"{where}: argument {key}", classes=classes) for key, value in arguments.items()}


def _hash(inputs: Mapping[str, str]) -> str:
    return fingerprint(*(part for item in sorted(inputs.items()) for part in item))


def hash_cache_function(task: UnboundTask, arguments: Mapping[str, Any], where: str, classes: Classes) -> str:
    """Call the task's cache function with the task's own arguments and return the hash of its result."""
    if task.cache is None:
        return ""
    bound = task.signature.bind_partial()
    bound.arguments.update(arguments)
    result = task.cache(*bound.args, **bound.kwargs)
    return fingerprint(dump_identity(result, f"The result of the cache function of {where}", classes=classes))


def why_different(
    identity: Identity,
    version: str | None,
    inputs: str | None,
    cache_function_hash: str | None,
) -> Decision:
    """Say what changed between the stored result of a task and the call at hand."""
    before = json.loads(inputs or "{}")
    now = json.loads(identity.inputs_json())
    code_before, code_now = before.pop(_CODE, None), now.pop(_CODE, None)
    if version != identity.version:
        detail = f"version {version!r} is now {identity.version!r}"
        if code_before and code_now:
            detail = what_changed(code_before, code_now)
        return Decision(False, Reason.VERSION_CHANGED, detail)
    changes = list(_changes(before, now))
    if changes:
        return Decision(False, Reason.INPUT_CHANGED, "; ".join(changes))
    if cache_function_hash != identity.cache_function_hash:
        return Decision(False, Reason.CACHE_FUNCTION_CHANGED, "the cache function returns another value than before")
    return Decision(False, Reason.FIRST_RUN)


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> Iterable[str]:
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            yield f"argument {name!r}: {_change(before.get(name), now.get(name))}"


def _change(before: str | None, now: str | None) -> str:
    if before is None or now is None:
        return "is new" if before is None else "is gone"
    then, present = _readable(before), _readable(now)
    # Different texts that read the same are one table with another cache key.
    return f"{then} was made anew" if then == present else f"{then} is now {present}"


def _readable(text: str) -> str:
    """Return an argument's identity as it is, but describe a table, script or blob."""
    try:
        value = json.loads(text)
    except ValueError:  # cut off
        return text
    kind = _CONTAINERS.get(str(value.get("$"))) if isinstance(value, dict) else None
    return text if kind is None else f"the {kind} from stage {value['stage']!r}"
