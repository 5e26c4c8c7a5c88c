"""What becomes of stages when the connection to ZooKeeper is lost, and found again or not."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import TYPE_CHECKING

import pytest
from kazoo.client import KazooClient

from pipedag_airflow.backend.lock import LockState, Owner, ZooKeeperLockManager, znodes
from pipedag_airflow.backend.lock.zookeeper_client import make_client
from pipedag_airflow.errors import LockError, StageBusyError, StaleRunError
from pipedag_airflow.testing.lock_fixtures import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipedag_airflow.testing.proxies import Link
    from pipedag_airflow.testing.zookeeper import Ensemble

UNLOCKED, LOCKED, UNCERTAIN, INVALID = LockState
SESSION = Owner.this_process("local:r1")
LEASE = Owner.of_run("airflow:d/r1")
NEXT = Owner.of_run("airflow:d/r2")
#: Seconds: a session that outlives every test, and one that does not.
LONG, SHORT = 60, 2


class Cuttable:
    """A lock manager behind a link that can be cut, and what its listener was told."""

    def __init__(self, link: Link, base_path: str, timeout: float) -> None:
        self.link = link
        self.client = make_client({"hosts": f"127.0.0.1:{link.port}", "timeout": timeout})
        self.manager = ZooKeeperLockManager(self.client, base_path)
        self.told: queue.Queue[tuple[str, LockState, LockState]] = queue.Queue()
        self.manager.add_listener(lambda *change: self.told.put(change))

    def hears(self, *states: LockState) -> None:
        """Wait until the listener was told of these states of the stage "s", one after the other."""
        for state in states:
            assert self.told.get(timeout=PATIENCE)[2] is state

    def hears_nothing_more(self) -> None:
        assert self.told.empty()

    def expire(self) -> None:
        """Let ZooKeeper end the session, as it does when it has not heard from the client."""
        twin = KazooClient(f"127.0.0.1:{self.link.target}", client_id=self.client.client_id)
        twin.start()
        twin.stop()
        twin.close()


@pytest.fixture
def cuttable(zookeeper_server: Ensemble, base_path: str) -> Iterator[Callable[..., Cuttable]]:
    with contextlib.ExitStack() as stack:

        def make(timeout: float) -> Cuttable:
            made = Cuttable(zookeeper_server.client_link(), base_path, timeout)
            stack.callback(made.link.heal)
            stack.enter_context(made.manager)
            return made

        yield make


@pytest.fixture
def other(zookeeper_server: Ensemble, base_path: str) -> Iterator[ZooKeeperLockManager]:
    """A lock manager elsewhere, whose connection is never cut."""
    with ZooKeeperLockManager(make_client({"hosts": zookeeper_server.hosts}), base_path) as manager:
        yield manager


@pytest.mark.parametrize("owner", [SESSION, LEASE], ids=["session", "lease"])
def test_a_stage_is_uncertain_while_there_is_no_connection(cuttable: Callable[..., Cuttable], owner: Owner) -> None:
    cut = cuttable(LONG)
    lease = cut.manager.acquire("s", owner, seconds=300)
    cut.link.cut()
    cut.hears(LOCKED, UNCERTAIN)
    assert cut.manager.state("s", owner) is UNCERTAIN
    cut.link.heal()
    cut.hears(LOCKED)
    assert cut.manager.renew("s", owner, seconds=300).token == lease.token
    cut.hears_nothing_more()


def test_whoever_wants_to_write_waits_until_it_is_known_again(cuttable: Callable[..., Cuttable]) -> None:
    cut = cuttable(LONG)
    cut.manager.acquire("s", SESSION, seconds=300)
    cut.manager.confirm("s", SESSION, seconds=0)
    cut.link.cut()
    cut.hears(LOCKED, UNCERTAIN)
    with pytest.raises(LockError, match=r"'s'.*could not be reached.*Nothing was written"):
        cut.manager.confirm("s", SESSION, seconds=0)
    writer = threading.Thread(target=cut.manager.confirm, args=("s", SESSION), kwargs={"seconds": PATIENCE})
    writer.start()
    cut.link.heal()
    writer.join(PATIENCE)
    assert not writer.is_alive()
    assert cut.manager.state("s", SESSION) is LOCKED


def test_a_session_is_lost_by_our_own_clock_and_never_comes_back(
    cuttable: Callable[..., Cuttable], other: ZooKeeperLockManager, caplog: pytest.LogCaptureFixture
) -> None:
    """Kazoo says that it is lost only when a server says so, which none does as long as we are cut off."""
    cut = cuttable(SHORT)
    lost = cut.manager.acquire("s", SESSION, seconds=300)
    with pytest.raises(StageBusyError, match=SESSION.run_id):
        other.acquire("s", NEXT, seconds=300)
    cut.link.cut()
    cut.hears(LOCKED, UNCERTAIN, INVALID)
    assert "all stages of local runs of this process count as lost" in caplog.text

    until(lambda: not other._is_connected(lost))
    taken = other.acquire("s", NEXT, seconds=300)
    assert taken.token > lost.token
    cut.link.heal()
    with pytest.raises(StaleRunError, match=f"lost stage 's'.*Its lease is that of run {NEXT.run_id} "):
        cut.manager.confirm("s", SESSION, seconds=PATIENCE)
    other.release("s", NEXT)
    with pytest.raises(StaleRunError):
        cut.manager.renew("s", SESSION, seconds=300)
    assert cut.manager.state("s", SESSION) is INVALID
    cut.hears_nothing_more()

    again = cut.manager.acquire("s", SESSION, seconds=300)
    assert again.token > taken.token
    cut.hears(LOCKED)
    cut.expire()
    cut.hears(UNCERTAIN, INVALID)


def test_a_session_that_we_gave_up_is_given_back_even_if_zookeeper_kept_it(
    cuttable: Callable[..., Cuttable], zookeeper_server: Ensemble, other: ZooKeeperLockManager
) -> None:
    """As when the servers have no quorum for a while: none of the time counts for them."""
    cut = cuttable(SHORT)
    lost = cut.manager.acquire("s", SESSION, seconds=300)
    zookeeper_server.servers[0].kill()
    cut.hears(LOCKED, UNCERTAIN, INVALID)
    zookeeper_server.servers[0].start()
    zookeeper_server.wait()
    until(lambda: not other._is_connected(lost))
    until(lambda: cut.client.connected)
    assert cut.manager.state("s", SESSION) is INVALID
    cut.hears_nothing_more()
    assert other.acquire("s", NEXT, seconds=300).token > lost.token


def test_the_session_does_not_matter_to_a_lease(cuttable: Callable[..., Cuttable]) -> None:
    """The steps of its run are processes of their own; while it cannot be reached it stays uncertain."""
    cut = cuttable(LONG)
    lease = cut.manager.acquire("s", LEASE, seconds=300)
    cut.manager.acquire("local", SESSION, seconds=300)
    cut.hears(LOCKED, LOCKED)
    cut.expire()
    changes = [cut.told.get(timeout=PATIENCE) for _ in range(4)]
    assert [(new) for stage, _, new in changes if stage == "s"] == [UNCERTAIN, LOCKED]
    assert [(new) for stage, _, new in changes if stage == "local"] == [UNCERTAIN, INVALID]
    assert cut.manager.renew("s", LEASE, seconds=300).token == lease.token


def test_without_an_answer_the_error_says_where_to_look(
    cuttable: Callable[..., Cuttable], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(znodes, "ANSWER_SECONDS", 0.2)
    cut = cuttable(LONG)
    cut.link.cut()
    with pytest.raises(LockError, match=f"ZooKeeper at 127.0.0.1:{cut.link.port} gave no answer.*majority"):
        cut.manager.acquire("s", SESSION, seconds=300)
    monkeypatch.undo()
    cut.link.heal()
    assert cut.manager.acquire("s", SESSION, seconds=300).owner == SESSION


def test_the_end_of_the_manager_is_the_end_of_its_sessions(
    cuttable: Callable[..., Cuttable], other: ZooKeeperLockManager
) -> None:
    cut = cuttable(LONG)
    cut.manager.acquire("s", SESSION, seconds=300)
    cut.manager.acquire("t", LEASE, seconds=300)
    cut.manager.dispose()
    assert other.acquire("s", NEXT, seconds=300).owner == NEXT
    with pytest.raises(StageBusyError):
        other.acquire("t", NEXT, seconds=300)
    assert cut.manager.renew("t", LEASE, seconds=300).owner == LEASE
