"""What is stored about one stage: who has it, and who waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from pipedag_airflow.backend.lock.lease import in_words

if TYPE_CHECKING:
    from pipedag_airflow.backend.lock.lease import Lease, Owner

__all__ = ["StageRecord", "Ticket"]


@attrs.frozen
class Ticket:
    """A place in the queue for a stage.

    Args:
        owner: Who waits.
        since: When it was refused first.
        refreshed: When it was refused last.
        keeps: The stages that its owner has, and that will not be free before it has had the one that it waits for.
    """

    owner: Owner
    since: float
    refreshed: float
    keeps: tuple[str, ...] = ()

    def describe(self, now: float) -> str:
        """Who waits, in words.

        Args:
            now: The present time.

        Returns:
            The same of it as of the holder of a lease.
        """
        return in_words(self.owner, since=self.since, heartbeat=self.refreshed, now=now)

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
