"""The tasks of a stage are decided, one after the other; what is found valid is an input of the next ones."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

import attrs

from pipedag_airflow.cache.decision import Decision, Identity, Reason
from pipedag_airflow.run.decide import carried, decide, identity_of, input_hash_of, pending
from pipedag_airflow.run.inputs import reads_open, resolve_arguments
from pipedag_airflow.run.lazy import decide_lazy_ahead

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipedag_airflow.backend.metadata import TaskRecord
    from pipedag_airflow.core.task import Task
    from pipedag_airflow.run.session import RunSession
    from pipedag_airflow.run.snapshot import Snapshot

__all__ = ["decide_stage"]

log = logging.getLogger(__name__)

#: The revision of what begin found valid: less than any that a step of the task's own can have.
FOUND_BY_BEGIN = -1


def decide_stage(
    session: RunSession, snapshot: Snapshot, tasks: tuple[str, ...]
) -> tuple[dict[str, Decision], dict[str, TaskRecord]]:
    """Decide tasks of a stage in plan order; what is found valid is an input of the next ones.

    Args:
        session: The run.
        snapshot: The stage, with an open generation.
        tasks: Ids of the tasks, in plan order.

    Returns:
        The decisions, and the rows that stand for the results or for what is to come, by node id.
    """
    deciding = _Deciding(session, snapshot, tasks)
    deciding.run()
    return deciding.decisions, deciding.rows


@attrs.frozen
class _Evaluation:
    """The function of a lazy task is being called since a moment by the monotonic clock."""

    task: Task
    identity: Identity
    since: float


class _Deciding:
    """The loop through the tasks of a stage.

    The query of a lazy task may take longer to build than begin has time for, and a thread cannot be stopped. So where
    there are such tasks, the loop has a thread of its own: one for all of them, as handing each over would cost more
    than deciding it. If one takes too long, the thread is given up, and another one goes on with the next task.
    """

    def __init__(self, session: RunSession, snapshot: Snapshot, tasks: Iterable[str]) -> None:
        self.session = session
        self.snapshot = snapshot
        self.decisions: dict[str, Decision] = {}
        self.rows: dict[str, TaskRecord] = {}
        self._todo = deque(session.flow.tasks[node] for node in tasks)
        self._seconds = float(session.config.begin_query_seconds)
        #: Held by whoever enters a decision or gives a thread up.
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = threading.current_thread()
        self._evaluation: _Evaluation | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Decide all tasks."""
        while self._seconds > 0 and any(task.unbound.lazy for task in self._todo):
            self._watch_a_thread()
            if self._error is not None:
                raise self._error
        self._thread = threading.current_thread()
        self._loop()

    def _watch_a_thread(self) -> None:
        """Let a thread go on until it is through, or until one task has taken too long."""
        # It cannot close what this one has open.
        self.session.store.let_go()
        # As a daemon it does not keep the process from ending.
        thread = threading.Thread(target=contextvars.copy_context().run, args=(self._loop_or_fail,), daemon=True)
        self._thread = thread
        try:
            thread.start()
            while thread.is_alive() and self._thread is thread:
                thread.join(self._seconds_left())
                self._give_up_if_late(thread)
        finally:
            self._thread = None

    def _seconds_left(self) -> float:
        evaluation = self._evaluation
        return self._seconds if evaluation is None else max(0.0, evaluation.since + self._seconds - time.monotonic())

    def _give_up_if_late(self, thread: threading.Thread) -> None:
        with self._mutex:
            evaluation = self._evaluation
            if evaluation is None or not thread.is_alive() or self._seconds_left() > 0:
                return
            self._thread = None
            log.info("%s: its query was not ready after %s s; its own step decides", evaluation.task.id, self._seconds)
            self._enter(evaluation.task, Decision(False, Reason.DECIDED_LATER), evaluation.identity, None)

    def _loop_or_fail(self) -> None:
        try:
            self._loop()
        except BaseException as error:  # raised where the thread is waited for
            with self._mutex:
                if self._thread is threading.current_thread():
                    self._error = error

    def _loop(self) -> None:
        while self._todo:
            task = self._todo[0]
            decision, identity, row = self._decide(task)
            with self._mutex:
                if self._thread is not threading.current_thread():
                    return  # it was given up
                self._enter(task, decision, identity, row)

    def _enter(self, task: Task, decision: Decision, identity: Identity | None, row: TaskRecord | None) -> None:
        snapshot = self.snapshot
        if row is None:
            row = pending(self.session, snapshot, task, decision, identity)
            # What this run made before stays hidden until the task's own step has looked at it again.
            snapshot.hide(task.id)
        elif row is not snapshot.own_row(task.id):
            row = attrs.evolve(row, revision=FOUND_BY_BEGIN)
            snapshot.add(row)
        self.decisions[task.id], self.rows[task.id] = decision, row
        self._evaluation = None
        self._todo.popleft()

    def _decide(self, task: Task) -> tuple[Decision, Identity | None, TaskRecord | None]:
        session, snapshot = self.session, self.snapshot
        # What stands behind a barrier may depend on side effects: not even its cache function is called before.
        barred_by = (session.flow.tasks[node] for node in session.plan.node_by_id[task.id].waits_for)
        sources = (*session.overrides.sources(task), *barred_by)
        missing = [source for source in sources if _is_unsettled(session, task, source, snapshot)]
        if missing:
            names = ", ".join(source.id for source in missing)
            return Decision(False, Reason.INPUTS_OPEN, f"waits for {names}"), None, None
        arguments = resolve_arguments(task, snapshot)
        own = snapshot.own_row(task.id)
        if own is not None and own.state.has_output and own.input_hash == input_hash_of(session, task, arguments):
            return Decision(True, Reason.VALID, "made earlier in this run"), None, own
        identity = identity_of(session, task, arguments, snapshot)
        decision, found = decide(session, task, identity, snapshot)
        if decision is None:
            if self._seconds <= 0:
                return Decision(False, Reason.DECIDED_LATER), identity, None
            self._evaluation = _Evaluation(task, identity, time.monotonic())
            decision, row = decide_lazy_ahead(session, task, arguments, identity, snapshot)
            return decision, identity, row
        if found is None:
            return decision, identity, None
        return decision, identity, carried(found, snapshot, task, decision, reads_open(task, snapshot))


def _is_unsettled(session: RunSession, task: Task, source: Task, snapshot: Snapshot) -> bool:
    """Say whether a result is not there yet, or may still change: a nested stage runs within the one that reads it."""
    inside = session.plan.is_inside(source.stage.name, task.stage.name)
    nested = inside and source.id in session.selection.tasks
    return nested or snapshot.output_row(source.id) is None
