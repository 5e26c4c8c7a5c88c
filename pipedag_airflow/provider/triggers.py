"""Waiting for a stage in the triggerer. A trigger only waits: it never holds anything."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from pipedag_airflow.config import PipedagConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pipedag_airflow.backend.lock import Lease

__all__ = ["StageFreeTrigger"]

#: After this time the operator looks for itself: it can ask Airflow whether the holder's run is over. Less than the
#: time for which a lock manager keeps the place in the queue of a run that does not ask again.
_LOOK_SECONDS = 8.0


class StageFreeTrigger(BaseTrigger):
    """Fires when a stage is free, or held by another run than before.

    Args:
        flow: Name of the flow.
        folder: Folder from which pipedag.yaml is looked for.
        instance: The instance.
        stage: Name of the stage.
        poll: Seconds between two looks.
    """

    def __init__(self, flow: str, folder: str | None, instance: str | None, stage: str, poll: float = 1.0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow does not annotate it
        self.flow = flow
        self.folder = folder
        self.instance = instance
        self.stage = stage
        self.poll = poll

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what Airflow needs to make the trigger again."""
        arguments = {name: getattr(self, name) for name in ("flow", "folder", "instance", "stage", "poll")}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look at the lease until it is worth trying again."""
        first = await asyncio.to_thread(self._holder)
        deadline = time.monotonic() + _LOOK_SECONDS
        holder = first
        while _same_run(holder, first) and time.monotonic() < deadline:
            await asyncio.sleep(self.poll)
            holder = await asyncio.to_thread(self._holder)
        yield TriggerEvent({"stage": self.stage})

    def _holder(self) -> Lease | None:
        folder = None if self.folder is None else Path(self.folder)
        config = PipedagConfig.find(folder).get(instance=self.instance, flow=self.flow)
        with config.create_lock_manager() as locks:
            holder: Lease | None = locks.holder(self.stage)
        return holder


def _same_run(holder: Lease | None, first: Lease | None) -> bool:
    """Say whether the stage is held as before; the steps of one run may be on several hosts."""
    return holder is not None and first is not None and holder.owner.run_id == first.owner.run_id
