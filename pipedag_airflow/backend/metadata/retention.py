"""All statements on what is kept of old generations, within one transaction of the table store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import attrs
import sqlalchemy as sa

from pipedag_airflow.backend.metadata.records import ObjectKind, PlaceRecord

if TYPE_CHECKING:
    from collections.abc import Collection

    from pipedag_airflow.backend.metadata.tables import MetadataTables

__all__ = ["RetentionRepository"]


@attrs.frozen
class RetentionRepository:
    """Reads where things are, and deletes the rows of generations, on an open connection.

    Args:
        connection: A connection within a transaction; committing is the caller's.
        tables: The tables of the metadata schema.
    """

    connection: sa.Connection
    tables: MetadataTables

    def places(self, stage: str) -> list[PlaceRecord]:
        """Return where the tables and blobs of all generations of a stage are, and what views of any stage show."""
        stored = self.tables.object
        columns = [stored.c[field.name] for field in attrs.fields(PlaceRecord)]
        wanted = sa.or_(stored.c.stage == stage, stored.c.sources.is_not(None))
        query = sa.select(*columns).where(stored.c.kind != ObjectKind.SCRIPT.value, wanted)
        return [_place(row) for row in self.connection.execute(query)]

    def count_tasks(self, stage: str) -> dict[int, int]:
        """Return the number of task rows of each generation of a stage that has any."""
        task = self.tables.task
        count = sa.func.count().label("tasks")
        query = sa.select(task.c.generation, count).where(task.c.stage == stage).group_by(task.c.generation)
        return {row.generation: row.tasks for row in self.connection.execute(query)}

    def forget_generation(self, stage: str, number: int, keeping: Collection[str] = ()) -> None:
        """Delete the task and object rows of a generation.

        Args:
            stage: Name of the stage.
            number: Number of the generation.
            keeping: Locations of tables whose rows stay, because views of other stages show them: they are ours.
        """
        task, stored = self.tables.task, self.tables.object
        self.connection.execute(sa.delete(task).where(task.c.stage == stage, task.c.generation == number))
        forgotten = sa.delete(stored).where(stored.c.stage == stage, stored.c.generation == number)
        kept = stored.c.location.in_(sorted(keeping))
        self.connection.execute(forgotten.where(sa.or_(stored.c.location.is_(None), ~kept)) if keeping else forgotten)

    def mark_dropped(self, stage: str, number: int) -> None:
        """Note that neither rows nor a schema are left of a generation."""
        generation = self.tables.generation
        dropped = (generation.c.stage == stage) & (generation.c.number == number)
        self.connection.execute(sa.update(generation).where(dropped).values(dropped=True))


def _place(row: sa.Row[tuple[object, ...]]) -> PlaceRecord:
    fields = dict(row._mapping)
    sources = tuple((schema, name) for schema, name in json.loads(fields["sources"] or "[]"))
    return PlaceRecord(**fields | {"kind": ObjectKind(fields["kind"]), "sources": sources})
