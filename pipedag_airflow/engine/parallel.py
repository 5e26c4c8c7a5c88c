"""Several steps at a time: the loop of the engines that have workers.

The process that began the run begins and publishes the stages, in threads: so it is what holds them, and a begin that
has to wait keeps no worker busy. Tasks that begin found valid are over with it. The others go to the workers, each as
soon as what it needs is there.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from pipedag_airflow.core.plan import BEGIN_TASK, NodeKind, PlanNode
from pipedag_airflow.core.values import Decoder
from pipedag_airflow.engine.engine_run import EngineRun, begin_when_free
from pipedag_airflow.errors import ConfigError, StageBusyError
from pipedag_airflow.run.publish import publish

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from pipedag_airflow.engine.base import Outcome
    from pipedag_airflow.engine.steps import StepEnd
    from pipedag_airflow.run.session import RunSession

__all__ = ["ParallelRun", "Workers"]

T = TypeVar("T")


class Workers(ABC):
    """Who executes the tasks of a run."""

    width: int | None = None
    """How many tasks they are given at a time; None for all that can run."""

    @abstractmethod
    def execute(self, node: str, tell: Callable[[StepEnd], None]) -> None:
        """Have a task executed, without waiting for it.

        Args:
            node: Id of the task.
            tell: To be called once, in any thread, when it is over, however it ended.
        """

    def call(self, name: str, step: Callable[[], T]) -> T:
        """Begin or publish a stage, in this thread.

        Args:
            name: Id of the step.
            step: Does it.

        Returns:
            What the step returns.

        Raises:
            Exception: what the step raises.
        """
        del name
        return step()


class ParallelRun(EngineRun):
    """The loop over nodes of a plan, with workers.

    After a failure nothing more is started if the run is to fail fast; what is under way comes to its end.

    Args:
        session: The run.
        nodes: Ids of the nodes, in plan order.
        workers: Who executes the tasks.

    Raises:
        ConfigError: if no other thread or process can see the database.
    """

    def __init__(self, session: RunSession, nodes: Sequence[str], workers: Workers) -> None:
        super().__init__(session, nodes, fail_fast=session.config.fail_fast)
        if session.store.is_private:
            raise ConfigError(
                f"{session.engine} cannot work on {session.store.address}: a database in memory is that of one process "
                "and one thread. Name a file in table_store.args.url, or run with SequentialEngine."
            )
        self._workers = workers
        #: Ids of the nodes of which nothing more is to come: done, failed, or kept by a failure from ever running.
        self._over: set[str] = set()
        self._waiting = list(self.nodes)
        #: Stages of which the begin was started, and those where it failed.
        self._opened: set[str] = set()
        self._closed: dict[str, Exception] = {}
        #: Steps of any kind, and those that the workers have.
        self._under_way = 0
        self._executing = 0
        self._told: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._stop = threading.Event()
        self._outside = _outside(self)

    def run(self) -> Outcome:
        """Start the steps, each when its time has come; return what became of the nodes."""
        stages = {node.stage for node in self.nodes}
        with ThreadPoolExecutor(len(stages) or 1, thread_name_prefix="pipedag-step") as self._threads:
            try:
                self._start_what_can()
                while self._under_way:
                    note = self._told.get()
                    self._under_way -= 1
                    note()
                    self._start_what_can()
            finally:
                self._stop.set()
        return self.concluded()

    def _start_what_can(self) -> None:
        """Start all nodes whose time has come; one pass is enough, as a node stands behind all that it needs."""
        waiting, self._waiting = self._waiting, []
        for node in waiting:
            if self._stop.is_set() or not self._start(node):
                self._waiting.append(node)

    def _start(self, node: PlanNode) -> bool:
        """Start a node, or note that it will never run; say whether it waits no longer."""
        needed = self.selected.intersection(node.upstream)
        if not self._over.issuperset(needed):
            return False
        if not self.done.issuperset(needed):
            self._over.add(node.id)
        elif node.kind is NodeKind.COMMIT:
            self._publish(node)
        elif node.stage in self._closed:
            self._failed(node, self._closed[node.stage])
        elif node.stage in self.begun:
            return self._execute(node)
        else:
            self._begin(node.stage)
            return False
        return True

    # --- the steps --------------------------------------------------------------------------------------------------

    def _begin(self, stage: str) -> None:
        if stage in self._opened or not self._over.issuperset(self._outside[stage]):
            return
        self._opened.add(stage)
        begin = partial(begin_when_free, self.session, stage, self._held_up, self._stop.wait)
        self._in_thread(f"{stage}.{BEGIN_TASK}", begin, partial(self._note_begin, stage))

    def _held_up(self) -> set[str]:
        """Return the stages that are not published by this run any more: it keeps them to its end."""
        failed = {self.session.plan.node_by_id[node].stage for node in list(self.failures)}
        return {*failed, *(outer for stage in failed for outer in self.session.plan.enclosing(stage))}

    def _note_begin(self, stage: str, begun: Future[Any]) -> None:
        try:
            self.begun[stage] = begun.result()
        except StageBusyError as error:
            if not self._stop.is_set():  # else it no longer waits, because something else has failed
                self._closed[stage] = error
        except Exception as error:
            self._closed[stage] = error

    def _execute(self, node: PlanNode) -> bool:
        """Have a task executed unless it is valid; say whether it waits no longer."""
        report = self.begun[node.stage]
        decision = report.decisions[node.id]
        if decision.valid:
            self.note_result(node, report.values[node.id], decision)
            self._done(node)
            return True
        if self._workers.width is not None and self._executing >= self._workers.width:
            return False
        try:
            self._workers.execute(node.id, lambda end: self._told.put(partial(self._note_end, node, end)))
        except Exception as error:  # of whatever the workers are reached by
            self._failed(node, error)
        else:
            self._under_way += 1
            self._executing += 1
        return True

    def _note_end(self, node: PlanNode, end: StepEnd) -> None:
        self._executing -= 1
        try:
            if end.error is not None:
                raise end.error
            assert end.decision is not None
            self.note_result(node, self._stored(node), end.decision)
        except Exception as error:
            self._failed(node, error)
        else:
            self._done(node)

    def _stored(self, node: PlanNode) -> Any:
        """Return the result of a task, as its step has stored it."""
        session, number = self.session, self.begun[node.stage].generation
        with session.store.transaction() as transaction:
            [row] = transaction.metadata.read_tasks([(node.stage, number)], nodes=[node.id])
        where = f"The stored result of task {node.id!r}"
        assert row.output is not None
        return Decoder(number, session.flow.stages, session.classes, where).load(row.output)

    def _publish(self, node: PlanNode) -> None:
        report = self.begun.get(node.stage)
        if report is None or report.closed:
            self._done(node)
            return
        self._in_thread(node.id, partial(publish, self.session, node.stage), partial(self._note_publish, node))

    def _note_publish(self, node: PlanNode, published: Future[Any]) -> None:
        try:
            self.published[node.stage] = published.result()
        except Exception as error:
            self._failed(node, error)
        else:
            self._done(node)

    def _in_thread(self, name: str, step: Callable[[], Any], note: Callable[[Future[Any]], None]) -> None:
        self._under_way += 1
        future: Future[Any] = self._threads.submit(copy_context().run, self._workers.call, name, step)
        future.add_done_callback(lambda ended: self._told.put(partial(note, ended)))

    # --- their ends -------------------------------------------------------------------------------------------------

    def _done(self, node: PlanNode) -> None:
        self._over.add(node.id)
        self.done.add(node.id)

    def _failed(self, node: PlanNode, error: Exception) -> None:
        self._over.add(node.id)
        self.note_failure(node, error)
        if self.fail_fast:
            self._stop.set()


def _outside(run: ParallelRun) -> dict[str, set[str]]:
    """Return for each stage what its tasks need of others: when that is over, begin can decide the stage in one go.

    What is nested in the stage comes after its begin.
    """
    plan = run.session.plan
    found: dict[str, set[str]] = {node.stage: set() for node in run.nodes}
    for node in run.nodes:
        if node.kind is not NodeKind.TASK:
            continue
        for other in run.selected.intersection(node.upstream):
            stage = plan.node_by_id[other].stage
            if stage != node.stage and not plan.is_inside(stage, node.stage):
                found[node.stage].add(other)
    return found
