"""Waiting for a stage in the triggerer. A trigger only waits: it never holds anything."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from pipedag_airflow.backend.lock import Owner
from pipedag_airflow.errors import PipedagError
from pipedag_airflow.provider.connections import read_config
from pipedag_airflow.provider.dag_runs import run_is_over, stages_kept_to_the_end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pipedag_airflow.backend.lock import LockManager

__all__ = ["StageFreeTrigger"]

log = logging.getLogger(__name__)

#: Seconds between two questions to Airflow: whether the run that has the stage is over, and what has failed in our own.
_ASK_SECONDS = 8.0


class StageFreeTrigger(BaseTrigger):
    """Fires when a stage is free, and nobody else has waited longer for it.

    It keeps the place of its run in the queue. When the triggerer dies, that place is kept for ten seconds, and given
    back when it is there again.

    Args:
        flow: Name of the flow.
        folder: Folder from which pipedag.yaml is looked for.
        instance: The instance.
        stage: Name of the stage.
        run_id: Id of the run that waits.
        since: When the waiting began, by the clock of the leases.
        keeps: The stages that the run keeps until it has had this one.
        poll: Seconds between two looks.
    """

    def __init__(
        self,
        flow: str,
        folder: str | None,
        instance: str | None,
        stage: str,
        run_id: str,
        since: float,
        keeps: Sequence[str] = (),
        poll: float = 1.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow does not annotate it
        self.flow = flow
        self.folder = folder
        self.instance = instance
        self.stage = stage
        self.run_id = run_id
        self.since = since
        self.keeps = list(keeps)
        self.poll = poll
        self.wait_seconds = 0.0
        self._ask_again = 0.0
        #: The stages in which something has failed since: the run keeps them until its end.
        self._failed: list[str] = []

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what Airflow needs to make the trigger again."""
        names = ("flow", "folder", "instance", "stage", "run_id", "since", "keeps", "poll")
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the turn of the run."""
        try:
            locks = await asyncio.to_thread(self._lock_manager)
            try:
                # Not at once: Airflow should have heard first that the process which deferred has ended.
                await asyncio.sleep(self.poll)
                while not await asyncio.to_thread(self._may_begin, locks):
                    await asyncio.sleep(self.poll)
            finally:
                await asyncio.to_thread(locks.dispose)
        except PipedagError:
            # The step meets the same error, if it is still there, and then it is in the log where people look.
            log.exception("Run %s cannot wait here for stage %s", self.run_id, self.stage)
        yield TriggerEvent({"stage": self.stage, "since": self.since})

    def _lock_manager(self) -> LockManager:
        folder = None if self.folder is None else Path(self.folder)
        config = read_config(folder, self.instance, self.flow)
        self.wait_seconds = config.wait_seconds
        locks: LockManager = config.create_lock_manager()
        return locks

    def _may_begin(self, locks: LockManager) -> bool:
        """Keep the place of the run, and say whether it is the first one and nobody has the stage who lives."""
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        asks = time.monotonic() >= self._ask_again
        if asks:
            self._ask_again = time.monotonic() + _ASK_SECONDS
            self._failed = stages_kept_to_the_end(self.run_id, RuntimeTaskInstance)
        keeps = tuple(sorted({*self.keeps, *self._failed} - {self.stage}))
        place = locks.wait(self.stage, Owner.of_run(self.run_id), since=self.since, keeps=keeps)
        if place.deadlock is not None:
            return True  # the step gives up
        if 0 < self.wait_seconds <= locks.now() - place.since:
            return True  # the step gives up
        if place.holder is None or not place.first:
            return place.first
        return asks and run_is_over(place.holder, RuntimeTaskInstance, locks.now)
