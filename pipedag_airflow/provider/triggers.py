"""Waiting in the triggerer, for a stage or for the run of a stage's own DAG. A trigger only waits: it holds nothing."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk.configuration import conf
from airflow.triggers.base import BaseTrigger, TriggerEvent

from pipedag_airflow.backend.lock import Owner
from pipedag_airflow.errors import ConfigError, LockError, PipedagError
from pipedag_airflow.provider.connections import read_config
from pipedag_airflow.provider.dag_runs import UNDER_WAY, run_is_over, run_state, stages_kept_to_the_end
from pipedag_airflow.provider.shared_locks import shared_locks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from pipedag_airflow.backend.lock import LockManager
    from pipedag_airflow.config import ConfigContext

__all__ = ["PartRunTrigger", "StageFreeTrigger", "seconds_until_heard"]

log = logging.getLogger(__name__)

#: Seconds between two questions to Airflow: whether the run that has the stage is over, and what has failed in our own.
_ASK_SECONDS = 8.0
#: Seconds after which the step has to look by itself because this process cannot: each look of it is a process.
_PAUSE_SECONDS = 30.0
#: Seconds from what a supervisor tells to the scheduler's next round, which hears it.
_ROUND_SECONDS = 2.0

_SAME = (
    "Let the triggerer have the file that the workers have: name it in airflow.cfg by [pipedag] config_file, or by the "
    "environment variable PIPEDAG_CONFIG of both."
)


def seconds_until_heard() -> float:
    """Return after how many seconds Airflow has heard that the process which defers has ended.

    The supervisor of that process often misses its end by a moment, and then looks again after the time between two
    heartbeats (Airflow's ``ActivitySubprocess._monitor_subprocess``). A task that goes on before Airflow has heard is
    taken for dead and tried again. Ask in the process that defers: it has the configuration of its supervisor.
    """
    between_heartbeats: int = conf.getint("workers", "min_heartbeat_interval", fallback=5)
    return between_heartbeats + _ROUND_SECONDS


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
        source: Where the run has its configuration from: here it has to be the same.
        instance_id: Id of the instance by that configuration.
        token: The token of the stage's last lease that the run has seen: here there must not be fewer.
        after: Seconds before which it does not fire, see :func:`seconds_until_heard`.
        parts: Names of the stages of the flow that have DAGs of their own.
        nested: Names of the stages that are nested in others, by the names of these.
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
        *,
        source: str,
        instance_id: str,
        token: int,
        after: float,
        parts: Sequence[str] = (),
        nested: Mapping[str, Sequence[str]] | None = None,
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
        self.source = source
        self.instance_id = instance_id
        self.token = token
        self.parts = list(parts)
        self.nested = nested or {}
        self.after = after
        self.poll = poll
        self.wait_seconds = 0.0
        self._ask_again = 0.0
        #: The stages in which something has failed since: the run keeps them until its end.
        self._failed: list[str] = []

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what Airflow needs to make the trigger again."""
        names = ("flow", "folder", "instance", "stage", "run_id", "since", "keeps", "source", "instance_id", "token")
        arguments = {name: getattr(self, name) for name in (*names, "parts", "nested", "after", "poll")}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the turn of the run."""
        trouble = None
        not_before = time.monotonic() + self.after
        try:
            config = await asyncio.to_thread(self._config)
            async with shared_locks(config) as locks:
                # The place is kept from the first look on.
                while not await locks.ask(self._may_begin) or time.monotonic() < not_before:
                    await asyncio.sleep(self.poll)
        except PipedagError as error:
            # The step meets the same error, if it is still there, and then it is in the log where people look.
            log.exception("Run %s cannot wait here for stage %s", self.run_id, self.stage)
            trouble = f"{type(error).__name__}: {error}"
            await asyncio.sleep(_PAUSE_SECONDS)
        yield TriggerEvent({"stage": self.stage, "since": self.since, "trouble": trouble})

    def _config(self) -> ConfigContext:
        folder = None if self.folder is None else Path(self.folder)
        config = read_config(folder, self.instance, self.flow)
        if (config.source, config.instance_id) != (self.source, self.instance_id):
            raise ConfigError(
                f"Run {self.run_id} has its configuration from {self.source} (instance_id {self.instance_id!r}), the "
                f"triggerer on host {socket.gethostname()} from {config.source} (instance_id {config.instance_id!r}), "
                f"so it would wait for stage {self.stage!r} at other locks. {_SAME}"
            )
        self.wait_seconds = config.wait_seconds
        return config

    def _may_begin(self, locks: LockManager) -> bool:
        """Keep the place of the run, and say whether it is the first one and nobody has the stage who lives."""
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        asks = time.monotonic() >= self._ask_again
        if asks:
            self._ask_again = time.monotonic() + _ASK_SECONDS
            self._failed = stages_kept_to_the_end(self.run_id, self.parts, self.nested, RuntimeTaskInstance)
        keeps = tuple(sorted({*self.keeps, *self._failed} - {self.stage}))
        place = locks.wait(self.stage, Owner.of_run(self.run_id), since=self.since, keeps=keeps)
        if place.token < self.token:
            locks.withdraw(self.stage, Owner.of_run(self.run_id))
            raise LockError(
                f"Run {self.run_id} waits for stage {self.stage!r} after lease {self.token} of it, and at the locks of "
                f"the triggerer on host {socket.gethostname()} there were {place.token}: they are others, of the same "
                f"name ({self.source}). Locks in files need a folder that all machines share. {_SAME}"
            )
        if place.deadlock is not None:
            return True  # the step gives up
        if 0 < self.wait_seconds <= locks.now() - place.since:
            return True  # the step gives up
        if place.holder is None or not place.first:
            return place.first
        return asks and run_is_over(place.holder, RuntimeTaskInstance, locks.now)


class PartRunTrigger(BaseTrigger):
    """Fires when the run of a stage's own DAG is over, or is not there any more; Airflow's own waits for ever then.

    It also fires when that takes long: only the operator's own process can ask Airflow whether the DAG is paused.

    Args:
        dag_id: Id of the DAG.
        run_id: Id of the run.
        after: Seconds before which it does not fire, see :func:`seconds_until_heard`.
        poll: Seconds between two looks.
        patience: Seconds after which it fires all the same.
    """

    def __init__(self, dag_id: str, run_id: str, *, after: float, poll: float = 2.0, patience: float = 600.0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow does not annotate it
        self.dag_id = dag_id
        self.run_id = run_id
        self.after = after
        self.poll = poll
        self.patience = patience

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what Airflow needs to make the trigger again."""
        arguments = {name: getattr(self, name) for name in ("dag_id", "run_id", "after", "poll", "patience")}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until the run is over, or for long; the event has the state, None if the run was deleted."""
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        look = partial(run_state, RuntimeTaskInstance, self.dag_id, self.run_id)
        until = time.monotonic() + self.patience
        await asyncio.sleep(self.after)
        while (state := await asyncio.to_thread(look)) in UNDER_WAY and time.monotonic() < until:
            await asyncio.sleep(self.poll)
        yield TriggerEvent({"state": state})
