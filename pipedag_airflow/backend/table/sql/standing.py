"""Whether the rows at a place are those that a reader means: a publish may move tables while they are read.

Who only reads them looks at the end whether all has stayed as it was. Who keeps a copy of them, as what a certain
storing of a table has stored, must be sure.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from pipedag_airflow.backend.metadata import MetadataRepository
from pipedag_airflow.backend.metadata.places import PlaceRepository

if TYPE_CHECKING:
    import sqlalchemy as sa

    from pipedag_airflow.backend.table.sql.facts import TableLocation
    from pipedag_airflow.backend.table.sql.store import SQLTableStore

__all__ = ["standing"]


def standing(store: SQLTableStore, connection: sa.Connection, location: TableLocation) -> int | None:
    """Return a number that grows with each publish of a stage, None if other rows than those meant are at a location.

    What is read between two calls that return the same number are the rows that are meant: nothing moves without a
    publish, and a rollback is one, too.

    Args:
        store: The table store.
        connection: The connection on which the rows are read.
        location: Where the rows are, and their ``id``.

    Raises:
        StoreError: if the database cannot be reached.
    """
    # A transaction that began before the rows are read may not see what happens then; where it keeps all others
    # waiting, nothing does.
    looking = nullcontext(connection) if store.admits_one_process else store.connection()
    with looking as look:
        ids = PlaceRepository(look, store.metadata_tables.object).ids_at((location.schema, location.table))
        stages = MetadataRepository(look, store.metadata_tables).stages([location.stage])
    return stages[location.stage].live or 0 if ids == {location.id} and location.stage in stages else None
