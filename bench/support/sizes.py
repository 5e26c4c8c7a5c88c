"""What a PostgreSQL server says of itself, by SQLAlchemy alone, which both sides have."""

from __future__ import annotations

import sqlalchemy as sa

__all__ = ["database_bytes", "wal_bytes"]


def wal_bytes(url: str) -> int:
    """Return how much the server has written to its log so far."""
    return _number(url, "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")


def database_bytes(url: str) -> int:
    """Return the size of a database."""
    return _number(url, "SELECT pg_database_size(current_database())")


def _number(url: str, query: str) -> int:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return int(connection.exec_driver_sql(query).scalar_one())
