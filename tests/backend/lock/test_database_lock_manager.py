from __future__ import annotations

import functools
import json
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from pipedag_airflow import PipedagConfig
from pipedag_airflow.backend.lock import DatabaseLockManager, LockState, Owner
from pipedag_airflow.backend.metadata import LeaseRepository
from pipedag_airflow.errors import ConfigError, LockError, StageBusyError
from pipedag_airflow.testing.lock_fixtures import until
from pipedag_airflow.testing.lock_suite import LockManagerSuite

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ONE, TWO = Owner.of_run("r1"), Owner.of_run("r2")


def manager_of(url: str, **options: Any) -> DatabaseLockManager:
    return DatabaseLockManager(sa.create_engine(url), "test", **options)


class TestDatabaseLockManagerOnDuckDB(LockManagerSuite):
    @pytest.fixture
    def make_manager(self, tmp_path: Path) -> Callable[..., DatabaseLockManager]:
        return functools.partial(manager_of, f"duckdb:///{tmp_path}/leases.duckdb")


class TestDatabaseLockManagerOnPostgreSQL(LockManagerSuite):
    sees_sessions = True

    @pytest.fixture
    def make_manager(self, postgres_url: sa.URL) -> Callable[..., DatabaseLockManager]:
        return functools.partial(manager_of, postgres_url.render_as_string(hide_password=False))


@pytest.fixture
def manager(tmp_path: Path) -> DatabaseLockManager:
    return manager_of(f"duckdb:///{tmp_path}/leases.duckdb")


def rows(manager: DatabaseLockManager, statement: str = "select * from pipedag_metadata.lease") -> list[Any]:
    with manager._store.transaction() as transaction:
        result = transaction.connection.exec_driver_sql(statement)
        return [dict(row) for row in result.mappings()]


def test_the_row_tells_who_has_the_stage_and_who_waits(manager: DatabaseLockManager) -> None:
    lease = manager.acquire("s", ONE, seconds=30)
    with pytest.raises(StageBusyError, match=r"pipedag-airflow locks break s$"):
        manager.acquire("s", TWO, seconds=30)
    (row,) = rows(manager)
    assert (row["stage"], row["run_id"], row["host"], row["pid"]) == ("s", "r1", ONE.host, None)
    assert (row["since"], row["expires"]) == (lease.since, lease.expires)
    assert [ticket["owner"]["run_id"] for ticket in json.loads(row["tickets"])] == ["r2"]


