"""What every lock manager must do.

::

    class TestMyLockManager(LockManagerSuite):
        @pytest.fixture
        def make_manager(self, tmp_path):
            return functools.partial(MyLockManager, tmp_path)
"""

from __future__ import annotations

import os
import socket

import pytest

from pipedag_airflow.backend.lock import Lease, LockManager, LockState, Owner
from pipedag_airflow.errors import StageBusyError, StaleRunError
from pipedag_airflow.testing.lock_fixtures import Clock
from pipedag_airflow.testing.lock_process_suite import LockProcessSuite

__all__ = ["Clock", "LockManagerSuite"]


class LockManagerSuite(LockProcessSuite):
    """Tests of one lock manager.

    A manager with ``guards = False`` is only held to granting everything.
    """

    def test_a_free_stage_is_granted(self, manager: LockManager, clock: Clock) -> None:
        """The lease says who has the stage and until when."""
        owner = Owner.of_run("airflow:d/r1")
        lease = manager.acquire("s", owner, seconds=30)
        assert (lease.stage, lease.owner) == ("s", owner)
        assert lease.since == lease.heartbeat
        assert lease.expires == pytest.approx(lease.heartbeat + 30)
        if self.injectable_clock:
            assert lease.since == clock.now
        assert manager.state("s", owner) is LockState.LOCKED

    def test_a_manager_without_guards_grants_everything(self, manager: LockManager, other: LockManager) -> None:
        """Nobody is ever refused, and nothing fails."""
        if manager.guards:
            pytest.skip("the manager guards")
        one, two = Owner.of_run("r1"), Owner.of_run("r2")
        assert manager.acquire("s", one, seconds=30).owner == one
        assert other.acquire("s", two, seconds=30).owner == two
        assert manager.renew("s", one, seconds=30).owner == one
        assert manager.state("s", one) is other.state("s", two) is LockState.LOCKED
        assert manager.release("s", one)
        manager.withdraw("s", one)
        assert manager.holder("s") is None
        assert not manager.leases()
        assert not manager.release_run("r2")

    def test_the_same_run_may_acquire_again(self, manager: LockManager, other: LockManager) -> None:
        """A begin that runs twice gets the same lease, also from another process of the run."""
        self.needs_guards(manager)
        first = manager.acquire("s", Owner.of_run("r1"), seconds=30)
        again = other.acquire("s", Owner.of_run("r1"), seconds=60)
        assert again.token == first.token
        assert again.since == first.since
        assert again.expires > first.expires
        assert manager.holder("s") == again

    def test_a_second_run_is_refused(self, manager: LockManager, other: LockManager) -> None:
        """The message names the holder, since when, and what to do."""
        self.needs_guards(manager)
        lease = manager.acquire("s", Owner.this_process("local:first"), seconds=30)
        with pytest.raises(StageBusyError) as caught:
            other.acquire("s", Owner.of_run("airflow:d/second"), seconds=30)
        message = str(caught.value)
        for part in ("'s'", "local:first", socket.gethostname(), str(os.getpid()), "heartbeat", "airflow:d/second"):
            assert part in message
        assert "if that run is gone" in message
        assert other.holder("s") == lease

    def test_stages_are_independent(self, manager: LockManager, other: LockManager) -> None:
        """Two runs may have two stages."""
        self.needs_guards(manager)
        manager.acquire("a", Owner.of_run("r1"), seconds=30)
        other.acquire("b", Owner.of_run("r2"), seconds=30)
        assert [(lease.stage, lease.owner.run_id) for lease in manager.leases()] == [("a", "r1"), ("b", "r2")]

    def test_a_released_stage_goes_to_the_next_run(self, manager: LockManager, other: LockManager) -> None:
        """And its token is larger."""
        self.needs_guards(manager)
        first = manager.acquire("s", Owner.of_run("r1"), seconds=30)
        assert manager.release("s", Owner.of_run("r1"))
        assert other.holder("s") is None
        assert other.acquire("s", Owner.of_run("r2"), seconds=30).token > first.token

    def test_releasing_is_idempotent_and_leaves_others_alone(self, manager: LockManager, other: LockManager) -> None:
        """What is not ours stays, and is no error."""
        self.needs_guards(manager)
        assert not manager.release("s", Owner.of_run("r1"))
        manager.acquire("s", Owner.of_run("r1"), seconds=30)
        assert not other.release("s", Owner.of_run("r2"))
        assert manager.release("s", Owner.of_run("r1"))
        assert not manager.release("s", Owner.of_run("r1"))

    def test_a_lease_of_another_run_cannot_be_renewed(self, manager: LockManager, other: LockManager) -> None:
        """The message names who holds the stage now."""
        self.needs_guards(manager)
        manager.acquire("s", Owner.of_run("r1"), seconds=30)
        with pytest.raises(StaleRunError, match="r1"):
            other.renew("s", Owner.of_run("r2"), seconds=30)

    def test_a_released_lease_cannot_be_renewed(self, manager: LockManager) -> None:
        """A heartbeat that comes late does not take the stage again."""
        self.needs_guards(manager)
        manager.acquire("s", Owner.of_run("r1"), seconds=30)
        manager.release("s", Owner.of_run("r1"))
        with pytest.raises(StaleRunError, match="nobody"):
            manager.renew("s", Owner.of_run("r1"), seconds=30)
        assert manager.holder("s") is None

    def test_renewing_extends_and_keeps_the_holder(
        self, manager: LockManager, other: LockManager, clock: Clock
    ) -> None:
        """Any process of the run may renew; the session's process stays the one that acquired."""
        self.needs_clock(manager)
        session = Owner.this_process("r1")
        first = manager.acquire("s", session, seconds=30)
        clock.advance(20)
        renewed = other.renew("s", Owner.of_run("r1"), seconds=30)
        assert renewed.owner == session
        assert (renewed.since, renewed.token) == (first.since, first.token)
        assert (renewed.heartbeat, renewed.expires) == (clock.now, clock.now + 30)

    def test_a_run_that_is_over_loses_its_stage(self, manager: LockManager, other: LockManager) -> None:
        """``is_over`` is asked about the lease; the loser is told at its next renewal."""
        self.needs_guards(manager)
        lease = manager.acquire("s", Owner.of_run("r1"), seconds=30)
        asked: list[Lease] = []

        def is_over(other_lease: Lease) -> bool:
            asked.append(other_lease)
            return True

        taken = other.acquire("s", Owner.of_run("r2"), seconds=30, is_over=is_over)
        assert asked == [lease]
        assert taken.token > lease.token
        assert manager.state("s", Owner.of_run("r1")) is LockState.INVALID
        with pytest.raises(StaleRunError, match="r2"):
            manager.renew("s", Owner.of_run("r1"), seconds=30)

    def test_is_over_is_asked_about_other_runs_only(self, manager: LockManager) -> None:
        """Not about a free stage, and not about our own."""
        self.needs_guards(manager)

        def is_over(lease: Lease) -> bool:
            raise AssertionError(lease)

        manager.acquire("s", Owner.of_run("r1"), seconds=30, is_over=is_over)
        manager.acquire("s", Owner.of_run("r1"), seconds=30, is_over=is_over)

    def test_an_expired_lease_of_a_living_run_is_kept(
        self, manager: LockManager, other: LockManager, clock: Clock
    ) -> None:
        """The run is slow, not dead; it may still renew."""
        self.needs_clock(manager)
        manager.acquire("s", Owner.of_run("r1"), seconds=30)
        clock.advance(10_000)
        with pytest.raises(StageBusyError):
            other.acquire("s", Owner.of_run("r2"), seconds=30)
        assert manager.state("s", Owner.of_run("r1")) is LockState.UNCERTAIN
        assert manager.renew("s", Owner.of_run("r1"), seconds=30).expires == clock.now + 30
        assert manager.state("s", Owner.of_run("r1")) is LockState.LOCKED

    def test_an_expired_session_of_this_host_is_kept_while_its_process_lives(
        self, manager: LockManager, other: LockManager, clock: Clock
    ) -> None:
        """We can see that it lives."""
        self.needs_clock(manager)
        manager.acquire("s", Owner.this_process("r1"), seconds=30)
        clock.advance(10_000)
        with pytest.raises(StageBusyError):
            other.acquire("s", Owner.of_run("r2"), seconds=30)

    def test_a_session_of_another_host_is_taken_over_when_it_expired(
        self, manager: LockManager, other: LockManager, clock: Clock
    ) -> None:
        """Its process cannot be seen from here, so time decides, and only when it is up."""
        self.needs_clock(manager)
        if self.sees_sessions:
            pytest.skip("the manager says that it sees whether that process lives")
        manager.acquire("s", Owner("r1", "elsewhere.invalid", 1, 1.0), seconds=30)
        clock.advance(30)
        with pytest.raises(StageBusyError):
            other.acquire("s", Owner.of_run("r2"), seconds=30)
        clock.advance(1)
        assert other.acquire("s", Owner.of_run("r2"), seconds=30).owner.run_id == "r2"

    def test_a_session_of_another_host_is_taken_over_when_it_is_seen_to_end(
        self, manager: LockManager, other: LockManager, clock: Clock
    ) -> None:
        """And not before, however late its heartbeat is."""
        self.needs_clock(manager)
        if not self.sees_sessions:
            pytest.skip("the manager says that it cannot see it")
        manager.acquire("s", Owner("r1", "elsewhere.invalid", 1, 1.0), seconds=30)
        clock.advance(10_000)
        with pytest.raises(StageBusyError):
            other.acquire("s", Owner.of_run("r2"), seconds=30)
        manager.dispose()
        assert other.acquire("s", Owner.of_run("r2"), seconds=30).owner.run_id == "r2"

    def test_a_process_id_that_was_given_out_again_is_not_the_holder(
        self, manager: LockManager, other: LockManager
    ) -> None:
        """The start time tells them apart."""
        self.needs_guards(manager)
        us = Owner.this_process("r1")
        if us.process_started is None:
            pytest.skip("this system does not tell when a process started")
        manager.acquire("s", Owner("r1", us.host, us.pid, us.process_started - 1, us.pid_space), seconds=30)
        assert other.acquire("s", Owner.of_run("r2"), seconds=30).owner.run_id == "r2"

    def test_whoever_waited_first_comes_first(self, manager: LockManager, other: LockManager) -> None:
        """A later caller is refused although the stage is free."""
        self.needs_guards(manager)
        one, two, three = (Owner.of_run(name) for name in ("r1", "r2", "r3"))
        manager.acquire("s", one, seconds=30)
        for waiting in (two, three):
            with pytest.raises(StageBusyError):
                other.acquire("s", waiting, seconds=30)
        manager.release("s", one)
        with pytest.raises(StageBusyError, match="r2"):
            manager.acquire("s", three, seconds=30)
        with pytest.raises(StageBusyError, match="r2"):
            manager.acquire("s", one, seconds=30)
        assert other.acquire("s", two, seconds=30).owner == two
        other.release("s", two)
        assert manager.acquire("s", three, seconds=30).owner == three

    def test_whoever_withdraws_is_not_waited_for(self, manager: LockManager, other: LockManager) -> None:
        """The next one comes at once."""
        self.needs_guards(manager)
        one, two, three = (Owner.of_run(name) for name in ("r1", "r2", "r3"))
        manager.acquire("s", one, seconds=30)
        with pytest.raises(StageBusyError):
            other.acquire("s", two, seconds=30)
        manager.release("s", one)
        other.withdraw("s", two)
        assert other.acquire("s", three, seconds=30).owner == three

    def test_whoever_waits_has_a_place_and_takes_nothing(self, manager: LockManager, other: LockManager) -> None:
        """A place says whose turn it is, and who has the stage."""
        self.needs_guards(manager)
        held = manager.acquire("s", Owner.of_run("r1"), seconds=30)
        for run_id, first in (("r2", True), ("r3", False), ("r2", True)):
            place = other.wait("s", Owner.of_run(run_id))
            assert (place.first, place.holder) == (first, held)
        manager.release("s", Owner.of_run("r1"))
        assert other.wait("s", Owner.of_run("r2")).holder is None
        with pytest.raises(StageBusyError, match="r2"):
            other.acquire("s", Owner.of_run("r3"), seconds=30)
        assert other.acquire("s", Owner.of_run("r2"), seconds=30).owner.run_id == "r2"
        assert other.wait("s", Owner.of_run("r2")).holder is None

    def test_of_runs_that_wait_in_a_circle_the_last_one_is_told(self, manager: LockManager, other: LockManager) -> None:
        """Only what the runs say that they keep counts, and only until one of them stops waiting."""
        self.needs_guards(manager)
        ring = {"r1": ("a", "b"), "r2": ("b", "c"), "r3": ("c", "a")}
        for run_id, (has, _) in ring.items():
            manager.acquire(has, Owner.of_run(run_id), seconds=3600)

        def look(run_id: str, **keeps: tuple[str, ...]) -> str | None:
            return other.wait(ring[run_id][1], Owner.of_run(run_id), since=1000.0 + int(run_id[1]), **keeps).deadlock

        for run_id, (has, _) in ring.items():
            assert look(run_id, keeps=() if run_id == "r1" else (has,)) is None
        assert look("r3") is None
        assert look("r1", keeps=("a",)) is None
        assert look("r2") is None
        told = look("r3")
        assert told is not None
        assert told.startswith("run r3 waits for stage 'a' of run r1 on host ")
        assert told.index("run r1 waits for stage 'b' of run r2") < told.index("run r2 waits for stage 'c' of run r3")
        manager.withdraw("b", Owner.of_run("r1"))
        assert look("r3") is None

    def test_whoever_could_not_ask_for_some_time_gets_the_place_back(
        self, manager: LockManager, other: LockManager, clock: Clock
    ) -> None:
        """Who waits may be a process that died and was started again."""
        self.needs_clock(manager)
        manager.acquire("s", Owner.of_run("r1"), seconds=30)
        since = manager.wait("s", Owner.of_run("r2")).since
        clock.advance(1000)
        assert other.wait("s", Owner.of_run("r3")).first
        assert manager.wait("s", Owner.of_run("r2"), since=since).first
        assert not other.wait("s", Owner.of_run("r3")).first

    def test_whoever_stops_asking_is_not_waited_for(
        self, manager: LockManager, other: LockManager, clock: Clock
    ) -> None:
        """A ticket counts for ten seconds after the last try; asking again keeps its place."""
        self.needs_clock(manager)
        one, two, three = (Owner.of_run(name) for name in ("r1", "r2", "r3"))
        manager.acquire("s", one, seconds=300)
        for _ in range(3):
            with pytest.raises(StageBusyError):
                other.acquire("s", two, seconds=30)
            clock.advance(9)
        manager.release("s", one)
        with pytest.raises(StageBusyError, match="r2"):
            manager.acquire("s", three, seconds=30)
        clock.advance(2)
        assert manager.acquire("s", three, seconds=30).owner == three

    def test_a_run_that_is_over_is_taken_over_in_order(self, manager: LockManager, other: LockManager) -> None:
        """Knowing that the holder ended is no way around the queue."""
        self.needs_guards(manager)
        manager.acquire("s", Owner.of_run("r1"), seconds=30)
        with pytest.raises(StageBusyError):
            other.acquire("s", Owner.of_run("r2"), seconds=30)
        with pytest.raises(StageBusyError, match="r2"):
            other.acquire("s", Owner.of_run("r3"), seconds=30, is_over=lambda lease: lease.owner.run_id == "r1")

    def test_a_run_can_give_back_everything(self, manager: LockManager, other: LockManager) -> None:
        """All its stages and its places in queues; nobody else's."""
        self.needs_guards(manager)
        for stage in ("b", "a"):
            manager.acquire(stage, Owner.of_run("r1"), seconds=30)
        other.acquire("c", Owner.of_run("r2"), seconds=30)
        with pytest.raises(StageBusyError):
            manager.acquire("c", Owner.of_run("r1"), seconds=30)
        assert other.release_run("r1") == ["a", "b"]
        assert other.release_run("r1") == []
        assert [lease.stage for lease in manager.leases()] == ["c"]
        other.release("c", Owner.of_run("r2"))
        other.acquire("c", Owner.of_run("r3"), seconds=30)

    def test_the_states_of_a_stage(self, manager: LockManager, other: LockManager, clock: Clock) -> None:
        """UNLOCKED, LOCKED, UNCERTAIN, INVALID."""
        self.needs_clock(manager)
        one, two = Owner.of_run("r1"), Owner.of_run("r2")
        assert manager.state("s", one) is LockState.UNLOCKED
        manager.acquire("s", one, seconds=30)
        assert manager.state("s", one) is LockState.LOCKED
        assert other.state("s", two) is LockState.INVALID
        clock.advance(31)
        assert manager.state("s", one) is LockState.UNCERTAIN
        manager.release("s", one)
        assert manager.state("s", one) is other.state("s", two) is LockState.UNLOCKED

    def test_listeners_are_told_and_a_lost_stage_stays_lost(self, manager: LockManager, other: LockManager) -> None:
        """INVALID never becomes LOCKED again, even when the other run is done; a new acquisition is a new life."""
        self.needs_guards(manager)
        one, two = Owner.of_run("r1"), Owner.of_run("r2")
        told: list[tuple[str, LockState, LockState]] = []

        def listener(stage: str, old: LockState, new: LockState) -> None:
            told.append((stage, old, new))

        manager.add_listener(listener)
        manager.acquire("s", one, seconds=30)
        other.acquire("s", two, seconds=30, is_over=lambda lease: True)
        with pytest.raises(StaleRunError):
            manager.renew("s", one, seconds=30)
        other.release("s", two)
        assert manager.state("s", one) is LockState.INVALID
        locked, invalid, unlocked = LockState.LOCKED, LockState.INVALID, LockState.UNLOCKED
        assert told == [("s", unlocked, locked), ("s", locked, invalid)]
        told.clear()
        manager.acquire("s", one, seconds=30)
        manager.renew("s", one, seconds=30)
        manager.release("s", one)
        assert told == [("s", unlocked, locked), ("s", locked, unlocked)]
        manager.remove_listener(listener)
        manager.acquire("s", one, seconds=30)
        assert len(told) == 2

    @pytest.mark.parametrize("stage", ["a b", "Größe/λ", "..", "a%2Fb", "x" * 300, "UPPER", '<>:"|?*'])
    def test_a_stage_may_have_any_name(self, manager: LockManager, other: LockManager, stage: str) -> None:
        """The name comes back as it was."""
        self.needs_guards(manager)
        manager.acquire(stage, Owner.of_run("airflow:däg/r 1"), seconds=30)
        assert [lease.stage for lease in other.leases()] == [stage]
        assert other.release_run("airflow:däg/r 1") == [stage]
