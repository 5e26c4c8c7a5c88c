"""What every step of a run knows: flow, plan, configuration, and who runs it."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.backend.lock.lease import never
from pipedag_airflow.backend.metadata import FencedError
from pipedag_airflow.cache.decision import Decision, Reason
from pipedag_airflow.core.selector import Selection, everything
from pipedag_airflow.core.stage import current_schemas
from pipedag_airflow.core.values import deep_map
from pipedag_airflow.errors import StaleRunError
from pipedag_airflow.run.identity_names import IdentityNames
from pipedag_airflow.run.overrides import Overrides
from pipedag_airflow.run.policy import CachePolicy
from pipedag_airflow.run.watching import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pipedag_airflow.backend.blob import BlobStore
    from pipedag_airflow.backend.lock import Lease, LockManager, Owner
    from pipedag_airflow.backend.table.sql.store import SQLTableStore
    from pipedag_airflow.config import ConfigContext
    from pipedag_airflow.core.classes import Classes
    from pipedag_airflow.core.flow import Flow
    from pipedag_airflow.core.plan import Plan
    from pipedag_airflow.core.task import Task

__all__ = ["RunSession"]


def _whole_flow(session: RunSession) -> Selection:
    return everything(session.plan)


@attrs.define(slots=False)
class RunSession:
    """One run of a flow, as one of its processes sees it.

    Args:
        flow: The flow, as this process imported it.
        config: The configuration.
        owner: Who runs; its ``run_id`` is the orchestrator's own id in full.
        engine: Name of the engine, for the records.
        is_over: Says whether the run that holds a lease has ended, so that its lease may be taken over.
        keeps_stages: Whether stages stay locked when they are over, because a StageLockContext is open.
        selection: What the run executes and publishes, the same in all of its steps.
        overrides: What its tasks read instead of results.
        watcher: Is told of the steps of tasks.
    """

    flow: Flow
    config: ConfigContext
    owner: Owner
    engine: str
    is_over: Callable[[Lease], bool] = never
    keeps_stages: bool = False
    selection: Selection = attrs.field(default=attrs.Factory(_whole_flow, takes_self=True))
    overrides: Overrides = attrs.field(factory=Overrides)
    watcher: Watcher = attrs.field(factory=Watcher)
    #: The arguments of each task as they were when the run started, by its id and the name of the parameter.
    arguments: Mapping[str, Mapping[str, Any]] = attrs.field(init=False)

    @arguments.default
    def _frozen_arguments(self) -> Mapping[str, Mapping[str, Any]]:
        return {node: deep_map(dict(task.bound.arguments), lambda leaf: leaf) for node, task in self.flow.tasks.items()}

    @property
    def run_id(self) -> str:
        """The orchestrator's id of the run."""
        return self.owner.run_id

    @property
    def plan(self) -> Plan:
        """The plan of the flow."""
        return self.flow.plan()

    @property
    def store(self) -> SQLTableStore:
        """The table store."""
        store: SQLTableStore = self.config.table_store
        return store

    @property
    def blobs(self) -> BlobStore:
        """The blob store."""
        blobs: BlobStore = self.config.blob_store
        return blobs

    @property
    def locks(self) -> LockManager:
        """The lock manager."""
        locks: LockManager = self.config.lock_manager
        return locks

    @property
    def lease_seconds(self) -> float:
        """For how long a lease is valid after it was last renewed."""
        return float(self.config.lease_seconds)

    @cached_property
    def policy(self) -> CachePolicy:
        """What this run takes as valid; the configuration says it to every step alike."""
        return CachePolicy.of(self.config)

    def why_forced(self, task: Task) -> Decision | None:
        """Return the decision on a task that runs although its result may be valid; None if it is not forced."""
        if task.id in self.selection.forced:
            return Decision(False, Reason.SELECTED)
        forced = self.policy.why_forced(task)
        return None if forced is None else Decision(False, Reason.FORCED_BY_MODE, forced)

    @cached_property
    def identity_names(self) -> IdentityNames:
        """The name under which each node's results are looked up."""
        return IdentityNames(self.flow)

    @property
    def classes(self) -> Classes:
        """The classes that stored values may have."""
        return self.flow.classes

    @contextmanager
    def stage_schemas(self, generations: dict[str, int]) -> Iterator[None]:
        """Answer ``stage.current_name`` within the block.

        Args:
            generations: The open generation of each stage that this run has open.
        """

        def lookup(stage: str) -> tuple[str, str]:
            shown = self.store.schema(stage)
            if stage not in generations:
                return shown, shown
            transaction = self.store.generation_schema(stage, generations[stage])
            return transaction, transaction

        token = current_schemas.set(lookup)
        try:
            yield
        finally:
            current_schemas.reset(token)

    def confirm_lease(self, stage: str) -> None:
        """Wait while it is uncertain whether this run still holds a stage; called before something is written.

        Raises:
            StaleRunError: if the stage is lost.
            LockError: if that is not known within the time of a lease.
        """
        self.locks.confirm(stage, self.owner, seconds=self.lease_seconds)

    @contextmanager
    def holding(self, stage: str) -> Iterator[None]:
        """Hold the stage's lease within the block, renewing it all the while, and keep the table store open.

        If it is lost all the same, the fence in each transaction says so.

        Raises:
            StageBusyError: if another run holds it.
            StaleRunError: if the fence says that another run may write in its place.
        """
        seconds = self.lease_seconds
        lease = self.locks.acquire(stage, self.owner, seconds=seconds, is_over=self.is_over)
        heartbeat = self.locks.keep_alive(stage, self.owner, seconds=seconds, lease=lease)
        with heartbeat, self.store.kept_open():
            try:
                yield
            except FencedError as error:
                # The metadata know the generations, and only the locks know who has shown a sign of life, and when.
                raise StaleRunError(f"{error} {self.locks.told_holder(stage)}") from error
            finally:
                if heartbeat.stop():
                    # It may be in the database that this thread keeps open.
                    self.store.let_go()
