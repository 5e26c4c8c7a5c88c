"""The tasks of a stage are decided, one after the other; what is found valid is an input of the next ones."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.cache.decision import Decision, Identity, Reason, hash_inputs
from pipedag_airflow.core.auto_version import AUTO_VERSION
from pipedag_airflow.errors import AutoVersionError
from pipedag_airflow.run.decide import carried, claim, decide, identity_of, pending
from pipedag_airflow.run.failures import failure_text
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
    _settle_twins(snapshot, deciding.rows)
    return deciding.decisions, deciding.rows


def _settle_twins(snapshot: Snapshot, rows: dict[str, TaskRecord]) -> None:
    """Let what two tasks had made by one call be that of the second, if the first one is to make something else."""
    for node, row in rows.items():
        if row.twin is not None:
            rows[node] = claim(attrs.evolve(row, twin=None), snapshot)
            snapshot.add(rows[node])


@attrs.define
class _Evaluation:
    """Code of the user's is being evaluated for a task since a moment by the monotonic clock."""

    task: Task
    since: float
    #: None until the cache function has returned, and the version is known.
    identity: Identity | None = None


class _Deciding:
    """The loop through the tasks of a stage.

    A cache function, the query of a lazy task or the code behind AUTO_VERSION may take longer to evaluate than begin
    has time for, and a thread cannot be stopped. So where there are such tasks, the loop has a thread of its own: one
    for all of them, as handing each over would cost more than deciding it. If one takes too long, the thread is given
    up, and another one goes on with the next task. What fails is left to the task's own step, which fails for it.
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
        while self._seconds > 0 and any(map(_is_evaluated, self._todo)):
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
            late = f"not known after {self._seconds:g} s"
            self._enter(evaluation.task, Decision(False, Reason.DECIDED_LATER, late), evaluation.identity, None)

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

    def _input_hash(self, task: Task, arguments: dict[str, Any]) -> str:
        return hash_inputs(arguments, f"Task {task.id!r}", self.session.classes)

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
        own = _made_earlier(task, snapshot)
        if own is not None and own.input_hash == self._input_hash(task, arguments):
            return Decision(True, Reason.VALID, "made earlier in this run"), None, own
        if self._seconds <= 0 and _identity_takes_code(task):
            return Decision(False, Reason.DECIDED_LATER), None, None
        evaluation = _Evaluation(task, time.monotonic())
        if _is_evaluated(task):
            # Set once for each task: a thread that was given up changes but its own.
            self._evaluation = evaluation
        try:
            identity = identity_of(session, task, arguments, snapshot)
        except (Exception, SystemExit) as error:  # whatever the user's code raises
            return Decision(False, Reason.DECIDED_LATER, _why_unknown(task, error)), None, None
        if self._thread is not threading.current_thread():
            return Decision(False, Reason.DECIDED_LATER), identity, None
        evaluation.identity = identity
        decision, found = decide(session, task, identity, snapshot)
        if decision is None:
            if self._seconds <= 0:
                return Decision(False, Reason.DECIDED_LATER), identity, None
            decision, row = decide_lazy_ahead(session, task, arguments, identity, snapshot)
            return decision, identity, row
        if found is None:
            return decision, identity, None
        return decision, identity, carried(found, snapshot, task, decision, reads_open(task, snapshot))


def _is_evaluated(task: Task) -> bool:
    """Say whether code of the user's, or what it says, decides a task."""
    return task.unbound.lazy or _identity_takes_code(task)


def _identity_takes_code(task: Task) -> bool:
    """Say whether it takes more than a look at a call's arguments to identify it."""
    return task.unbound.cache is not None or task.unbound.version is AUTO_VERSION


def _why_unknown(task: Task, error: BaseException) -> str:
    if isinstance(error, AutoVersionError):
        source = "AUTO_VERSION"
    elif task.unbound.cache is not None:
        source = "cache function"
    else:
        source = "AUTO_VERSION" if task.unbound.version is AUTO_VERSION else "arguments"
    return f"{source}: {failure_text(error)}"


def _made_earlier(task: Task, snapshot: Snapshot) -> TaskRecord | None:
    """Return the row of a result that this run has made, unless a crash of the server has emptied its tables since."""
    own = snapshot.own_row(task.id)
    return own if own is not None and own.state.has_output and snapshot.has_rows(own) else None


def _is_unsettled(session: RunSession, task: Task, source: Task, snapshot: Snapshot) -> bool:
    """Say whether a result is not there yet, or may still change: a nested stage runs within the one that reads it."""
    inside = session.plan.is_inside(source.stage.name, task.stage.name)
    nested = inside and source.id in session.selection.tasks
    return nested or snapshot.output_row(source.id) is None
