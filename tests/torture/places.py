"""Where the data are, as somebody sees it who knows nothing of us: a PostgreSQL server, or a DuckDB file."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb
import psycopg

from pipedag_airflow.config.embedded import duckdb_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pipedag_airflow.testing.postgres import OwnPostgresServer

    Query = Callable[[str], list[tuple[Any, ...]]]

T = TypeVar("T")

__all__ = ["Client", "DuckDBPlace", "Place", "PostgresPlace"]


class Client:
    """Somebody who reads, and keeps a connection where one can be kept."""

    def transaction(self, isolation: str | None) -> AbstractContextManager[Query]:
        """Give what answers queries, all within one transaction."""
        raise NotImplementedError

    def close(self) -> None:
        """Give up the connection."""


class Place:
    """A database with nothing in it.

    Args:
        folder: A folder for what else is needed.
    """

    name: str
    #: The errors that only mean "wait".
    busy: tuple[type[Exception], ...] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: From when to when the database was not there.
        self.outages: list[tuple[float, float]] = []

    @property
    def url(self) -> str:
        """SQLAlchemy's URL of the database."""
        raise NotImplementedError

    def client(self, role: str | None = None) -> Client:
        """Return a new client; it may be another role than the one that publishes."""
        raise NotImplementedError

    def execute(self, sql: str) -> None:
        """Change something by hand."""
        raise NotImplementedError

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        client = self.client()
        try:
            return self.patiently(lambda: self._ask(client, sql))
        finally:
            client.close()

    @staticmethod
    def _ask(client: Client, sql: str) -> list[tuple[Any, ...]]:
        with client.transaction(None) as query:
            return query(sql)

    def patiently(self, ask: Callable[[], T]) -> T:
        """Ask again and again while a writer has the database for itself."""
        while True:
            try:
                return ask()
            except self.busy:
                time.sleep(0.005)

    def was_out(self, begin: float, end: float) -> bool:
        """Say whether the database was not there for some time between two."""
        return any(since < end and begin < until for since, until in self.outages)


class PostgresPlace(Place):
    """A database of a PostgreSQL server that the torture may crash.

    Args:
        server: The server.
        database: Name of the database.
        folder: A folder for what else is needed.
    """

    name = "postgres"

    def __init__(self, server: OwnPostgresServer, database: str, folder: Path) -> None:
        super().__init__(folder)
        self._server = server
        self._database = database

    @property
    def url(self) -> str:
        """The URL; its port is another one after a crash."""
        return self._server.url.set(drivername="postgresql", database=self._database).render_as_string()

    def client(self, role: str | None = None) -> Client:
        """Return a client with a connection that it keeps."""
        return _PostgresClient(self, role)

    def execute(self, sql: str) -> None:
        """Execute statements in a transaction."""
        with psycopg.connect(self.url) as connection:
            connection.execute(sql)

    def crash(self) -> None:
        """Stop the server as a power cut does, and start it again."""
        since = time.monotonic()
        self.outages.append((since, float("inf")))
        self._server.crash()
        self._server.start()
        self.outages[-1] = (since, time.monotonic())

    def cut(self, application: str) -> int:
        """End the sessions of a program; return how many there were."""
        sql = f"select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = '{application}'"
        return int(self.query(sql)[0][0])


class _PostgresClient(Client):
    def __init__(self, place: PostgresPlace, role: str | None) -> None:
        self._place = place
        self._role = role
        self._connection: psycopg.Connection | None = None

    @contextlib.contextmanager
    def transaction(self, isolation: str | None) -> Iterator[Query]:
        if self._connection is None:
            self._connection = psycopg.connect(self._place.url, autocommit=True)
            if self._role is not None:
                self._connection.execute(f"set role {self._role}")
        connection = self._connection
        if isolation is not None:
            connection.execute(f"begin isolation level {isolation}")
        try:
            yield lambda sql: connection.execute(sql).fetchall()
        except BaseException:
            self.close()
            raise
        if isolation is not None:
            connection.execute("commit")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class DuckDBPlace(Place):
    """A DuckDB file: it is open for one writing process, or for those who read."""

    name = "duckdb"
    busy = (duckdb.IOException,)

    @property
    def url(self) -> str:
        """The URL of the file."""
        return duckdb_url(self.folder / "torture.duckdb")

    def client(self, role: str | None = None) -> Client:
        """Return a client that opens the file for each transaction, so that it lets the writers in."""
        assert role is None, "DuckDB has no roles"
        return _DuckDBClient(self.folder / "torture.duckdb")

    def execute(self, sql: str) -> None:
        """Execute statements in a transaction."""

        def change() -> None:
            with duckdb.connect(self.folder / "torture.duckdb") as connection:
                connection.execute(sql)

        self.patiently(change)


class _DuckDBClient(Client):
    def __init__(self, file: Path) -> None:
        self._file = file

    @contextlib.contextmanager
    def transaction(self, isolation: str | None) -> Iterator[Query]:
        assert isolation is None, "DuckDB has no levels of isolation"
        with duckdb.connect(self._file, read_only=True) as connection:
            yield lambda sql: connection.execute(sql).fetchall()
