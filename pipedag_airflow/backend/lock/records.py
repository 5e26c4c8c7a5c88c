"""The rules of leases and tickets, for every manager that can compare and set one record per stage.

A manager implements where records live (``_read``, ``_change``, ``_stages``); who gets a stage is decided here, once.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import attrs

from pipedag_airflow.backend.lock.base import LockManager
from pipedag_airflow.backend.lock.lease import Lease, LockState, Owner, never
from pipedag_airflow.errors import LockError, StageBusyError, StaleRunError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RecordLockManager", "StageRecord", "Ticket"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


@attrs.frozen
class Ticket:
    """A place in the queue for a stage.

    Args:
        owner: Who waits.
        since: When it was refused first.
        refreshed: When it was refused last.
    """

    owner: Owner
    since: float
    refreshed: float

    def is_alive(self, now: float, seconds: float) -> bool:
        """Whether its owner still asks.

        Args:
            now: The present time.
            seconds: How long a ticket counts after the last try.

        Returns:
            Whether it does. A ticket from the future (a clock was set back) does not count either.
        """
        return abs(now - self.refreshed) <= seconds and not self.owner.is_dead


@attrs.frozen
class StageRecord:
    """All that is stored about one stage.

    Args:
        stage: The name of the stage.
        token: The token of the last lease; it outlives the lease, so that it only grows.
        lease: The lease, if anybody has one.
        tickets: Who waits, first come first.
    """

    stage: str
    token: int = 0
    lease: Lease | None = None
    tickets: tuple[Ticket, ...] = ()

    def held_by(self, run_id: str) -> bool:
        """Whether a run holds the stage.

        Args:
            run_id: The id of the run.

        Returns:
            Whether it does, expired or not.
        """
        return self.lease is not None and self.lease.owner.run_id == run_id

    def without_ticket(self, run_id: str) -> StageRecord:
        """The record after a run stopped waiting.

        Args:
            run_id: The id of the run.

        Returns:
            The record.
        """
        return attrs.evolve(self, tickets=tuple(t for t in self.tickets if t.owner.run_id != run_id))


@attrs.frozen
class _Verdict:
    """What ``is_over`` said about one lease; it counts for no other."""

    lease: Lease
    over: bool

    def about(self, lease: Lease) -> bool:
        return (lease.token, lease.owner.run_id) == (self.lease.token, self.lease.owner.run_id)


@attrs.frozen
class _Granted:
    lease: Lease
    previous: Lease | None  # of another run


@attrs.frozen
class _Refused:
    by: Lease | Ticket


class RecordLockManager(LockManager):
    """Base of lock managers that store one record per stage.

    Args:
        ticket_seconds: How long a refused caller keeps its place without asking again.
        clock: The present time in seconds since 1970.
    """

    def __init__(self, *, ticket_seconds: float = 10.0, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock=clock)
        self.ticket_seconds = ticket_seconds

    @abstractmethod
    def _read(self, stage: str) -> StageRecord:
        """Give the present record of a stage; an empty one when there is none. No lock is needed."""

    @abstractmethod
    def _change(self, stage: str, change: Callable[[StageRecord], tuple[StageRecord, T]]) -> T:
        """Replace the record by what ``change`` makes of it, as one step, and give its second result.

        ``change`` has no side effects and may be called again after a conflict. Nothing is written when it gives back
        an equal record.
        """

    @abstractmethod
    def _stages(self) -> list[str]:
        """Give the names of all stages that have a record."""

    @abstractmethod
    def _remedy(self, stage: str) -> str:
        """Say how somebody clears the record by hand: ``delete /path``."""

    def acquire(self, stage: str, owner: Owner, *, seconds: float, is_over: Callable[[Lease], bool] = never) -> Lease:
        """Take a stage, or renew it when the same run holds it; see ``LockManager``."""
        while True:
            verdict = self._judge(self._read(stage).lease, owner, is_over)
            attempt = partial(self._attempt, owner=owner, seconds=seconds, verdict=verdict)
            outcome = self._change(stage, attempt)
            if isinstance(outcome, _Granted):
                return self._granted(stage, owner, outcome)
            if isinstance(outcome, _Refused):
                raise StageBusyError(self._refusal(stage, owner, outcome.by))
            # The stage changed hands since it was judged: judge the new holder.

    def _judge(self, lease: Lease | None, owner: Owner, is_over: Callable[[Lease], bool]) -> _Verdict | None:
        # Asked before the change, never inside: the answer may take a query to the orchestrator's database, and every
        # other run would wait for it.
        if lease is None or lease.owner.run_id == owner.run_id or lease.abandoned(self._clock()):
            return None
        return _Verdict(lease, is_over(lease))

    def _attempt(
        self, record: StageRecord, owner: Owner, seconds: float, verdict: _Verdict | None
    ) -> tuple[StageRecord, _Granted | _Refused | None]:
        now = self._clock()
        lease = record.lease
        if lease is not None and lease.owner.run_id == owner.run_id:
            # A second begin of the same run (a retry): same holder, same token, but the process may be another one.
            renewed = attrs.evolve(lease, owner=owner, heartbeat=now, expires=now + seconds)
            return attrs.evolve(record.without_ticket(owner.run_id), lease=renewed), _Granted(renewed, None)
        if lease is not None and not lease.abandoned(now):
            if verdict is None or not verdict.about(lease):
                return record, None
            if not verdict.over:
                return self._queued(record, owner, now), _Refused(lease)
        first = self._first_before(record, owner, now)
        if first is not None:
            return self._queued(record, owner, now), _Refused(first)
        taken = Lease(record.stage, owner, record.token + 1, now, now, now + seconds)
        record = attrs.evolve(self._pruned(record, now).without_ticket(owner.run_id), token=taken.token, lease=taken)
        return record, _Granted(taken, lease)

    def _pruned(self, record: StageRecord, now: float) -> StageRecord:
        alive = tuple(t for t in record.tickets if t.is_alive(now, self.ticket_seconds))
        return attrs.evolve(record, tickets=alive)

    def _first_before(self, record: StageRecord, owner: Owner, now: float) -> Ticket | None:
        for ticket in self._pruned(record, now).tickets:
            return None if ticket.owner.run_id == owner.run_id else ticket
        return None

    def _queued(self, record: StageRecord, owner: Owner, now: float) -> StageRecord:
        # Pruned first: who stopped asking for too long has lost the place and gets a new one at the end.
        record = self._pruned(record, now)
        if any(t.owner.run_id == owner.run_id for t in record.tickets):
            tickets = tuple(
                attrs.evolve(t, owner=owner, refreshed=now) if t.owner.run_id == owner.run_id else t
                for t in record.tickets
            )
        else:
            tickets = (*record.tickets, Ticket(owner, now, now))
        return attrs.evolve(record, tickets=tickets)

    def _granted(self, stage: str, owner: Owner, outcome: _Granted) -> Lease:
        if outcome.previous is not None:
            logger.warning(
                "Run %s took over stage %r from %s, which is over.",
                owner.run_id,
                stage,
                outcome.previous.describe(self._clock()),
            )
        if self.observe(stage, owner, LockState.LOCKED) is LockState.INVALID:
            self.forget(stage, owner.run_id)  # a new acquisition is a new life
            self.observe(stage, owner, LockState.LOCKED)
        return outcome.lease

    def _refusal(self, stage: str, owner: Owner, by: Lease | Ticket) -> str:
        now = self._clock()
        if isinstance(by, Ticket):
            return (
                f"Stage {stage!r} is free, but {by.owner.describe()} has waited for it for {round(now - by.since)} s "
                f"and comes before run {owner.run_id}. Try again: the place in the queue is kept for "
                f"{self.ticket_seconds:g} s after each try."
            )
        return (
            f"Stage {stage!r} is held by {by.describe(now)}; run {owner.run_id} cannot begin it. Wait until that run "
            f"ends (the place in the queue is kept for {self.ticket_seconds:g} s after each try), or if that run is "
            f"gone, {self._remedy(stage)}."
        )

    def withdraw(self, stage: str, owner: Owner) -> None:
        """Remove the caller's ticket; see ``LockManager``."""
        self._change(stage, lambda record: (record.without_ticket(owner.run_id), None))

    def renew(self, stage: str, owner: Owner, *, seconds: float) -> Lease:
        """Extend a lease that the run holds; see ``LockManager``."""

        def change(record: StageRecord) -> tuple[StageRecord, Lease | None]:
            now = self._clock()
            if record.lease is None or not record.held_by(owner.run_id):
                return record, record.lease
            # The holder stays who acquired: in session form it is that process whose death ends the run.
            lease = attrs.evolve(record.lease, heartbeat=now, expires=now + seconds)
            return attrs.evolve(record, lease=lease), lease

        lease = self._change(stage, change)
        if lease is not None and lease.owner.run_id == owner.run_id:
            if self.observe(stage, owner, LockState.LOCKED) is not LockState.INVALID:
                return lease
            now_held = "it was lost in between and the work of that time cannot be trusted"
        elif lease is None:
            self.observe(stage, owner, LockState.UNLOCKED)
            now_held = "nobody holds it now: it was released or its record was deleted"
        else:
            self.observe(stage, owner, LockState.INVALID)
            now_held = f"it is held by {lease.describe(self._clock())}"
        msg = (
            f"Run {owner.run_id} no longer holds stage {stage!r}: {now_held}. Nothing of it is published by this run; "
            f"start a new run when the holder is done."
        )
        raise StaleRunError(msg)

    def release(self, stage: str, owner: Owner) -> bool:
        """Give a stage back; see ``LockManager``."""
        ours = self._free(stage, owner.run_id)
        if ours:
            self.observe(stage, owner, LockState.UNLOCKED)
        self.forget(stage, owner.run_id)
        return ours

    def _free(self, stage: str, run_id: str, *, ticket: bool = False) -> bool:
        def change(record: StageRecord) -> tuple[StageRecord, bool]:
            if ticket:
                record = record.without_ticket(run_id)
            if not record.held_by(run_id):
                return record, False
            return attrs.evolve(record, lease=None), True

        return self._change(stage, change)

    def release_run(self, run_id: str) -> list[str]:
        """Give back all stages of a run; see ``LockManager``."""
        released = []
        for stage in self._stages():
            try:
                if self._free(stage, run_id, ticket=True):
                    released.append(stage)
                    self.observe(stage, Owner(run_id, ""), LockState.UNLOCKED)
                    self.forget(stage, run_id)
            except LockError as error:
                # One damaged record must not keep the run's other stages locked.
                logger.error("Stage %r could not be released for run %s. %s", stage, run_id, error)
        return sorted(released)

    def holder(self, stage: str) -> Lease | None:
        """Who holds a stage; see ``LockManager``."""
        return self._read(stage).lease

    def leases(self) -> list[Lease]:
        """All leases of the instance; see ``LockManager``."""
        records = (self._read(stage) for stage in sorted(self._stages()))
        return [record.lease for record in records if record.lease is not None]

    def state(self, stage: str, owner: Owner) -> LockState:
        """What a run may assume about a stage; see ``LockManager``."""
        lease = self._read(stage).lease
        if lease is None:
            seen = LockState.UNLOCKED
        elif lease.owner.run_id != owner.run_id:
            seen = LockState.INVALID
        elif self._clock() > lease.expires:
            seen = LockState.UNCERTAIN
        else:
            seen = LockState.LOCKED
        return self.observe(stage, owner, seen) if self.tracked(stage, owner) else seen
