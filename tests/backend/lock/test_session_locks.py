"""A process that holds a stage has a lock in PostgreSQL that ends with its connection: its sign of life."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa

from pipedag_airflow.backend.lock import DatabaseLockManager, LockState, Owner
from pipedag_airflow.backend.table import SQLTableStore
from pipedag_airflow.backend.table.sql.dialects.postgres.advisory import PostgresSessionLocks
from pipedag_airflow.errors import LockError, StageBusyError, StaleRunError
from pipedag_airflow.testing.lock_fixtures import until
from pipedag_airflow.testing.proxies import Network

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Sessions whose processes cannot be seen from here.
ONE, TWO = (Owner(f"local:{number}", f"host-{number}", 7, 1.0) for number in (1, 2))
#: What has an advisory lock, as another connection sees it.
SESSIONS = (
    "select pid, state from pg_locks join pg_stat_activity using (pid) where locktype = 'advisory'"
    " and pid != pg_backend_pid() and datname = current_database()"
)


class Server:
    """The server, as its administrator sees it; and managers of the leases in it."""

    def __init__(self, url: sa.URL) -> None:
        self.url = url.set(drivername="postgresql").render_as_string(hide_password=False)

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(sql).fetchall()

    def manager(self, schema: str | None = None) -> DatabaseLockManager:
        return DatabaseLockManager(sa.create_engine(self.url), "test", schema)

    def end_sessions(self) -> None:
        """End the connections that have locks, as an administrator or a fire wall does."""
        self.execute(f"select pg_terminate_backend(pid) from ({SESSIONS})")
        until(lambda: self.execute(SESSIONS) == [])


@pytest.fixture
def server(postgres_url: sa.URL) -> Server:
    return Server(postgres_url)


@pytest.fixture
def manager(server: Server) -> Iterator[DatabaseLockManager]:
    with server.manager() as manager:
        yield manager


@pytest.fixture
def other(server: Server) -> Iterator[DatabaseLockManager]:
    with server.manager() as manager:
        yield manager


def test_there_is_one_connection_while_stages_are_held_and_it_is_in_no_transaction(
    server: Server, manager: DatabaseLockManager
) -> None:
    manager.acquire("a", ONE, seconds=30)
    manager.acquire("b", ONE, seconds=30)
    assert [state for _, state in server.execute(SESSIONS)] == ["idle", "idle"]
    assert len({pid for pid, _ in server.execute(SESSIONS)}) == 1
    manager.release("a", ONE)
    assert len(server.execute(SESSIONS)) == 1
    manager.release_run(ONE.run_id)
    until(lambda: server.execute(SESSIONS) == [])


def test_the_lease_form_has_no_lock(server: Server, manager: DatabaseLockManager) -> None:
    """Its run outlives the process."""
    manager.acquire("s", Owner.of_run("airflow:1"), seconds=30)
    assert server.execute(SESSIONS) == []


def test_a_connection_that_was_lost_is_replaced_if_nobody_was_faster(
    server: Server, manager: DatabaseLockManager, other: DatabaseLockManager, caplog: pytest.LogCaptureFixture
) -> None:
    lease = manager.acquire("s", ONE, seconds=30)
    manager.acquire("t", ONE, seconds=30)
    server.end_sessions()

    assert manager.renew("s", ONE, seconds=30).token == lease.token
    assert "whose life tells others that this process lives has ended: terminating connection" in caplog.text
    for stage in "st":
        with pytest.raises(StageBusyError, match="local:1"):
            other.acquire(stage, TWO, seconds=30)


def test_whoever_loses_the_connection_and_then_the_stage_is_told_who_has_it(
    server: Server, manager: DatabaseLockManager, other: DatabaseLockManager
) -> None:
    told: list[tuple[str, str]] = []
    manager.acquire("s", ONE, seconds=30)
    manager.add_listener(lambda _, old, new: told.append((old.name, new.name)))
    server.end_sessions()
    other.acquire("s", TWO, seconds=30)

    with pytest.raises(
        StaleRunError, match=r"local:1 no longer holds stage 's'.* it is held by run local:2 on host ho"
    ):
        manager.renew("s", ONE, seconds=30)
    assert told == [("LOCKED", "INVALID")]
    assert manager.state("s", ONE) is LockState.INVALID
    assert len(server.execute(SESSIONS)) == 1
    with pytest.raises(StageBusyError, match="local:2"):
        manager.acquire("s", ONE, seconds=30)


def test_a_restart_of_the_server_says_nothing_about_the_processes(
    server: Server, manager: DatabaseLockManager, other: DatabaseLockManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.acquire("s", ONE, seconds=30)
    server.end_sessions()
    monkeypatch.setattr(PostgresSessionLocks, "known_since", lambda *_: other.now() + 1)
    with pytest.raises(StageBusyError, match="local:1"):
        other.acquire("s", TWO, seconds=30)
    monkeypatch.undo()
    other.withdraw("s", TWO)
    assert other.acquire("s", TWO, seconds=30).owner == TWO


def test_a_stage_that_was_taken_away_by_hand_leaves_no_lock(
    server: Server, manager: DatabaseLockManager, other: DatabaseLockManager
) -> None:
    manager.acquire("s", ONE, seconds=30)
    other.release("s", ONE)
    with pytest.raises(StaleRunError, match="nobody holds it now"):
        manager.renew("s", ONE, seconds=30)
    until(lambda: server.execute(SESSIONS) == [])


def test_a_lock_that_the_server_has_not_freed_yet_is_taken_by_the_next_heartbeat(
    server: Server, manager: DatabaseLockManager, other: DatabaseLockManager
) -> None:
    """A connection was lost on the way, and the server still waits for it."""
    lease = manager.acquire("s", ONE, seconds=30)
    server.end_sessions()
    assert other._sessions is not None
    other._sessions.hold("s", lease.token)
    ghost = server.execute(SESSIONS)
    manager.renew("s", ONE, seconds=30)
    assert server.execute(SESSIONS) == ghost
    other._sessions.close()
    until(lambda: server.execute(SESSIONS) == [])
    manager.renew("s", ONE, seconds=30)
    assert len(server.execute(SESSIONS)) == 1


def test_leases_in_two_schemas_of_a_database_have_nothing_to_do_with_each_other(server: Server) -> None:
    with server.manager("one") as one, server.manager("two") as two:
        one.acquire("s", ONE, seconds=30)
        two.acquire("s", TWO, seconds=30)
        one.dispose()
        with pytest.raises(StageBusyError):
            two.acquire("s", ONE, seconds=30)


def test_whoever_cannot_have_the_stage_after_all_has_no_lock(
    server: Server, manager: DatabaseLockManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("pipedag_airflow.backend.metadata.LeaseRepository.replace", full)
    with pytest.raises(OSError, match="disk full"):
        manager.acquire("s", ONE, seconds=30)
    until(lambda: server.execute(SESSIONS) == [])


def test_the_server_looks_whether_the_machine_of_the_process_is_still_there(manager: DatabaseLockManager) -> None:
    manager.acquire("s", ONE, seconds=30)
    assert manager._sessions is not None
    connection = manager._sessions._connection
    assert connection is not None
    names = [f"tcp_keepalives_{name}" for name in ("idle", "interval", "count")]
    assert [connection.exec_driver_sql(f"show {name}").scalar_one() for name in names] == ["20", "10", "3"]


def test_a_holder_whose_network_swallows_everything_writes_nothing_before_it_knows_who_has_the_stage(
    server: Server, other: DatabaseLockManager
) -> None:
    """Its renewal gets no answer, and no error."""
    url, network = sa.make_url(server.url), Network()
    assert url.port is not None
    link = network.link(url.port)
    holder = DatabaseLockManager(sa.create_engine(url.set(host="127.0.0.1", port=link.port)), "test")
    states: list[LockState] = []
    holder.add_listener(lambda _stage, _old, new: states.append(new))
    lease = holder.acquire("s", ONE, seconds=1)
    with holder, holder.keep_alive("s", ONE, seconds=1, lease=lease):
        link.swallow()
        until(lambda: LockState.UNCERTAIN in states)
        with pytest.raises(LockError, match="it is not known whether the stage is still its own"):
            holder.confirm("s", ONE, seconds=0.1)
        server.end_sessions()  # as the server does when its probes get no answer
        other.acquire("s", TWO, seconds=30)
        link.cut()  # as the client's system does
        link.heal()
        until(lambda: LockState.INVALID in states)
        with pytest.raises(StaleRunError, match=r"has lost stage 's'.* Its lease is that of run local:2"):
            holder.confirm("s", ONE, seconds=0.1)
    network.close()


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_the_process_looks_whether_the_server_is_still_there(postgres_url: sa.URL, driver: str) -> None:
    url = postgres_url.set(drivername=f"postgresql+{driver}").update_query_dict({"keepalives_idle": "7"})
    store = SQLTableStore(url.render_as_string(hide_password=False))
    with store.connection() as connection:
        raw: Any = connection.connection.driver_connection
        told = raw.info.get_parameters() if driver == "psycopg" else raw.info.dsn_parameters
    store.dispose()
    expected = {"keepalives_idle": "7", "keepalives_interval": "10", "keepalives_count": "3"}
    assert expected | {"tcp_user_timeout": "50000"} == {name: told[name] for name in (*expected, "tcp_user_timeout")}
