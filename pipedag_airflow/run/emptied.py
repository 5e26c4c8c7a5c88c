"""Tables that a crash of the server has emptied: they are there, but what was computed is not in them any more.

Only tables that were made unlogged lose their rows, and views of such tables. Their records say so; where none does,
the database is not asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipedag_airflow.errors import CacheError
from pipedag_airflow.run.publication import place_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from pipedag_airflow.backend.metadata import ObjectRecord, Place
    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.core.task import Task
    from pipedag_airflow.run.snapshot import Snapshot

__all__ = ["check_rows", "described", "emptied_places", "is_emptied"]


def _unlogged_places(stored: ObjectRecord) -> set[Place]:
    """Return where the unlogged tables may be whose rows a table or view has or shows."""
    return {place_of(stored), *stored.sources} if stored.facts.get("unlogged") else set()


def is_emptied(stored: ObjectRecord, emptied: Collection[Place]) -> bool:
    """Say whether a table is one of those that a crash has emptied, or a view of one."""
    return not _unlogged_places(stored).isdisjoint(emptied)


def emptied_places(transaction: SQLTransaction, objects: Iterable[ObjectRecord]) -> set[Place]:
    """Return where tables are that a crash has emptied, of all that are among some objects or shown by them."""
    places: set[Place] = set().union(*map(_unlogged_places, objects))
    if not places:
        return places
    empty = places & transaction.empty_unlogged({schema for schema, _ in places})
    return empty - transaction.places.made_empty(empty) if empty else empty


def check_rows(task: Task, tables: Iterable[ObjectRecord], emptied: Collection[Place], snapshot: Snapshot) -> None:
    """Check that the tables that a task reads still have their rows.

    Args:
        task: The task.
        tables: What it reads.
        emptied: Where the tables are that a crash has emptied.
        snapshot: What the step had read.

    Raises:
        CacheError: if it reads an emptied one; the message says what makes it anew.
    """
    for stored in tables:
        if is_emptied(stored, emptied):
            own = snapshot.open_generations.get(stored.stage) == stored.generation
            what = f"{stored.node!r} again (in Airflow: clear it too)" if own else f"stage {stored.stage!r} again"
            raise CacheError(
                f"Task {task.id!r} reads {described(stored)}. Run {what}, which makes the table anew, and then this "
                "task."
            )


def described(stored: ObjectRecord) -> str:
    """Return in words what was emptied."""
    where = ".".join(place_of(stored))
    if stored.sources:
        return f"{where}, which shows an unlogged table that a crash of the server has emptied"
    return f"{where}, an unlogged table that a crash of the server has emptied"
