"""How a table store changes schemas, and what readers see in them, while others are at work."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from pipedag_airflow.backend.table.sql import ddl
from pipedag_airflow.backend.table.sql.facts import ObjectType

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import pyarrow as pa
    import sqlalchemy as sa

    from pipedag_airflow.backend.metadata import Place
    from pipedag_airflow.backend.table.sql.relocation import Relocation
    from pipedag_airflow.core.containers import Table

__all__ = ["StoreSchemas"]


class StoreSchemas:
    """The part of :class:`SQLTableStore` that is about schemas; a dialect does here what its database can do better."""

    #: Whether a table can be moved between schemas without copying it.
    moves_tables: ClassVar[bool] = False

    def is_busy(self, error: sa.exc.DBAPIError) -> bool:
        """Say whether a statement failed only because of what others were doing at that moment."""
        del error
        return False

    def limit_lock_wait(self, connection: sa.Connection) -> None:
        """Let no statement of the transaction wait long for what others hold, where they may hold something."""
        del connection

    def lock_holders(self, connection: sa.Connection, schemas: Sequence[str]) -> list[str]:
        """Return in words who holds locks on the tables of schemas, where the database tells."""
        del connection, schemas
        return []

    def held_tables(self, connection: sa.Connection, schema: str) -> set[Place]:
        """Return where the tables of a schema are on which others hold locks, where the database tells."""
        del connection, schema
        return set()

    def lock(self, connection: sa.Connection, *names: str) -> None:
        """Let others who want one of the names wait until the transaction ends, where there may be others.

        The names are taken in the order in which they are given.
        """
        del connection, names

    def enter_schema(self, connection: sa.Connection, schema: str, *, alone: bool) -> None:
        """Let others who make something in a schema wait until the transaction ends, where the catalog tells not whose.

        Args:
            connection: The connection of the transaction.
            schema: The schema.
            alone: Whether it has to be told what the transaction itself has made; else only who needs that waits.
        """
        del connection, schema, alone

    def create_schema(self, connection: sa.Connection, schema: str) -> None:
        """Create a schema unless it is there."""
        connection.execute(ddl.CreateSchema(schema))

    def refuse_dependents(self, connection: sa.Connection, schema: str) -> None:
        """Refuse to drop what is in a schema if something outside of it depends on that, where the database tells.

        Raises:
            StoreError: if there is something; the message names it.
        """
        del connection, schema

    def content(self, connection: sa.Connection, schema: str) -> list[str]:
        """Return in words what is in a schema; where scripts make what we keep no account of, only tables and views."""
        return sorted(name for _, name in self.list_objects(connection, [schema]))

    def drop_schema(self, connection: sa.Connection, schema: str) -> None:
        """Drop a schema that has no content; what we keep no account of goes with it."""
        connection.execute(ddl.DropSchema(schema, cascade=True))

    def create_table(
        self, connection: sa.Connection, verb: ddl.CreateTable, table: Table[Any], arrow: pa.Table
    ) -> None:
        """Create an empty table for data.

        Args:
            connection: The connection of the transaction.
            verb: The table, with the types that its columns have if nothing is said against it.
            table: What its maker says of it.
            arrow: The data that it is for.
        """
        del table, arrow
        connection.execute(verb)

    def create_table_as(self, connection: sa.Connection, verb: ddl.CreateTableAs, table: Table[Any]) -> None:
        """Create a table from a query, and fill it; ``table`` is what its maker says of it."""
        del table
        connection.execute(verb)

    def show(self, connection: sa.Connection, view: ddl.CreateView, *, repoint: bool) -> None:
        """Create a view, or let it show another table; ``repoint``: if need be, change views of others that read it.

        Raises:
            StoreError: if they would have to be changed and cannot; the message names them.
        """
        del repoint
        connection.execute(view)

    def hide(self, connection: sa.Connection, schema: str, name: str) -> None:
        """Remove what :meth:`show` has created."""
        connection.execute(ddl.DropObject(ObjectType.VIEW, schema, name))

    def refuse_null(self, connection: sa.Connection, schema: str, name: str, columns: Sequence[str]) -> None:
        """Let some columns of a new table hold no NULL, and the others hold it."""
        for column in columns:
            connection.execute(ddl.SetNotNull(schema, name, column))

    def prepare_keys(
        self,
        connection: sa.Connection,
        schema: str,
        name: str,
        primary_key: Collection[str],
        indexes: Collection[Sequence[str]],
    ) -> None:
        """Bring columns of a new table into types that a primary key and indexes can have, where not all are such."""
        del connection, schema, name, primary_key, indexes

    def show_definition(self, connection: sa.Connection, schema: str, place: Place) -> None:
        """Let a function or its like be found in a schema of views; where it cannot be, it stays where it was made."""
        del connection, schema, place

    def hide_definition(self, connection: sa.Connection, schema: str, label: str) -> None:
        """Remove from a schema of views what :meth:`show_definition` has put there."""
        del connection, schema, label

    def list_definitions(self, connection: sa.Connection, schemas: Sequence[str], *, own: bool = False) -> list[Place]:
        """Return the functions, sequences and types of schemas that scripts have made, by (schema, label).

        Empty where we do not keep account of them: they stay in the schema in which they were made. ``own`` as below.
        """
        del connection, schemas, own
        return []

    def naming_in_text(self, connection: sa.Connection, schema: str, labels: Collection[str]) -> list[str]:
        """Return the labels of the functions in a schema that name it in a text, which follows nothing that moves."""
        del connection, schema, labels
        return []

    def drops(self, connection: sa.Connection, schema: str) -> list[tuple[str, sa.schema.ExecutableDDLElement]]:
        """Return what would drop each thing in a schema by its name or label; what depends on something else first."""
        found = self.list_objects(connection, [schema])
        return [(name, ddl.DropObject(kind, schema, name)) for (_, name), kind in reversed(found.items())]

    def drop(self, connection: sa.Connection, drops: Sequence[sa.schema.ExecutableDDLElement]) -> None:
        """Drop things of a schema, given in the order of :meth:`drops`; nothing else is dropped with them."""
        for drop in drops:
            connection.execute(drop)

    @abstractmethod
    def list_objects(
        self, connection: sa.Connection, schemas: Sequence[str], *, own: bool = False
    ) -> dict[Place, ObjectType]:
        """Return what the tables and views of schemas are by (schema, name).

        What depends on something else comes after it.

        Args:
            connection: The connection of the transaction.
            schemas: The schemas.
            own: Whether to leave out what others have committed while the transaction was under way, where it would
                see that. It has all that the transaction itself has made.
        """

    @abstractmethod
    def identities(self, connection: sa.Connection, schema: str) -> dict[Place, int]:
        """Return by what the database tells each table and view of a schema from others that have had its name."""

    def copy_table(self, connection: sa.Connection, source: Place, target: Place) -> None:
        """Copy a table with its rows, keys and indexes; to be provided by a store that tells of ``held_tables``.

        Raises:
            TableBusyError: if only moving it would do.
        """
        raise NotImplementedError(f"{type(self).__name__} copies no tables")

    def relocate(self, connection: sa.Connection, relocation: Relocation, ours: Collection[Place]) -> None:
        """Move tables and views between schemas; to be provided by a store that ``moves_tables``.

        Args:
            connection: The connection of the transaction.
            relocation: What moves.
            ours: Where everything is that we have made in this database.

        Raises:
            StoreError: if something stands in the way, or depends on what leaves.
        """
        raise NotImplementedError(f"{type(self).__name__} moves no tables")