def test_time_is_that_of_the_database(manager: DatabaseLockManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the clock of the host says."""
    monkeypatch.setattr(LeaseRepository, "now", lambda _: 4_000_000_000.0)
    lease = manager.acquire("s", ONE, seconds=30)
    assert lease.since == pytest.approx(4_000_000_000, abs=60)
    assert manager.state("s", ONE) is LockState.LOCKED
    monkeypatch.setattr(LeaseRepository, "now", lambda _: 4_000_000_100.0)
    assert manager.state("s", ONE) is LockState.UNCERTAIN


def test_a_manager_knows_the_time_before_it_has_looked_at_a_lease(manager: DatabaseLockManager) -> None:
    (row,) = rows(manager, "select epoch(current_timestamp) as now")
    assert 0 <= manager.now() - row["now"] < 60


def test_whoever_loses_the_race_for_a_row_tries_again(manager: DatabaseLockManager) -> None:
    """Both have read the row before either writes: in a database that does not queue its transactions."""
    first = manager.acquire("s", ONE, seconds=30)
    read = LeaseRepository.read
    stale: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LeaseRepository, "read", lambda self, stage: stale.pop(0) if stale else read(self, stage))
        stale += [None, None]  # before it judges, and before it inserts a row
        with pytest.raises(StageBusyError, match="r1"):
            manager.acquire("s", TWO, seconds=30)
        stale += [rows(manager)[0] | {"version": 0, "token": 99}]
        renewed = manager.renew("s", ONE, seconds=60)
    assert stale == []
    assert renewed == manager.holder("s")
    assert renewed.token == first.token


def test_many_threads_change_one_row_and_none_is_forgotten(manager: DatabaseLockManager) -> None:
    manager.acquire("s", ONE, seconds=30)

    def wait(number: int) -> None:
        with pytest.raises(StageBusyError):
            manager.acquire("s", Owner.of_run(f"w{number}"), seconds=30)

    threads = [Thread(target=wait, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (row,) = rows(manager)
    assert {ticket["owner"]["run_id"] for ticket in json.loads(row["tickets"])} == {f"w{n}" for n in range(8)}
    assert row["version"] == 9


@pytest.mark.parametrize(
    "damage", ["tickets = 'x'", "tickets = '[{}]'", "host = null", "since = null", "expires = 'nan'"]
)
def test_a_damaged_row_is_an_error_that_says_where_it_is(manager: DatabaseLockManager, damage: str) -> None:
    manager.acquire("s", ONE, seconds=30)
    rows(manager, f"update pipedag_metadata.lease set {damage} returning stage")
    calls: list[Callable[[], object]] = [
        lambda: manager.acquire("s", TWO, seconds=30),
        lambda: manager.renew("s", ONE, seconds=30),
        lambda: manager.holder("s"),
        manager.leases,
    ]
    for call in calls:
        with pytest.raises(LockError, match="is not a lease") as caught:
            call()
        for part in ("'s'", "pipedag_metadata.lease", "leases.duckdb", "delete it"):
            assert part in str(caught.value)


def test_the_leases_may_be_in_a_schema_of_their_own(tmp_path: Path) -> None:
    url = f"duckdb:///{tmp_path}/leases.duckdb"
    manager = manager_of(url, lock_schema="locks")
    manager.acquire("s", ONE, seconds=30)
    assert [row["stage"] for row in rows(manager, "select * from locks.lease")] == ["s"]
    assert manager_of(url).holder("s") is None


def test_a_schema_that_may_not_be_made_has_to_be_there(tmp_path: Path) -> None:
    manager = manager_of(f"duckdb:///{tmp_path}/leases.duckdb", lock_schema="locks", create_lock_schema=False)
    with pytest.raises(Exception, match="locks"):
        manager.acquire("s", ONE, seconds=30)


CONFIG = """
name: p
instances:
  __any__:
    instance_id: shop
    table_store: {{class: pipedag_airflow.backend.table.SQLTableStore, args: {{url: "{url}"}}}}
    lock_manager: {{class: pipedag_airflow.backend.lock.DatabaseLockManager, args: {args}}}
"""


def config(tmp_path: Path, url: str, args: str = "{}") -> Any:
    (tmp_path / "pipedag.yaml").write_text(CONFIG.format(url=url, args=args))
    return PipedagConfig(tmp_path / "pipedag.yaml").get()


def test_the_configuration_needs_no_arguments(tmp_path: Path) -> None:
    context = config(tmp_path, f"duckdb:///{tmp_path}/shop.duckdb")
    with context.lock_manager as manager, context.create_lock_manager() as other:
        manager.acquire("s", ONE, seconds=30)
        assert other.holder("s").owner == ONE
    with context.table_store.transaction() as transaction:
        assert transaction.leases.stages() == ["s"]


@pytest.mark.parametrize(
    ("url", "args", "named"),
    [
        ("duckdb:///:memory:", "{}", ["no other process", "NoLockManager"]),
        ("duckdb:///x.duckdb", "{base_path: x}", ["lock_manager", "base_path"]),
        ("duckdb:///x.duckdb", "{lock_schema: x}", ["lock_schema", "'pipedag_metadata'"]),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(tmp_path: Path, url: str, args: str, named: list[str]) -> None:
    context = config(tmp_path, url, args)
    with pytest.raises(ConfigError) as caught:
        _ = context.lock_manager
    for part in named:
        assert part in str(caught.value)


def test_a_heartbeat_that_waits_for_the_file_is_no_reason_for_doubt(
    manager: DatabaseLockManager, tmp_path: Path
) -> None:
    states: list[LockState] = []
    lease = manager.acquire("s", ONE, seconds=0.2)
    manager.add_listener(lambda _stage, _old, new: states.append(new))
    another = manager_of(f"duckdb:///{tmp_path}/leases.duckdb")
    with manager, manager.keep_alive("s", ONE, seconds=0.2, lease=lease):
        with another._store.transaction():
            until(lambda: manager.now() > lease.expires + 0.5)
        until(lambda: manager.holder("s").expires > manager.now())
    assert states == []
    another.dispose()
