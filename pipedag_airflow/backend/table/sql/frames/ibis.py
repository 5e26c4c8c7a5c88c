"""Ibis: expressions as results, table expressions as inputs. The data stay in the database."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NoReturn

import attrs

from pipedag_airflow.backend.table.sql.composed import Composed
from pipedag_airflow.backend.table.sql.frames.base import FrameType, is_of
from pipedag_airflow.errors import UnsupportedValueError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import ibis
    import sqlalchemy as sa

    from pipedag_airflow.backend.table.sql.facts import TableLocation
    from pipedag_airflow.backend.table.sql.store import SQLTableStore
    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.core.containers import Table

__all__ = ["IbisFrames"]

#: Ibis' names of dialects, where they are not SQLAlchemy's.
_DIALECTS = {"postgresql": "postgres"}
#: How the stored tables are called, by number, in the SQL that Ibis writes; with the quotes that it puts around.
_NUMBERED = "\ue010{}\ue011"
_TABLE = re.compile(".\ue010([0-9]+)\ue011.")


class IbisFrames(FrameType):
    """Ibis expressions; a task with ``input_type=ibis.Table`` receives a table expression of known columns.

    No connection belongs to it: the expression that the task returns is written as SQL when it is stored, and the
    database evaluates it then.
    """

    by_reference = True

    def recognises(self, obj: Any) -> bool:
        """Say whether the object is a table expression."""
        return is_of(obj, "ibis", "Table")

    def accepts(self, input_type: Any) -> bool:
        """Say whether table expressions are asked for."""
        return getattr(input_type, "__name__", "") == "Table" and input_type.__module__.split(".")[0] == "ibis"

    def name_of(self, obj: ibis.Table) -> str | None:
        """Return the name that the expression got by ``alias``; that of a table in it is not its own."""
        from ibis.expr import operations

        alias = obj.op()
        return str(alias.name) if isinstance(alias, operations.AliasedRelation) else None

    def write(self, transaction: SQLTransaction, schema: str, table: Table[Any], details: Mapping[str, Any]) -> None:
        """Create the table from the expression, within the database."""
        # A type_map is not looked at: the types of a query are the database's business.
        query = self.as_query(transaction.store, table.obj, str(table.name))
        transaction.create_from_query(schema, table, query, details)

    def as_query(self, store: SQLTableStore, obj: ibis.Table, name: str) -> Composed:
        """Return the expression as a query in SQL of the database, in which the stored tables are SQLAlchemy's.

        Raises:
            UnsupportedValueError: if it cannot be written as SQL of the database, holds data of its own, or is about
                tables of another connection.
        """
        import ibis
        from ibis.common.exceptions import IbisError
        from ibis.expr import operations
        from sqlglot.errors import SqlglotError

        dialect = _dialect(store)
        tables: list[sa.Table] = []
        numbered: dict[Any, Any] = {}
        for node in obj.op().find((operations.PhysicalTable, operations.SQLQueryResult)):
            if isinstance(node, (operations.UnboundTable, operations.AliasedRelation)):
                continue  # as it is named there
            source = getattr(node, "source", None)
            if not isinstance(source, _Stored):
                raise _not_ours(node, name)
            numbered[node] = operations.UnboundTable(_NUMBERED.format(len(tables)), schema=node.schema)
            tables.append(store.table_reference(source.location))
        try:
            text = ibis.to_sql(obj.op().replace(numbered).to_expr(), dialect=dialect)
        except (IbisError, SqlglotError, NotImplementedError) as error:
            raise UnsupportedValueError(
                f"The expression of table {name!r} cannot be written as SQL of {dialect}: {type(error).__name__}: "
                f"{error}. Write that part as an SQLAlchemy query, or compute it in a frame."
            ) from error
        # What the expression splits into is by turns a text and the number of a table.
        pieces = [tables[int(piece)] if index % 2 else piece for index, piece in enumerate(_TABLE.split(str(text)))]
        return Composed(pieces, obj.columns)

    def read(
        self, store: SQLTableStore, connection: sa.Connection | None, location: TableLocation, input_type: Any
    ) -> ibis.Table:
        """Return a table expression under the table's logical names; its columns are known without asking the database.

        What Ibis has no type for is of type ``unknown``: it can be passed on and cast.
        """
        import ibis
        from ibis.backends.sql import compilers
        from ibis.expr import operations

        del connection, input_type
        types = getattr(compilers, _dialect(store)).compiler.type_mapper
        # Which columns hold no NULL is not said: Ibis makes no union of two tables that differ in it.
        columns = {column.name: types.from_string(column.type) for column in location.columns}
        table: ibis.Table = operations.DatabaseTable(
            location.alias or location.name,
            schema=ibis.schema(columns),
            source=_Stored(location),
            namespace=operations.Namespace(database=location.stage),
        ).to_expr()
        return table


@attrs.frozen
class _Stored:
    """Stands where Ibis has the connection of a table, and knows which table it is."""

    location: TableLocation

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # what Python asks every object for
            raise AttributeError(name)
        raise UnsupportedValueError(
            f"Table {self.location.stage}.{self.location.name} has no connection while a task runs, and Ibis wants one "
            f"for {name!r}. Return the expression: it is evaluated when it is stored. If the task needs the data "
            "themselves, ask for them with input_type=polars.DataFrame or pandas.DataFrame."
        )


def _dialect(store: SQLTableStore) -> str:
    """Return what Ibis calls the dialect of a store.

    Raises:
        UnsupportedValueError: if it does not know it.
    """
    from ibis.backends.sql import compilers

    dialect = _DIALECTS.get(store.dialect_name, store.dialect_name)
    if not hasattr(compilers, dialect):
        raise UnsupportedValueError(
            f"Ibis writes no SQL for {store.dialect_name}. Use another input_type, sqlalchemy.Table for example."
        )
    return dialect


def _not_ours(node: Any, name: str) -> UnsupportedValueError:
    kind = type(node).__name__
    if kind == "InMemoryTable":
        return UnsupportedValueError(
            f"The expression of table {name!r} holds data (ibis.memtable), which are not in the database. Return them "
            "as a table of their own, and let another task join it."
        )
    return UnsupportedValueError(
        f"The expression of table {name!r} reads something of another connection of Ibis ({kind} "
        f"{getattr(node, 'name', '')!r}). Only what the task received is sure to be in the database; a table of "
        "somebody else's is an ExternalTableReference, or ibis.table(schema, name=..., database=...)."
    )
