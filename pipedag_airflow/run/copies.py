"""Local copies of the frames that a task has stored, for those who read them next: the option ``store_output``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import attrs
import sqlalchemy as sa

from pipedag_airflow.backend.metadata import ObjectKind
from pipedag_airflow.backend.table.sql.frames.arrow import from_database
from pipedag_airflow.backend.table.sql.frames.base import frame_type_for_object
from pipedag_airflow.backend.table.sql.frames.unread import as_read
from pipedag_airflow.core.containers import Table
from pipedag_airflow.run.snapshot import location_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa

    from pipedag_airflow.backend.metadata import ObjectRecord
    from pipedag_airflow.backend.table.cache import TableCache
    from pipedag_airflow.backend.table.sql.facts import TableLocation
    from pipedag_airflow.backend.table.sql.store import SQLTableStore
    from pipedag_airflow.run.outputs import Output
    from pipedag_airflow.run.session import RunSession

__all__ = ["keep_copies"]

log = logging.getLogger(__name__)


def keep_copies(session: RunSession, outputs: Iterable[Output], objects: Iterable[ObjectRecord]) -> None:
    """Keep copies of the frames of a result, if the configuration says so; what fails is a line in the log.

    To be called when all is stored and committed: a copy is what a read would give, and nobody waits for it with a
    transaction open.

    Args:
        session: The run.
        outputs: The result.
        objects: What was stored of it.
    """
    cache = session.store.local_table_cache
    if cache is None or not cache.store_output:
        return
    stored = {record.name: record for record in objects if record.kind is ObjectKind.TABLE}
    for output in outputs:
        if not isinstance(output.container, Table) or session.store.is_query(output.container.obj):
            continue
        location = attrs.evolve(location_of(stored[output.name]), keep_copy=True)
        try:
            _keep_copy(session.store, cache, location, output)
        except Exception as error:  # the table is stored; whatever is wrong with the copy is no failure of the task
            log.warning("No local copy of table %s.%s was kept: %s", location.stage, location.name, error)


def _keep_copy(store: SQLTableStore, cache: TableCache, location: TableLocation, output: Output) -> None:
    """Keep what a read of the table gives; it is read only where its types do not tell."""
    table = output.container
    assert isinstance(table, Table)
    # What was stored while the function ran may have been changed by it since.
    certain = not table.type_map and not output.stored
    with store.connection() as connection:
        known = _known(store, connection, location, table.obj) if certain else None
        if known is None:
            store.fetch_table(connection, location)
    if known is not None:
        cache.keep(location, known)


def _known(store: SQLTableStore, connection: sa.Connection, location: TableLocation, obj: Any) -> pa.Table | None:
    kind = frame_type_for_object(obj)
    if kind is None or not kind.has_data(obj):
        return None
    nothing = sa.select(store.table_reference(location)).where(sa.false())
    schema = from_database(store.fetch_arrow(connection, nothing)).schema
    return as_read(kind.to_arrow(obj, location.name), schema)
