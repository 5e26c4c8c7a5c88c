"""Rows of the metadata as plain objects."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.config.known_secrets import without_secrets

if TYPE_CHECKING:
    import datetime as dt

__all__ = [
    "GenerationRecord",
    "GenerationState",
    "ObjectKind",
    "ObjectRecord",
    "PlaceRecord",
    "StageRecord",
    "TaskRecord",
    "TaskState",
]


class GenerationState(StrEnum):
    """What became of an attempt to build a stage."""

    OPEN = "open"
    #: Its tables are, or were, what readers see.
    PUBLISHED = "published"
    #: Everything was valid: the generation before it stayed live.
    UNCHANGED = "unchanged"
    #: Its run failed, died or lost the stage. What it made can still be reused.
    ABANDONED = "abandoned"


class TaskState(StrEnum):
    """What is known of a task in a generation."""

    #: Not yet decided, or decided to run.
    PENDING = "pending"
    #: Taken over from an earlier generation.
    VALID = "valid"
    EXECUTED = "executed"
    FAILED = "failed"

    @property
    def has_output(self) -> bool:
        """Whether a task in this state has a result that others can read."""
        return self in (TaskState.VALID, TaskState.EXECUTED)


class ObjectKind(StrEnum):
    """What a task stored."""

    TABLE = "table"
    SCRIPT = "script"
    #: A function, a sequence or a type that a script made; called by what it is and its name.
    DEFINITION = "definition"
    BLOB = "blob"

    @property
    def is_in_schema(self) -> bool:
        """Whether it is in a schema of the database, where a publish may move it."""
        return self in (ObjectKind.TABLE, ObjectKind.DEFINITION)


def _shown(query: str | None) -> str | None:
    return None if query is None else without_secrets(query)


@attrs.frozen
class StageRecord:
    """A row of ``stage``: the generation that readers see, and the one that may write."""

    stage: str
    live: int | None
    fence: int


@attrs.frozen
class GenerationRecord:
    """A row of ``generation``."""

    stage: str
    number: int
    run_id: str
    holder: str
    state: GenerationState
    opened: dt.datetime | None = None
    closed: dt.datetime | None = None
    #: Whether its schema and its rows are gone.
    dropped: bool = False
    #: The generation that a rollback has brought back with this one.
    restores: int | None = None


@attrs.frozen
class PlaceRecord:
    """Where an object of a generation is: what a row of ``object`` says of it, without the rest."""

    stage: str
    generation: int
    kind: ObjectKind
    container: str | None
    location: str | None
    rows: int | None
    #: Where the tables are that a view shows, as schema and name.
    sources: tuple[tuple[str, str], ...] = ()


@attrs.frozen(eq=False)
class ObjectRecord:
    """A row of ``object``: a table, a script, a definition or a blob under its logical name."""

    stage: str
    generation: int
    kind: ObjectKind
    name: str
    node: str
    cache_key: str
    container: str | None
    location: str | None
    #: Table: ``columns`` (list of name, type, nullable), ``primary_key``, ``indexes``, ``view``; ``id``, which is
    #: another one each time that a table, but no view, is stored; ``unlogged`` of what a crash of the server empties,
    #: and of what shows such tables. Script: ``tables`` and ``definitions``, their names.
    facts: dict[str, Any]
    query: str | None = attrs.field(default=None, converter=_shown)
    rows: int | None = None
    #: Where the tables are that a view shows, as schema and name; through other views, too.
    sources: tuple[tuple[str, str], ...] = ()


@attrs.frozen
class TaskRecord:
    """A row of ``task`` with the objects that the task stored."""

    stage: str
    generation: int
    node: str
    name: str
    version: str | None
    position: str
    state: TaskState
    reason: str
    detail: str = ""
    input_hash: str | None = None
    cache_function_hash: str | None = None
    task_hash: str | None = None
    memo_key: str | None = None
    inputs: str | None = None
    output: str | None = None
    revision: int = 0
    produced_by: int | None = None
    reads_open: tuple[tuple[str, int], ...] = ()
    seconds: float | None = None
    #: The node that stored the objects, where that is another one with the same call.
    twin: str | None = None
    objects: tuple[ObjectRecord, ...] = ()
