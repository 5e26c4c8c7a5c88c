"""Tasks in parallel, as task runs of Prefect."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

from pipedag_airflow.engine.base import OrchestrationEngine, Outcome
from pipedag_airflow.engine.parallel import ParallelRun, Workers
from pipedag_airflow.engine.steps import StepEnd, TravellingRun, execute_step
from pipedag_airflow.errors import MissingExtraError, RunError
from pipedag_airflow.run.failures import failure_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipedag_airflow.run.session import RunSession

__all__ = ["PrefectTwoEngine"]

T = TypeVar("T")


class PrefectTwoEngine(OrchestrationEngine):
    """Hands over execution of a flow to Prefect, the current one: the name is from when that was Prefect 2.

    The run is a flow run, and each step that has something to do a task run: the begin of a stage, its tasks that are
    not valid, its commit. Tasks run in threads of this process, one per processor, or where the ``task_runner`` of the
    flow puts them. Prefect is told names, states and the texts of errors, without secrets; no argument and no result.
    ``Result.underlying`` is the final state of the flow run.

    Args:
        flow_kwargs: Keyword arguments of ``prefect.flow``, such as ``task_runner``; the name is by default the flow's.

    Raises:
        MissingExtraError: if Prefect is not installed.
    """

    def __init__(self, flow_kwargs: dict[str, Any] | None = None) -> None:
        try:
            import prefect  # noqa: F401 - is it there?
        except ImportError as error:
            raise MissingExtraError(
                "PrefectTwoEngine needs Prefect 3: pip install 'pipedag-airflow[prefect]'."
            ) from error
        self.flow_kwargs = flow_kwargs or {}

    def run(self, session: RunSession, nodes: Sequence[str]) -> Outcome:
        """Run the given nodes of the plan."""
        from prefect import flow
        from prefect.states import Completed, Failed
        from prefect.task_runners import ThreadPoolTaskRunner

        # Prefect would have as many threads as there are tasks, and a database does not.
        width = None if "task_runner" in self.flow_kwargs else os.cpu_count()
        runner = {} if width is None else {"task_runner": ThreadPoolTaskRunner(max_workers=width)}
        outcomes: list[Outcome] = []

        def steps() -> Any:
            outcome = ParallelRun(session, nodes, PrefectWorkers(session, width)).run()
            outcomes.append(outcome)
            if outcome.successful:
                return Completed()
            error = outcome.exception
            return Failed(message="Not all was run." if error is None else failure_text(error))

        state = flow(**{"name": session.flow.name, **runner, **self.flow_kwargs})(steps)(return_state=True)
        if not outcomes:
            state.result()
            raise RunError(f"Prefect has not run flow {session.flow.name!r}; the run's state is {state}.")
        outcomes[-1].underlying = state
        return outcomes[-1]


class PrefectWorkers(Workers):
    """Task runs of the present flow run.

    Args:
        session: The run.
        width: How many tasks the task runner executes at a time; None if it has a queue of its own.
    """

    def __init__(self, session: RunSession, width: int | None) -> None:
        self._run = TravellingRun(session)
        self.width = width

    def execute(self, node: str, tell: Callable[[StepEnd], None]) -> None:
        """Submit a task to the task runner of the flow run."""
        future = _task(prefect_step, node).submit(self._run, node)
        future.add_done_callback(lambda ended: tell(_end_of(node, ended)))

    def call(self, name: str, step: Callable[[], T]) -> T:
        """Begin or publish a stage as a task run in this thread."""
        from prefect.states import Completed, Failed

        results: list[T] = []
        errors: list[Exception] = []

        def called() -> Any:
            try:
                results.append(step())
            except Exception as error:
                errors.append(error)
                return Failed(message=failure_text(error))
            return Completed()

        state = _task(called, name)(return_state=True)
        if errors:
            raise errors[-1]
        if not results:
            raise RunError(f"Prefect has not run {name!r}; its state is {state}.")
        return results[-1]


def prefect_step(run: TravellingRun, node: str) -> Any:
    """Execute a task, and tell Prefect no more of an error than its text."""
    from prefect.states import Failed

    end = execute_step(run, node)
    return end if end.error is None else Failed(message=failure_text(end.error), data=end)


def _task(step: Callable[..., Any], name: str) -> Any:
    """Return a task of Prefect's that keeps nothing: results are in the store, and so is what is valid."""
    from prefect import task
    from prefect.cache_policies import NO_CACHE

    return task(name=name, task_run_name=name, persist_result=False, cache_policy=NO_CACHE)(step)


def _end_of(node: str, future: Any) -> StepEnd:
    try:
        end = future.result(raise_on_failure=False)
    except BaseException as error:  # also what a task raises to end its process: nobody would hear of it here
        end = error
    if isinstance(end, StepEnd):
        return end
    failure = RunError(
        f"Task {node!r} was not finished: Prefect could not execute it, or lost who did ({type(end).__name__}: {end}). "
        "What was finished is kept: run the flow again."
    )
    failure.__cause__ = end if isinstance(end, BaseException) else None
    return StepEnd(error=failure)
