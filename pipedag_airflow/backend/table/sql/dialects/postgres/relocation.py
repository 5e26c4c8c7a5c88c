"""Tables change schemas on PostgreSQL, in one transaction, and nobody who builds on them is broken.

Everything that readers see of the stage is locked first, what stays as well. A reader that has begun keeps it until its
transaction ends, and we wait; a reader that comes later waits for us, and then finds what arrived under the name. So no
statement sees one table of the old generation and one of the new, and no transaction that has begun to read the stage.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING

import attrs
import sqlalchemy as sa

from pipedag_airflow.backend.table.sql import ddl
from pipedag_airflow.backend.table.sql.dialects.postgres.attachments import (
    Attachment,
    attachments,
    warn_of_what_stays_behind,
)
from pipedag_airflow.backend.table.sql.dialects.postgres.catalog import columns, indexes
from pipedag_airflow.backend.table.sql.dialects.postgres.ddl import (
    AlterOwner,
    AsWritten,
    LockTables,
    RenameIndex,
    RenameRelation,
    ReplaceView,
    SetSchema,
)
from pipedag_airflow.backend.table.sql.dialects.postgres.definitions import (
    Definition,
    copy_grants,
    definition_dependents,
    definitions,
    move_definition,
)
from pipedag_airflow.backend.table.sql.dialects.postgres.dependents import Dependent, find_dependents
from pipedag_airflow.backend.table.sql.dialects.postgres.errors import is_busy, reason, state
from pipedag_airflow.backend.table.sql.dialects.postgres.grants import default_grants, grants
from pipedag_airflow.backend.table.sql.facts import ObjectType
from pipedag_airflow.errors import StoreError, TableBusyError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from pipedag_airflow.backend.metadata import Place
    from pipedag_airflow.backend.table.sql.relocation import Move, Relocation

__all__ = ["PostgresRelocation"]

_FIND = sa.text("""
    SELECT n.nspname, c.relname, c.oid, c.relkind::text AS kind, o.rolname AS owner
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
    WHERE n.nspname IN :schemas AND c.relname IN :names
