"""Where tables are, and that they have moved: statements on the objects of all generations at once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import attrs
import sqlalchemy as sa

from pipedag_airflow.backend.metadata.records import ObjectKind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

__all__ = ["Place", "PlaceRepository"]

#: Schema and name of a table, as the database has them; of a definition with its label, "function f(integer)".
Place = tuple[str, str]


@attrs.frozen
class PlaceRepository:
    """Reads and changes the places of tables and views on an open connection.

    Args:
        connection: A connection within a transaction; committing is the caller's.
        stored: The object table.
    """

    connection: sa.Connection
    stored: sa.Table

    def all(self) -> set[Place]:
        """Return the places of every table, view and definition that a generation of any stage has."""
        query = sa.select(self.stored.c.container, self.stored.c.location).where(self._is_in_schema)
        return {(schema, name) for schema, name in self.connection.execute(query.distinct())}

    def ids_at(self, place: Place) -> set[str | None]:
        """Return what identifies the rows of the table at a place, as the generations say that have it there."""
        stored = self.stored
        is_there = (stored.c.container == place[0]) & (stored.c.location == place[1])
        query = sa.select(stored.c.facts).where(stored.c.kind == ObjectKind.TABLE.value, is_there)
        return {json.loads(facts).get("id") for facts in self.connection.scalars(query)}

    def made_empty(self, places: Collection[Place]) -> set[Place]:
        """Return those of some places at which a table had no rows when it was made."""
        schemas, names = {schema for schema, _ in places}, {name for _, name in places}
        query = sa.select(self.stored.c.container, self.stored.c.location).where(
            self.stored.c.rows == 0, self.stored.c.container.in_(schemas), self.stored.c.location.in_(names)
        )
        return {(schema, name) for schema, name in self.connection.execute(query.distinct())} & set(places)

    def shown_by_others(self, stage: str) -> set[Place]:
        """Return the places of the tables that views of other stages show."""
        stored = self.stored
        query = sa.select(stored.c.sources).where(stored.c.sources.is_not(None), stored.c.stage != stage)
        return {(schema, name) for text in self.connection.scalars(query) for schema, name in json.loads(text)}

    def note_copy(self, stage: str, generation: int, name: str, place: Place) -> None:
        """Record that a generation has a copy of its own of a table."""
        this = self._is_in_schema & (self.stored.c.stage == stage) & (self.stored.c.generation == generation)
        copied = sa.update(self.stored).where(this, self.stored.c.name == name)
        self.connection.execute(copied.values(container=place[0], location=place[1]))

    def note_moves(self, moves: Iterable[tuple[Place, Place]]) -> None:
        """Record that tables are elsewhere now, for all generations that have them and all views that show them.

        Args:
            moves: Where each was and where it is, in the order in which they have moved.
        """
        moves = list(moves)
        for (schema, name), (new_schema, new_name) in moves:
            this = self._is_in_schema & (self.stored.c.container == schema) & (self.stored.c.location == name)
            moved = sa.update(self.stored).where(this)
            self.connection.execute(moved.values(container=new_schema, location=new_name))
        if moves:
            self._note_sources(moves)

    def _note_sources(self, moves: Sequence[tuple[Place, Place]]) -> None:
        """Record where views find now what they show; the database itself goes by no name."""
        key = tuple(self.stored.primary_key)
        query = sa.select(*key, self.stored.c.sources).where(self.stored.c.sources.is_not(None))
        for *values, text in self.connection.execute(query).all():
            before = after = [(schema, name) for schema, name in json.loads(text)]
            for old, new in moves:
                after = [new if place == old else place for place in after]
            if after != before:
                this = sa.and_(*(column == value for column, value in zip(key, values, strict=True)))
                changed = sa.update(self.stored).where(this).values(sources=json.dumps(sorted(after)))
                self.connection.execute(changed)

    @property
    def _is_in_schema(self) -> sa.ColumnElement[bool]:
        return self.stored.c.kind.in_([kind.value for kind in ObjectKind if kind.is_in_schema])
