"""PostgreSQL's advisory locks: for a transaction, or for as long as a connection lives."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import sqlalchemy as sa

from pipedag_airflow.backend.table.sql.session_locks import SessionLocks

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["PostgresSessionLocks", "lock_in_transaction"]

#: For connections on which the server hears nothing: probe after, probe again, and give up after so many probes.
_KEEPALIVES = {"tcp_keepalives_idle": "20", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3"}
_LOCKS = sa.table(
    "pg_locks",
    *(sa.column(name) for name in ("locktype", "database", "classid", "objid", "objsubid", "granted")),
    schema="pg_catalog",
)
_DATABASE = sa.table("pg_database", sa.column("oid"), sa.column("datname"), schema="pg_catalog")


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def lock_in_transaction(connection: sa.Connection, names: Iterable[str]) -> None:
    """Wait for one lock after the other, and keep them until the transaction ends."""
    # The columns of a row are evaluated from left to right.
    connection.execute(sa.select(*(sa.func.pg_advisory_xact_lock(_key(name)) for name in names)))


class PostgresSessionLocks(SessionLocks):
    """Advisory locks of a connection.

    A pooler between us and the server must give each client a connection of its own.
    """

    def prepare(self, connection: sa.Connection) -> None:
        """Let the server probe the connection, which also keeps firewalls from forgetting it."""
        for name, value in _KEEPALIVES.items():
            connection.execute(sa.select(sa.func.set_config(name, value, sa.false())))

    def take(self, connection: sa.Connection, name: str) -> bool:
        """Take a lock for as long as the connection lives."""
        return bool(connection.execute(sa.select(sa.func.pg_try_advisory_lock(_key(name)))).scalar_one())

    def free(self, connection: sa.Connection, name: str) -> None:
        """Give back a lock of the connection."""
        connection.execute(sa.select(sa.func.pg_advisory_unlock(_key(name))))

    def find(self, connection: sa.Connection, name: str) -> bool:
        """Return whether any connection to the database has a lock."""
        here = sa.select(_DATABASE.c.oid).where(_DATABASE.c.datname == sa.func.current_database()).scalar_subquery()
        high, low = divmod(_key(name) % (1 << 64), 1 << 32)
        query = sa.select(_LOCKS.c.locktype).where(
            _LOCKS.c.locktype == "advisory",
            _LOCKS.c.database == here,
            sa.cast(_LOCKS.c.classid, sa.BigInteger) == high,
            sa.cast(_LOCKS.c.objid, sa.BigInteger) == low,
            _LOCKS.c.objsubid == 1,  # of locks with one key of 64 bits
            _LOCKS.c.granted,
        )
        return connection.execute(query.limit(1)).first() is not None

    def known_since(self, connection: sa.Connection) -> float:
        """Return when the server was started, in seconds since 1970 by its clock."""
        return float(connection.execute(sa.select(sa.func.pg_postmaster_start_time())).scalar_one().timestamp())