""").bindparams(sa.bindparam("schemas", expanding=True), sa.bindparam("names", expanding=True))

_WORDS = {"r": "table", "p": "table", "f": "table", "v": "view", "m": "materialized view", "S": "sequence", "c": "type"}
#: SQLSTATEs of a relation, a function or a type whose name is taken.
_IS_THERE = ("42P07", "42723", "42710")


@attrs.frozen
class _Found:
    oid: int
    kind: str
    owner: str
    #: What a function, a sequence or a type is; None for tables and views.
    definition: Definition | None = None

    @property
    def can_be_locked(self) -> bool:
        """Whether LOCK TABLE locks it, and nothing else with it."""
        return self.kind in ("r", "p")


class PostgresRelocation:
    """One relocation.

    Args:
        connection: A connection within the transaction of the publish, which waits for locks only briefly.
        relocation: What moves.
        ours: Where everything is that we have made in this database.
    """

    def __init__(self, connection: sa.Connection, relocation: Relocation, ours: Collection[Place]) -> None:
        self.connection = connection
        self.relocation = relocation
        self.ours = ours

    def run(self) -> None:
        """Move everything.

        Raises:
            TableBusyError: if somebody builds something on the tables at this moment.
            StoreError: if something stands in the way, or depends on what leaves and cannot be made to read what
                arrives; the message names it.
            DBAPIError: if a lock is not given in time.
        """
        # So the server writes every name in a definition in full.
        self.connection.execute(sa.select(sa.func.set_config("search_path", "", True)))
        self._refuse_strangers()
        views = self._lock(self._dependents())
        kept = grants(self.connection, self.relocation.schema, self._replaced)
        attached = attachments(self.connection, self.relocation.schema, self._replaced)
        warn_of_what_stays_behind(self.connection, self.relocation.schema, self._replaced)
        self._move()
        self._grant(kept)
        self._attach(attached)
        copy_grants(self.connection, self._replaced_definitions, self._definitions_now())
        for view in views:
            self._repoint(view)
        for schema, name in self.relocation.obsolete:
            self.connection.execute(ddl.DropObject(ObjectType.VIEW, schema, name))

    @cached_property
    def _found(self) -> dict[Place, _Found]:
        """What is at each place that matters."""
        moves = (*self.relocation.leaving, *self.relocation.arriving)
        places = {place for move in moves for place in (move.source, move.target)} | set(self.relocation.staying)
        schemas, names = {schema for schema, _ in places}, {name for _, name in places}
        if not places:
            return {}
        rows = self.connection.execute(_FIND, {"schemas": sorted(schemas), "names": sorted(names)})
        found = {(row.nspname, row.relname): _Found(row.oid, row.kind, row.owner) for row in rows}
        defined = definitions(self.connection, sorted(schemas))
        return found | {place: _Found(other.oid, "", "", other) for place, other in defined.items() if place in places}

    @property
    def _leaving(self) -> list[Move]:
        """What leaves and is still there."""
        return [move for move in self.relocation.leaving if move.source in self._found]

    @property
    def _visible(self) -> list[Place]:
        """What readers see until now, in the order of the object ids, which is that of all who lock several."""
        places = {*(move.source for move in self._leaving), *(self._found.keys() & set(self.relocation.staying))}
        tables = (place for place in places if self._found[place].definition is None)
        return sorted(tables, key=lambda place: self._found[place].oid)

    @property
    def _arriving(self) -> set[str]:
        """The names of what arrives, and of the views that are made."""
        names = {move.target[1] for move in self.relocation.arriving}
        return names | {view.name for view in self.relocation.made}

    @property
    def _arriving_definitions(self) -> set[str]:
        """The labels of the functions, sequences and types that arrive."""
        moves = (move for move in self.relocation.arriving if move.source in self._found)
        return {move.target[1] for move in moves if self._found[move.source].definition is not None}

    @property
    def _replaced(self) -> set[str]:
        """The names of what leaves and is replaced."""
        return self._arriving & {move.source[1] for move in self._leaving}

    @property
    def _replaced_definitions(self) -> dict[str, Definition]:
        """The functions, sequences and types that leave and are replaced, by label."""
        leaving = {move.source[1]: self._found[move.source].definition for move in self._leaving}
        return {name: other for name, other in leaving.items() if other is not None and name in self._arriving}

    def _definitions_now(self) -> dict[str, Definition]:
        """Those in the schema of the stage that have replaced them."""
        if not self._replaced_definitions:
            return {}
        return {label: other for (_, label), other in definitions(self.connection, [self.relocation.schema]).items()}

    def _refuse_strangers(self) -> None:
        """Refuse if a name is taken by something that is not ours."""
        leaving = {move.source for move in self.relocation.leaving}
        for move in (*self.relocation.arriving, *self._leaving):
            if move.target in self._found and move.target not in leaving:
                raise self._in_the_way(move, f"the {self._named(move.target)} is there")

    def _in_the_way(self, move: Move, what: str) -> StoreError:
        """Return the error of a move to a place that is taken."""
        return StoreError(
            f"Schema {self.relocation.schema!r} cannot be published: the {self._named(move.source)} is to go to schema "
            f"{move.target[0]!r}, but {what}, which is not ours: nothing is dropped that we did not create. Rename it, "
            "or move it to another schema, then publish again (in Airflow: clear the commit). Readers see what they "
            "saw before, and everything that was made is kept."
        )

    def _named(self, place: Place) -> str:
        """Return in words what is at a place."""
        schema, name = place
        found = self._found.get(place)
        if found is not None and found.definition is not None:
            kind, _, name = name.partition(" ")
            return f"{kind} {schema}.{name}"
        # What has left before it arrives has another place by now; only tables and views do that.
        kind = "table" if found is None else _WORDS.get(found.kind, "relation")
        return f"{kind} {schema}.{name}"

    def _dependents(self) -> list[Dependent]:
        """Return the views of others that are to read what arrives.

        Raises:
            StoreError: if there is something that cannot; the message names it.
        """
        leaving = {move.source[1]: self._found[move.source] for move in self._leaving}
        names = {found.oid: name for name, found in leaving.items()}
        defined = [found.definition for found in leaving.values() if found.definition is not None]
        tables = [found.oid for found in leaving.values() if found.definition is None]
        # What is obsolete is dropped in the end: then nothing may be left that reads it, not even of ours.
        obsolete = {self._found[move.source].oid for move in self._leaving if move.target in self.relocation.obsolete}
        found = [
            other
            for other in (
                *find_dependents(self.connection, tables),
                *definition_dependents(self.connection, defined),
            )
            if other.place not in self.ours or other.source in obsolete
        ]
        stuck: dict[str, list[str]] = defaultdict(list)
        for other in found:
            why = self._why_stuck(other, names[other.source])
            if why:
                stuck[names[other.source]].append(f"{other} ({why})")
        if not stuck:
            return list({view.oid: view for view in found}.values())
        schema = self.relocation.schema
        labels = {name for name, found in leaving.items() if found.definition is not None}
        listed = "; ".join(
            f"on {name if name in labels else f'{schema}.{name}'}: {', '.join(others)}"
            for name, others in sorted(stuck.items())
        )
        raise StoreError(
            f"Schema {schema!r} cannot be published, as others have built on what it replaces: {listed}. "
            "Drop or change them, then publish again (in Airflow: clear the commit). Readers see what they saw before, "
            "and everything that was made is kept."
        )

    def _why_stuck(self, other: Dependent, name: str) -> str | None:
        """Say why a dependent cannot be made to read what arrives under the name."""
        if name not in self._arriving:
            return "that is not published any more"
        if other.definition is None or other.kind != "view":
            return "only views can be made to read another table"
        if not self.relocation.repoint:
            return "the configuration says dependents: fail"
        return None if other.changeable else f"it belongs to {other.owner!r}, and we are no member of that role"

    def _lock(self, views: Sequence[Dependent]) -> list[Dependent]:
        """Lock the views that will be changed, and then all that readers see; return the views as they are then.

        Views first, as their readers come by way of them. LOCK TABLE would lock all that a view reads, so a view is
        told to keep its owner.
        """
        for view in views:
            assert view.owner is not None
            self.connection.execute(AlterOwner(view.place, view.owner))
        tables = [place for place in self._visible if self._found[place].can_be_locked]
        for place in self._visible:
            if place not in tables:
                self.connection.execute(AlterOwner(place, self._found[place].owner))
        if tables:
            self.connection.execute(LockTables(tables))
        now = self._dependents()
        if [view.oid for view in now] != [view.oid for view in views]:
            raise TableBusyError(f"Somebody is making views on schema {self.relocation.schema!r} at this moment.")
        return now

    def _move(self) -> None:
        for move in self._leaving:
            self._move_one(move)
        for move in self.relocation.arriving:
            self._move_one(move)
        for view in self.relocation.made:
            self.connection.execute(view)

    def _move_one(self, move: Move) -> None:
        """Move one thing; that its place is taken is noticed here where something of another kind has its name."""
        try:
            self._move_unchecked(move)
        except sa.exc.DBAPIError as error:
            if state(error) not in _IS_THERE:
                raise
            raise self._in_the_way(move, reason(error)) from error

    def _move_unchecked(self, move: Move) -> None:
        (old_schema, old_name), (schema, name) = move.source, move.target
        definition = self._found[move.source].definition if move.source in self._found else None
        if definition is not None:
            move_definition(self.connection, definition, schema)
            return
        if name == old_name:
            self.connection.execute(SetSchema(move.source, schema))
            return
        # On its way it has a name that is free in both schemas.
        between = f"pipedag_moving_{uuid.uuid4().hex}"
        self.connection.execute(RenameRelation(move.source, between))
        for index in indexes(self.connection, old_schema, between):
            # They are called like the table was, and another one of that name has such indexes, too.
            self.connection.execute(RenameIndex((old_schema, index), f"pipedag_index_{uuid.uuid4().hex}"))
        if schema != old_schema:
            self.connection.execute(SetSchema((old_schema, between), schema))
        self.connection.execute(RenameRelation((schema, between), name))

    def _grant(self, kept: Iterable[ddl.Grant]) -> None:
        """Grant on what has arrived what was granted on what it replaces, or else the defaults; and nothing more."""
        schema, arrived = self.relocation.schema, self._arriving - self._arriving_definitions
        for name, role in {(grant.name, grant.role) for grant in grants(self.connection, schema, arrived)}:
            self.connection.execute(ddl.RevokeAll(schema, name, role))
        present = columns(self.connection, schema)
        known = {(table, column.name) for table in arrived for column in present.get(table, ())}
        for grant in kept:
            if grant.column is None or (grant.name, grant.column) in known:
                self.connection.execute(grant)
        for grant in default_grants(self.connection, schema, arrived - self._replaced):
            self.connection.execute(grant)

    def _attach(self, kept: Iterable[Attachment]) -> None:
        """Attach to what has arrived what was attached to what it replaces; what came with it stays as it is."""
        schema = self.relocation.schema
        own = {attached.key for attached in attachments(self.connection, schema, self._replaced)}
        for attached in kept:
            if attached.key in own:
                continue
            try:
                self.connection.execute(AsWritten(attached.statement))
            except sa.exc.DBAPIError as error:
                if is_busy(error):
                    raise
                raise StoreError(
                    f"Schema {schema!r} cannot be published: the {attached.label} of table {attached.table!r} does not "
                    f"fit the table that replaces it: {reason(error)}. Drop or change it, then publish again (in "
                    "Airflow: clear the commit). Readers see what they saw before, and what was made is kept."
                ) from error

    def _repoint(self, view: Dependent) -> None:
        """Let a view of somebody else read what arrived: its text names the schema of the readers."""
        assert view.definition is not None
        try:
            self.connection.execute(ReplaceView(view.place, view.options, view.definition))
        except sa.exc.DBAPIError as error:
            if is_busy(error):
                raise
            raise StoreError(
                f"Schema {self.relocation.schema!r} cannot be published: {view} reads tables that it replaces, and "
                f"cannot be made to read the new ones: {reason(error)}. Drop or change the view, then publish again "
                "(in Airflow: clear the commit). Readers see what they saw before, and what was made is kept."
            ) from error
