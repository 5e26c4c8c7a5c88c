"""What locks send to SQL Server and Db2. Neither runs here: statements are looked at, and answers are made up."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from sqlalchemy.dialects import mssql
from sqlalchemy.engine.default import DefaultDialect

from pipedag_airflow.backend.metadata import MetadataTables
from pipedag_airflow.backend.metadata.leases import LeaseConflictError, LeaseRepository
from pipedag_airflow.backend.table.sql import dialects
from pipedag_airflow.backend.table.sql.dialects.sqlserver.locks import SqlServerSessionLocks, lock_in_transaction
from pipedag_airflow.errors import LockError

if TYPE_CHECKING:
    import sqlalchemy as sa


class Db2(DefaultDialect):
    """As much of the dialect as matters here; its own package needs a driver that is no Python."""

    name = "ibm_db_sa"


class Server:
    """What a server is for a connection: it gives the same answer to all, and notes what it was sent."""

    def __init__(self, answer: object, dialect: DefaultDialect | None = None) -> None:
        self.answer = answer
        self.sent: list[str] = []
        self.dialect = dialect or mssql.dialect()

    def execute(self, statement: Any, values: dict[str, Any] | None = None) -> SimpleNamespace:
        bound = statement.bindparams(**values) if values else statement
        self.sent.append(str(bound.compile(dialect=self.dialect, compile_kwargs={"literal_binds": True})))
        return SimpleNamespace(scalar_one=lambda: self.answer, rowcount=self.answer)

    @property
    def connection(self) -> sa.Connection:
        """The server as what the locks expect."""
        return cast("sa.Connection", self)


@pytest.fixture
def locks() -> SqlServerSessionLocks:
    return SqlServerSessionLocks(cast("Any", None))  # it asks its store only for connections


@pytest.mark.parametrize(("answer", "taken"), [(0, True), (1, True), (-1, False)])
def test_a_lock_is_asked_for_without_waiting(locks: SqlServerSessionLocks, answer: int, taken: bool) -> None:
    server = Server(answer)
    assert locks.take(server.connection, "lease 3 of raw") is taken
    (statement,) = server.sent
    assert statement.startswith("SET NOCOUNT ON; DECLARE @answer int; EXEC @answer = sp_getapplock")
    assert "@LockMode = 'Exclusive', @LockOwner = 'Session', @LockTimeout = 0" in statement


@pytest.mark.parametrize("answer", [-2, -3, -999])
def test_what_is_no_answer_to_the_question_is_an_error(locks: SqlServerSessionLocks, answer: int) -> None:
    with pytest.raises(LockError, match=f"'lease 3 of raw': sp_getapplock answered {answer}"):
        locks.take(Server(answer).connection, "lease 3 of raw")


def test_locks_of_a_transaction_are_waited_for_one_after_the_other() -> None:
    server = Server(1)
    lock_in_transaction(server.connection, ["a", "b"])
    assert [("'Transaction'" in sent, "@LockTimeout = -1" in sent) for sent in server.sent] == [(True, True)] * 2
    assert server.sent[0] != server.sent[1]


@pytest.mark.parametrize(("answer", "held"), [(1, False), (0, True)])
def test_a_lock_is_held_if_another_connection_could_not_have_it(
    locks: SqlServerSessionLocks, answer: int, held: bool
) -> None:
    server = Server(answer)
    assert locks.find(server.connection, "lease 3 of raw") is held
    assert server.sent[0].startswith("SELECT APPLOCK_TEST('public', 'pipedag ")


def test_one_name_is_one_resource_whatever_its_length_and_letters(locks: SqlServerSessionLocks) -> None:
    server = Server(0)
    name = "lease 3 of " + "größer'" * 100
    locks.take(server.connection, name)
    locks.free(server.connection, name)
    locks.find(server.connection, name)
    resources = {sent.split("'pipedag ")[1].split("'")[0] for sent in server.sent}
    assert len(resources) == 1
    assert len(resources.pop()) == 64


def test_a_restart_of_the_server_is_seen(locks: SqlServerSessionLocks) -> None:
    server = Server(1_790_000_000_500)
    assert locks.known_since(server.connection) == 1_790_000_000.5
    assert "tempdb" in server.sent[0]


@pytest.fixture(autouse=True)
def _dialects() -> None:
    """What the table stores of these dialects will load."""
    for name in ("sqlserver.locks", "db2.locks"):
        import_module(f"{dialects.__name__}.{name}")


CLOCKS = {
    mssql.dialect: "SELECT DATEDIFF_BIG(microsecond, '1970-01-01', SYSUTCDATETIME()) / 1000000.0 AS anon_1",
    Db2: "SELECT EXTRACT(EPOCH FROM CURRENT TIMESTAMP - CURRENT TIMEZONE) AS anon_1",
}


@pytest.mark.parametrize("dialect", CLOCKS, ids=["sqlserver", "db2"])
def test_the_clock_of_leases_is_that_of_the_server_in_utc(dialect: type[DefaultDialect]) -> None:
    server = Server(1_790_000_000.5, dialect())
    assert leases(server).now() == 1_790_000_000.5
    assert server.sent == [CLOCKS[dialect]]


@pytest.mark.parametrize("dialect", CLOCKS, ids=["sqlserver", "db2"])
def test_a_lease_is_replaced_only_if_it_is_the_one_that_was_read(dialect: type[DefaultDialect]) -> None:
    server = Server(1, dialect())
    leases(server).replace("raw", 3, {"token": 7})
    (statement,) = server.sent
    assert "SET version=4, token=7" in statement or "SET token=7, version=4" in statement
    assert "stage = 'raw'" in statement.replace("N'", "'").replace("lease.", "")
    assert "version = 3" in statement
    with pytest.raises(LeaseConflictError, match="'raw' was changed meanwhile"):
        leases(Server(0, dialect())).replace("raw", 3, {"token": 7})


def leases(server: Server) -> LeaseRepository:
    return LeaseRepository(server.connection, MetadataTables("pipedag").lease)
