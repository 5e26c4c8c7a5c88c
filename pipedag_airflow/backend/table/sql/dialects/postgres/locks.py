"""How we wait for locks on PostgreSQL: briefly, and never at the cost of a reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from pipedag_airflow.backend.metadata import Place

__all__ = ["held_tables", "limit_lock_wait", "lock_holders"]

#: Whoever comes after us to a table that we wait for waits, too. PostgreSQL looks for deadlocks after a second
#: (``deadlock_timeout``) and ends one of those in the circle: before that we have given up.
_LOCK_TIMEOUT = "50ms"

_HOLDERS = sa.text("""
    SELECT a.pid, a.usename, a.application_name, a.client_addr, a.xact_start, min(n.nspname || '.' || c.relname) AS held
    FROM pg_catalog.pg_locks l
    JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
    JOIN pg_catalog.pg_class c ON c.oid = l.relation
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE l.granted AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
        AND n.nspname IN :schemas AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        AND a.pid <> pg_catalog.pg_backend_pid()
    GROUP BY a.pid, a.usename, a.application_name, a.client_addr, a.xact_start
    ORDER BY a.xact_start
    LIMIT 5
""").bindparams(sa.bindparam("schemas", expanding=True))

_HELD = sa.text("""
    SELECT DISTINCT n.nspname, c.relname
    FROM pg_catalog.pg_locks l
    JOIN pg_catalog.pg_class c ON c.oid = l.relation
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE l.granted AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
        AND n.nspname = :schema AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND l.pid <> pg_catalog.pg_backend_pid()
""")


def held_tables(connection: sa.Connection, schema: str) -> set[Place]:
    """Return where the tables and views of a schema are on which others hold locks at this moment."""
    return {(row.nspname, row.relname) for row in connection.execute(_HELD, {"schema": schema})}


def limit_lock_wait(connection: sa.Connection) -> None:
    """Let no statement of the transaction wait long for a lock."""
    connection.execute(sa.select(sa.func.set_config("lock_timeout", _LOCK_TIMEOUT, True)))


def lock_holders(connection: sa.Connection, schemas: Sequence[str]) -> list[str]:
    """Return who holds locks on the tables of schemas, in words, the oldest transaction first; five at most."""
    return [
        f"process {row.pid} of {row.usename} ({row.application_name or 'no application name'}, "
        f"{row.client_addr or 'no address'}){_since(row.xact_start)} holds {row.held}"
        for row in connection.execute(_HOLDERS, {"schemas": list(schemas)})
    ]


def _since(start: dt.datetime | None) -> str:
    # Only a member of pg_read_all_stats is told about the transactions of others.
    return "" if start is None else f", in a transaction since {start:%Y-%m-%d %H:%M:%S %Z},"
