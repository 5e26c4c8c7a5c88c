"""What a view shows: the tables that must stay where they are for as long as the view is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.backend.metadata import ObjectKind, ObjectRecord
from pipedag_airflow.core.containers import RawSql, Table
from pipedag_airflow.core.values import deep_map
from pipedag_airflow.run.inputs import resolve_arguments
from pipedag_airflow.run.versions import with_versions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipedag_airflow.core.task import Task
    from pipedag_airflow.run.snapshot import Snapshot

__all__ = ["with_sources"]


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
    records = [record for record in beside if record.kind is ObjectKind.TABLE]

    def note(value: Any) -> Any:
        tables = [value.table(name) for name in value.table_names] if isinstance(value, RawSql) else [value]
        records.extend(snapshot.object(ObjectKind.TABLE, table) for table in tables if isinstance(table, Table))
        return value

    deep_map(with_versions(task, resolve_arguments(task, snapshot), snapshot), note)
    places = {(str(record.container), str(record.location)) for record in records}
    return attrs.evolve(stored, sources=tuple(sorted(places.union(*(record.sources for record in records)))))
