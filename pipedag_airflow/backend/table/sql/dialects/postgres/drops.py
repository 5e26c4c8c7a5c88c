"""Several things of PostgreSQL are dropped that may depend on each other in any order, and nothing else with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from pipedag_airflow.backend.table.sql.ddl import DropObject, DropTables
from pipedag_airflow.backend.table.sql.dialects.postgres.errors import state
from pipedag_airflow.backend.table.sql.facts import ObjectType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.schema import ExecutableDDLElement

__all__ = ["drop_all"]

#: SQLSTATE of what is not dropped, because something else needs it.
_NEEDED = "2BP01"


def drop_all(connection: sa.Connection, drops: Sequence[ExecutableDDLElement]) -> None:
    """Drop things, each when nothing needs it any more; tables that need each other are dropped at once.

    What is older may need what is newer: a view that was replaced, a table with a foreign key that was added to it.

    Raises:
        DBAPIError: if something else needs one of them.
    """
    while drops:
        needed = [drop for drop in drops if not _is_dropped(connection, drop)]
        if len(needed) == len(drops):
            needed = _drop_tables(connection, needed)
        drops = needed


def _is_dropped(connection: sa.Connection, drop: ExecutableDDLElement) -> bool:
    """Drop something, and say whether that could be done."""
    try:
        with connection.begin_nested():
            connection.execute(drop)
    except sa.exc.DBAPIError as error:
        if state(error) != _NEEDED:
            raise
        return False
    return True


def _drop_tables(connection: sa.Connection, drops: Sequence[ExecutableDDLElement]) -> list[ExecutableDDLElement]:
    """Drop all tables that are left in one statement, and return the other drops."""
    tables = [drop for drop in drops if isinstance(drop, DropObject) and drop.kind is ObjectType.TABLE]
    if tables:
        connection.execute(DropTables([(drop.schema, drop.name) for drop in tables]))
    else:
        connection.execute(drops[0])  # the server says what needs it
    return [drop for drop in drops if drop not in tables]
