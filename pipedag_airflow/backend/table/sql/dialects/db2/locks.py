"""Db2's clock for leases, and locks on names for a transaction: those of rows that stand for them.

Db2 has no locks on names. A table of the metadata schema has a row for each number that a name may be hashed to. Two
names that share a number wait for each other without need, and for nothing else.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from pipedag_airflow.backend.metadata.leases import PresentTime
from pipedag_airflow.backend.table.sql.dialects.db2.ddl import MakeVolatile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.sql.compiler import SQLCompiler

__all__ = ["add_lock_table", "lock_in_transaction"]

# Its present time has no time zone: it is that of the server's place.


@compiles(PresentTime, "ibm_db_sa")
def _present_time(_element: PresentTime, _compiler: SQLCompiler, **_: Any) -> str:
    return "EXTRACT(EPOCH FROM CURRENT TIMESTAMP - CURRENT TIMEZONE)"


#: The first words of names that a transaction locks one after the other, and not all at once. Numbers of their own keep
#: two transactions from taking shared numbers in opposite orders.
_KINDS = ("run", "opening", "publish", "schema")
_ROOT = 256
_NUMBERS = _ROOT**2 // (len(_KINDS) + 1)


def add_lock_table(metadata: sa.MetaData) -> sa.Table:
    """Add the table of locks to the tables of the metadata schema; it is filled when all of them are made.

    Args:
        metadata: The tables.

    Returns:
        The table.
    """
    table = sa.Table("name_lock", metadata, sa.Column("number", sa.Integer, primary_key=True, autoincrement=False))

    def prepare(_target: sa.MetaData, connection: sa.Connection, tables: Sequence[sa.Table], **_: Any) -> None:
        connection.execute(sa.insert(table), [{"number": number} for number in range(_ROOT)])
        # All with all of these, so that few rows are sent: the hundreds of a number, and its units.
        units, hundreds = table.alias("units"), table.alias("hundreds")
        both = units.join(hundreds, hundreds.c.number < _ROOT - 1)
        rest = sa.select((hundreds.c.number + 1) * _ROOT + units.c.number).select_from(both)
        connection.execute(sa.insert(table).from_select(["number"], rest))
        # Who looks for a row by going through all of them would wait for each that somebody has locked.
        for made in tables:
            connection.execute(MakeVolatile((str(made.schema), made.name)))

    sa.event.listen(metadata, "after_create", prepare)
    return table


def lock_in_transaction(
    connection: sa.Connection, table: sa.Table, names: Iterable[str], *, share: bool = False
) -> None:
    """Wait for one name after the other, and keep them until the transaction ends.

    Args:
        connection: A connection within a transaction.
        table: The table of locks.
        names: The names.
        share: Whether to let others have them, too, who share.
    """
    for number in sorted(set(map(_number, names))):
        query = sa.select(table.c.number).where(table.c.number == number)
        connection.execute(query.with_for_update(read=share)).all()


def _number(name: str) -> int:
    kind = name.partition(" ")[0]
    block = 1 + _KINDS.index(kind) if kind in _KINDS else 0
    return block * _NUMBERS + zlib.crc32(name.encode()) % _NUMBERS
