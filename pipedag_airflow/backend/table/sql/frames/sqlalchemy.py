"""SQLAlchemy: queries as results, tables as inputs. The data stay in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pipedag_airflow.backend.table.sql.frames.base import FrameType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipedag_airflow.backend.table.sql.facts import TableLocation
    from pipedag_airflow.backend.table.sql.store import SQLTableStore
    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.core.containers import Table

__all__ = ["SQLAlchemyFrames", "as_query"]


class SQLAlchemyFrames(FrameType):
    """SQLAlchemy selectables and texts; a task with ``input_type=sqlalchemy.Table`` receives an alias of each table."""

    by_reference = True

    def recognises(self, obj: Any) -> bool:
        """Say whether the object is a query, a table or a text."""
        return isinstance(obj, (sa.sql.expression.Selectable, sa.sql.expression.TextClause))

    def accepts(self, input_type: Any) -> bool:
        """Say whether SQLAlchemy tables are asked for."""
        return input_type in (sa.Table, sa.Alias, sa.sql.expression.Alias)

    def write(self, transaction: SQLTransaction, schema: str, table: Table[Any], details: Mapping[str, Any]) -> None:
        """Create the table from the query, within the database."""
        # A type_map is not looked at: the types of a query are the database's business.
        transaction.create_from_query(schema, table, as_query(table.obj), details)

    def as_query(self, store: SQLTableStore, obj: Any, name: str) -> sa.sql.ClauseElement:
        """Return the query itself, or one of all rows of a table."""
        del store, name
        return as_query(obj)

    def read(
        self, store: SQLTableStore, connection: sa.Connection | None, location: TableLocation, input_type: Any
    ) -> sa.FromClause:
        """Return an alias of the table, named like the table; its columns are known without asking the database.

        If the task has several tables of one name, each alias has a number.
        """
        del connection, input_type
        return store.named_reference(location)


def as_query(obj: Any) -> sa.sql.ClauseElement:
    """Return a query of a selectable: a bare table or alias stands for all of its rows."""
    if isinstance(obj, sa.sql.expression.FromClause) and not isinstance(obj, sa.sql.expression.SelectBase):
        return sa.select(obj)
    assert isinstance(obj, sa.sql.ClauseElement)
    return obj
