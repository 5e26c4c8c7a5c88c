from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from pipedag_airflow.backend.lock import LockState, Owner, ZooKeeperLockManager
from pipedag_airflow.backend.lock.znodes import Conflict
from pipedag_airflow.backend.lock.zookeeper_client import make_client
from pipedag_airflow.errors import ConfigError, LockError, StageBusyError, StaleRunError
from pipedag_airflow.testing.lock_suite import Clock, LockManagerSuite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kazoo.client import KazooClient

    from pipedag_airflow.testing.zookeeper import Ensemble


def manager_at(hosts: str, base_path: str, **options: Any) -> ZooKeeperLockManager:
    return ZooKeeperLockManager(make_client({"hosts": hosts, "timeout": 20}), base_path, **options)


class TestZooKeeperLockManagerOnOneServer(LockManagerSuite):
    sees_sessions = True

    @pytest.fixture
    def make_manager(self, hosts: str, base_path: str) -> Callable[..., ZooKeeperLockManager]:
        return functools.partial(manager_at, hosts, base_path)


class TestZooKeeperLockManagerOnThreeServers(LockManagerSuite):
    sees_sessions = True

    @pytest.fixture
    def make_manager(self, zookeeper: Ensemble, base_path: str) -> Callable[..., ZooKeeperLockManager]:
        return functools.partial(manager_at, zookeeper.hosts, base_path)


SESSION = Owner.this_process("local:r1")
OTHER = Owner.of_run("airflow:d/r2")


@pytest.fixture
def manager(hosts: str, base_path: str) -> Iterator[ZooKeeperLockManager]:
    with manager_at(hosts, base_path) as manager:
        yield manager


def test_a_session_is_an_ephemeral_znode_and_a_lease_is_none(
    manager: ZooKeeperLockManager, look: KazooClient, base_path: str
) -> None:
    first = manager.acquire("s", SESSION, seconds=30)
    assert look.get_children(f"{base_path}/s") == [str(first.token)]
    assert look.exists(f"{base_path}/s/{first.token}").ephemeralOwner != 0
    manager.release("s", SESSION)
    manager.acquire("s", OTHER, seconds=30)
    assert look.get_children(f"{base_path}/s") == []


def test_a_thousand_time_outs_leave_nothing_behind(hosts: str, base_path: str, look: KazooClient) -> None:
    """Whoever is refused and gives up, or is just never heard of again: one znode a stage, and it does not grow."""
    clock = Clock()
    with manager_at(hosts, base_path, clock=clock) as holder, manager_at(hosts, base_path, clock=clock) as waiting:
        holder.acquire("s", SESSION, seconds=30)
        before = look.get(f"{base_path}/s")[0]
        for number in range(1000):
            owner = Owner.this_process(f"r{number}") if number % 2 else Owner.of_run(f"r{number}")
            with pytest.raises(StageBusyError):
                waiting.acquire("s", owner, seconds=30)
            clock.advance(waiting.ticket_seconds + 1)
        waiting.withdraw("s", owner)
        assert look.get(f"{base_path}/s")[0] == before
    assert look.get_children(base_path) == ["s"]
    assert look.get_children(f"{base_path}/s") == []


def test_what_was_done_although_the_answer_was_lost_is_known_as_ours(
    manager: ZooKeeperLockManager, look: KazooClient, base_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One ephemeral znode, and with its session the stage is lost."""
    commit = manager._connection.commit
    answers = itertools.count()

    def without_answer(path: str, transaction: Any) -> float | None:
        done = commit(path, transaction)
        if next(answers) == 0:
            raise Conflict(path)
        return done

    monkeypatch.setattr(manager._connection, "commit", without_answer)
    lease = manager.acquire("s", SESSION, seconds=30)
    assert next(answers) == 2
    assert look.get_children(f"{base_path}/s") == [str(lease.token)]
    manager._lose_sessions()
    with pytest.raises(StaleRunError, match="lost in between"):
        manager.renew("s", SESSION, seconds=30)


def test_what_we_gave_up_is_not_ours_although_zookeeper_still_has_it(
    manager: ZooKeeperLockManager, look: KazooClient, base_path: str
) -> None:
    first = manager.acquire("s", SESSION, seconds=30)
    manager._lose_sessions()
    assert manager.state("s", SESSION) is LockState.INVALID
    again = manager.acquire("s", SESSION, seconds=30)
    assert again.token > first.token
    assert manager.state("s", SESSION) is LockState.LOCKED
    assert look.get_children(f"{base_path}/s") == [str(again.token)]


def test_a_session_that_ends_while_it_is_renewed_is_lost(
    manager: ZooKeeperLockManager, look: KazooClient, base_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = manager.acquire("s", SESSION, seconds=30)
    exists = manager._connection.exists

    def for_the_last_time(path: str) -> bool:
        found = exists(path)
        if found:
            look.delete(path)
        return found

    monkeypatch.setattr(manager._connection, "exists", for_the_last_time)
    with pytest.raises(StaleRunError, match="lost in between"):
        manager.renew("s", SESSION, seconds=30)
    assert manager.acquire("s", SESSION, seconds=30).token > first.token


def test_a_lease_whose_session_has_ended_is_lost_for_its_own_run(
    manager: ZooKeeperLockManager, look: KazooClient, base_path: str
) -> None:
    """However that came about; the same run may begin anew, with a new token."""
    first = manager.acquire("s", SESSION, seconds=30)
    look.delete(f"{base_path}/s/{first.token}")
    with pytest.raises(StaleRunError, match="lost in between"):
        manager.renew("s", SESSION, seconds=30)
    second = manager.acquire("s", SESSION, seconds=30)
    assert second.token > first.token
    assert manager.renew("s", SESSION, seconds=30).token == second.token


def test_the_hosts_may_name_a_root_that_is_there(hosts: str, base_path: str, look: KazooClient) -> None:
    with manager_at(f"{hosts}{base_path}", "/locks") as manager:
        with pytest.raises(LockError, match=f"no znode {base_path}.*zkCli.sh create {base_path}"):
            manager.acquire("s", SESSION, seconds=30)
        look.ensure_path(base_path)
        manager.acquire("s", SESSION, seconds=30)
    assert look.get_children(f"{base_path}/locks") == ["s"]


def test_the_root_of_zookeeper_is_not_for_leases(hosts: str) -> None:
    with pytest.raises(ConfigError, match="Name a znode below it"):
        manager_at(hosts, "/")


def test_a_znode_that_is_no_record_is_named(manager: ZooKeeperLockManager, look: KazooClient, base_path: str) -> None:
    look.create(f"{base_path}/s", b"hello", makepath=True)
    with pytest.raises(LockError, match=f"{base_path}/s.*deleteall"):
        manager.acquire("s", SESSION, seconds=30)
    manager.acquire("t", SESSION, seconds=30)
    assert manager.release_run(SESSION.run_id) == ["t"]
