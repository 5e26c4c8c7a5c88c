"""What a view shows: the tables that must stay where they are for as long as the view is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from pipedag_airflow.backend.metadata import ObjectKind, ObjectRecord
from pipedag_airflow.run.inputs import resolve_arguments
from pipedag_airflow.run.publication import place_of
from pipedag_airflow.run.versions import tables_in, with_versions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipedag_airflow.core.task import Task
    from pipedag_airflow.run.snapshot import Snapshot

__all__ = ["tables_read", "with_sources"]


def tables_read(task: Task, snapshot: Snapshot) -> list[ObjectRecord]:
    """Return the records of the tables and views that a task receives, without those of somebody else's."""
    arguments = with_versions(task, resolve_arguments(task, snapshot), snapshot)
    return [snapshot.object(ObjectKind.TABLE, table) for table in tables_in(arguments) if not table.external]


def with_sources(
    stored: ObjectRecord, task: Task, snapshot: Snapshot, beside: Iterable[ObjectRecord] = ()
) -> ObjectRecord:
    """Return the record of a view or definition with the places of what it may read; any other record as it is.

    A view, be it made by us or by a script, may show the tables that its task receives and has stored before it
    (``beside``); a query that is a text does not tell which of them. Where one of them is a view itself, what that one
    shows is named too: its own record may be forgotten sooner.
    """
    if not stored.facts.get("view") and stored.kind is not ObjectKind.DEFINITION:
        return stored
    records = [record for record in beside if record.kind is ObjectKind.TABLE] + tables_read(task, snapshot)
    places = set(map(place_of, records)).union(*(record.sources for record in records))
    unlogged = {"unlogged": True} if any(record.facts.get("unlogged") for record in records) else {}
    return attrs.evolve(stored, sources=tuple(sorted(places)), facts=stored.facts | unlogged)
