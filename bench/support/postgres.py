"""A PostgreSQL server for a benchmark."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg

from pipedag_airflow.testing.postgres import postgres_server

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Server", "connect", "server"]


class Server:
    """A server; each side of a benchmark gets a database of its own."""

    def __init__(self, postgres: object) -> None:
        self._postgres = postgres

    @contextmanager
    def database(self) -> Iterator[str]:
        """Make a database for the block; its URL names the driver that both sides have."""
        with self._postgres.database() as url:
            yield url.set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)


@contextmanager
def server() -> Iterator[Server]:
    """Start a server for the block. It does not wait for the disk, so that all sides wait for the same: nothing."""
    with postgres_server() as postgres:
        yield Server(postgres)


def connect(url: str) -> psycopg.Connection:
    """Open a connection without a transaction."""
    return psycopg.connect(url.replace("+psycopg2", ""), autocommit=True)
