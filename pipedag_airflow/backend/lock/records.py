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
from pipedag_airflow.backend.lock.circles import Wait, find_circle, told, youngest
from pipedag_airflow.backend.lock.lease import Lease, LockState, Owner, Place, how_to_free, never
from pipedag_airflow.backend.lock.stage_record import StageRecord, Ticket
from pipedag_airflow.errors import LockError, StageBusyError, StaleRunError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RecordLockManager"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: The part of its time for which a lease is as good as renewed; a heartbeat comes after another third of it.
_FRESH = 1 / 6


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
    previous: Lease | None


@attrs.frozen
class _Refused:
    by: Lease | Ticket


def _ticket_of(record: StageRecord, run_id: str) -> Ticket | None:
    return next((ticket for ticket in record.tickets if ticket.owner.run_id == run_id), None)


def _is_fresh(lease: Lease, owner: Owner, seconds: float, now: float) -> bool:
    """Say whether a process renewed its lease so recently that the first heartbeat will do."""
    as_good = lease.owner == owner and lease.expires - lease.heartbeat == seconds
    return as_good and 0 <= now - lease.heartbeat < seconds * _FRESH


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

    def _records(self) -> list[StageRecord]:
        """Give all records, by name of the stage."""
        return [self._read(stage) for stage in sorted(self._stages())]

    def _is_connected(self, lease: Lease) -> bool | None:
        """Say whether the store still hears from the process of a lease in session form.

        ``None``, as here: it cannot know. Then the process id decides, and on another host the time.
        """
        del lease
        return None

    def _is_lost(self, lease: Lease) -> bool:
        """Say whether a lease is lost for its own run, although nobody else has it. Here it never is."""
        del lease
        return False

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
        if lease is None or lease.owner.run_id == owner.run_id or self._abandoned(lease):
            return None
        return _Verdict(lease, is_over(lease))

    def _abandoned(self, lease: Lease) -> bool:
        connected = self._is_connected(lease)
        if connected is None:
            return lease.abandoned(self._clock())
        return not connected or lease.owner.is_dead

    def _attempt(
        self, record: StageRecord, owner: Owner, seconds: float, verdict: _Verdict | None
    ) -> tuple[StageRecord, _Granted | _Refused | None]:
        now = self._clock()
        lease = record.lease
        if lease is not None and lease.owner.run_id == owner.run_id and self._is_connected(lease) is not False:
            # A second begin of the same run (a retry): same holder, same token, but the process may be another one.
            known = self.tracked(record.stage, owner) and _ticket_of(record, owner.run_id) is None
            if known and _is_fresh(lease, owner, seconds, now):
                return record, _Granted(lease, None)  # the next of many short steps: nothing need be written
            renewed = attrs.evolve(lease, owner=owner, heartbeat=now, expires=now + seconds)
            return attrs.evolve(record.without_ticket(owner.run_id), lease=renewed), _Granted(renewed, None)
        if lease is not None and lease.owner.run_id != owner.run_id and not self._abandoned(lease):
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

    def _queued(self, record: StageRecord, owner: Owner, now: float, since: float | None = None) -> StageRecord:
        # Pruned first: who stopped asking for too long has lost the place and gets a new one at the end.
        record = self._pruned(record, now)
        since = now if since is None else min(since, now)
        mine = _ticket_of(record, owner.run_id)
        if mine is None:
            tickets = (*record.tickets, Ticket(owner, since, now))
        else:
            renewed = attrs.evolve(mine, owner=owner, since=min(mine.since, since), refreshed=now)
            tickets = tuple(renewed if ticket is mine else ticket for ticket in record.tickets)
        return attrs.evolve(record, tickets=tuple(sorted(tickets, key=lambda ticket: ticket.since)))

    def wait(
        self, stage: str, owner: Owner, *, since: float | None = None, keeps: tuple[str, ...] | None = None
    ) -> Place:
        """Keep a place in the queue for a stage, without taking it; see ``LockManager``."""

        def change(record: StageRecord) -> tuple[StageRecord, Place]:
            now = self._clock()
            mine = _ticket_of(record, owner.run_id)
            came_earlier = mine is not None and since is not None and since < mine.since
            # Looking is cheap, and a ticket is good for some time.
            if mine is None or came_earlier or not mine.is_alive(now, self.ticket_seconds / 3):
                record = self._queued(record, owner, now, since)
                mine = _ticket_of(record, owner.run_id)
                assert mine is not None
            if keeps is not None and keeps != mine.keeps:
                kept = attrs.evolve(mine, keeps=keeps)
                tickets = tuple(kept if ticket is mine else ticket for ticket in record.tickets)
                record, mine = attrs.evolve(record, tickets=tickets), kept
            lease = record.lease
            is_free = lease is None or lease.owner.run_id == owner.run_id or self._abandoned(lease)
            first = self._first_before(record, owner, now) is None
            return record, Place(mine.since, first, None if is_free else lease, mine.keeps, token=record.token)

        place = self._change(stage, change)
        if place.holder is None or not place.keeps:
            return place
        return attrs.evolve(place, deadlock=self._deadlock(stage, owner.run_id))

    def _deadlock(self, stage: str, run_id: str) -> str | None:
        """Say in which circle a run waits, if it is the one to give up."""
        circle = self._circle(stage, run_id)
        # The records are not read in one step. What was there in both of two looks was there between them, all at once.
        again = self._circle(stage, run_id) if circle else ()
        if not circle or [wait.identity for wait in circle] != [wait.identity for wait in again]:
            return None
        if youngest(circle) is not circle[0] or any(self._abandoned(wait.lease) for wait in circle):
            return None
        return told(circle, self._clock())

    def _circle(self, stage: str, run_id: str) -> tuple[Wait, ...]:
        now = self._clock()
        waits = [
            Wait(ticket, record.lease)
            for record in self._records()
            if record.lease is not None
            for ticket in self._pruned(record, now).tickets
            if not record.held_by(ticket.owner.run_id)
        ]
        return find_circle(waits, stage, run_id)

    def _granted(self, stage: str, owner: Owner, outcome: _Granted) -> Lease:
        if outcome.previous is not None and outcome.previous.owner.run_id != owner.run_id:
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
                f"Stage {stage!r} is free, but it is waited for by {by.describe(now)}, which comes before run "
                f"{owner.run_id}. Try again: the place in the queue is kept for {self.ticket_seconds:g} s after each "
                "try, and so is that of the other run, so there is nothing to break. Who has which stage is shown by: "
                "pipedag-airflow locks"
            )
        return (
            f"Stage {stage!r} is held by {by.describe(now)}; run {owner.run_id} cannot begin it. Wait until that run "
            f"ends (the place in the queue is kept for {self.ticket_seconds:g} s after each try). {how_to_free(stage)}"
        )

    def waits_for(self, run_id: str) -> list[str]:
        """For which stages a run has a place in the queue; see ``LockManager``."""
        # Also places that are lost for now: whoever waits may be a process that died and is about to be started again.
        return [record.stage for record in self._records() if _ticket_of(record, run_id) is not None]

    def withdraw(self, stage: str, owner: Owner) -> None:
        """Remove the caller's ticket; see ``LockManager``."""
        self._change(stage, lambda record: (record.without_ticket(owner.run_id), None))

    def renew(self, stage: str, owner: Owner, *, seconds: float) -> Lease:
        """Extend a lease that the run holds; see ``LockManager``."""

        def change(record: StageRecord) -> tuple[StageRecord, tuple[Lease | None, bool]]:
            now = self._clock()
            lease = record.lease
            if lease is None or lease.owner.run_id != owner.run_id or self._is_lost(lease):
                return record, (lease, False)
            # The holder stays who acquired: in session form it is that process whose death ends the run.
            lease = attrs.evolve(lease, heartbeat=now, expires=now + seconds)
            return attrs.evolve(record, lease=lease), (lease, True)

        lease, renewed = self._change(stage, change)
        if lease is None:
            self.observe(stage, owner, LockState.UNLOCKED)
            now_held = "nobody holds it now: it was released, or its lease was broken; see: pipedag-airflow locks"
        elif renewed and self.observe(stage, owner, LockState.LOCKED) is not LockState.INVALID:
            return lease
        else:
            self.observe(stage, owner, LockState.INVALID)
            now_held = f"it is held by {lease.describe(self._clock())}. {how_to_free(stage)}"
            if lease.owner.run_id == owner.run_id:
                now_held = (
                    "it was lost in between and the work of that time cannot be trusted. The lease is that of "
                    f"{lease.describe(self._clock())}. {how_to_free(stage)}"
                )
        raise StaleRunError(
            f"Run {owner.run_id} no longer holds stage {stage!r}. Nothing of it is published by this run; start a new "
            f"run when the stage is free: {now_held}"
        )

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
        return [record.lease for record in self._records() if record.lease is not None]

    def state(self, stage: str, owner: Owner) -> LockState:
        """What a run may assume about a stage; see ``LockManager``."""
        lease = self._read(stage).lease
        if lease is None:
            seen = LockState.UNLOCKED
        elif lease.owner.run_id != owner.run_id or self._is_lost(lease):
            seen = LockState.INVALID
        elif self._clock() > lease.expires:
            seen = LockState.UNCERTAIN
        else:
            seen = LockState.LOCKED
        return self.observe(stage, owner, seen) if self.tracked(stage, owner) else seen
