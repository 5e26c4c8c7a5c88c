"""What every engine must do.

::

    class TestMyEngine(EngineSuite):
        @pytest.fixture
        def make_engine(self):
            return MyEngine

        @pytest.fixture
        def make_config(self, tmp_path):
            return lambda name: PipedagConfig(...).get()

Whatever the engine, a run comes out as with ``SequentialEngine``. The suite needs polars.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl
import pytest

from pipedag_airflow.backend.lock import Owner
from pipedag_airflow.engine import SequentialEngine
from pipedag_airflow.errors import RunError, StageBusyError
from pipedag_airflow.run.result import FinalTaskState
from pipedag_airflow.testing.engine_flows import (
    OwnError,
    deadly_flow,
    failing_flow,
    meeting_flow,
    process_flow,
    two_stages,
    whole_flow,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pipedag_airflow.config import ConfigContext
    from pipedag_airflow.core.flow import Flow
    from pipedag_airflow.engine import OrchestrationEngine
    from pipedag_airflow.run.result import Result

__all__ = ["EngineSuite"]

COMPLETED, VALID, FAILED, UNKNOWN = (
    FinalTaskState.COMPLETED,
    FinalTaskState.CACHE_VALID,
    FinalTaskState.FAILED,
    FinalTaskState.UNKNOWN,
)


class EngineSuite:
    """Tests of one engine."""

    parallel: ClassVar[bool] = True
    """Whether at least three tasks run at a time."""

    separate_processes: ClassVar[bool] = True
    """Whether tasks run in other processes than the run was begun in, one of which may be killed."""

    @pytest.fixture
    def make_engine(self) -> Callable[[], OrchestrationEngine]:
        """Give a callable that makes an engine. To be overridden."""
        raise NotImplementedError

    @pytest.fixture
    def make_config(self) -> Callable[[str], ConfigContext]:
        """Give a callable that makes the configuration of an instance of the given name, always the same one.

        An instance has data of its own, and ``fail_fast`` and ``strict_result_get_locking`` are off. To be overridden.
        """
        raise NotImplementedError

    @pytest.fixture
    def config(self, make_config: Callable[[str], ConfigContext]) -> ConfigContext:
        """The configuration of an empty instance."""
        return make_config("one")

    @pytest.fixture
    def run(self, make_engine: Callable[[], OrchestrationEngine], config: ConfigContext) -> Callable[..., Result]:
        """Run a flow on an engine of its own."""
        return lambda flow, *parts, **options: flow.run(
            *parts, **{"config": config, "orchestration_engine": make_engine(), **options}
        )

    # --- what comes out ---------------------------------------------------------------------------------------------

    def test_runs_come_out_as_with_the_sequential_engine(
        self, run: Callable[..., Result], make_config: Callable[[str], ConfigContext]
    ) -> None:
        """A first run, one in which all is valid, one after a change, and one of a part: states, values, tables."""
        other = make_config("other")
        runs: list[tuple[Flow, tuple[Any, ...]]] = [
            (whole_flow(), ()),
            (whole_flow(), ()),
            (whole_flow(rate=3.0), ()),
            (whole_flow(rate=3.0), ("outer.scaled",)),
        ]
        for flow, parts in runs:
            ours = run(flow, *parts)
            expected = flow.run(*parts, config=other, orchestration_engine=SequentialEngine())
            assert _told(ours) == _told(expected)
            assert _loaded(ours) == _loaded(expected)

    def test_a_run_that_has_nothing_to_do_says_so(self, run: Callable[..., Result]) -> None:
        """Every task is valid, and the values are there."""
        made, found = (run(failing_flow(), "stage:before") for _ in range(2))
        assert _states(made) == {"before.number": COMPLETED}
        assert _states(found) == {"before.number": VALID}
        assert _values(made) == _values(found) == {"before.number": 1}

    def test_tasks_run_side_by_side(self, run: Callable[..., Result], tmp_path: Path) -> None:
        """Those of one stage, and those of stages that do not depend on each other."""
        if not self.parallel:
            pytest.skip("the engine says that it runs one task at a time")
        assert set(_states(run(meeting_flow(tmp_path))).values()) == {COMPLETED}

    def test_tasks_run_where_the_engine_says(self, run: Callable[..., Result]) -> None:
        """In this process, or in another one."""
        [process] = _values(run(process_flow())).values()
        assert (process != os.getpid()) == self.separate_processes

    # --- failures ---------------------------------------------------------------------------------------------------

    def test_the_error_of_a_task_is_raised_as_it_is(self, run: Callable[..., Result]) -> None:
        """With its attributes, and a note that names the task."""
        with pytest.raises(OwnError) as caught:
            run(failing_flow(), fail_fast=True)
        assert caught.value.code == 7
        assert type(caught.value) is OwnError
        assert any("'broken.fails'" in note for note in caught.value.__notes__)

    def test_an_error_that_cannot_be_pickled_is_told(self, run: Callable[..., Result]) -> None:
        """Its text is never lost."""
        error = run(failing_flow(stubborn=True)).exception
        assert "it was me" in str(error)

    def test_what_does_not_depend_on_a_failure_goes_on(self, run: Callable[..., Result], config: ConfigContext) -> None:
        """And no stage is published in which a task failed, or was not run."""
        result = run(failing_flow())
        assert _states(result) == {
            "before.number": COMPLETED,
            "broken.fails": FAILED,
            "broken.number": COMPLETED,
            "broken.number__2": UNKNOWN,
            "behind.number": UNKNOWN,
            "behind.number__2": COMPLETED,
            "beside.number": COMPLETED,
        }
        assert not result.successful
        assert isinstance(result.exception, OwnError)
        assert _published(config) == {"before", "beside"}
        assert config.lock_manager.leases() == []

    def test_a_stage_with_a_failure_is_not_published_by_a_run_that_fails_fast(
        self, run: Callable[..., Result], config: ConfigContext
    ) -> None:
        """Nor is one that depends on it."""
        with pytest.raises(OwnError):
            run(failing_flow(), fail_fast=True)
        assert _published(config) <= {"before", "beside"}
        assert config.lock_manager.leases() == []

    def test_a_process_that_is_killed_takes_its_task_with_it(
        self, run: Callable[..., Result], tmp_path: Path, config: ConfigContext
    ) -> None:
        """The error names the task; whatever was finished is valid in the next run, which needs no help."""
        if not self.separate_processes:
            pytest.skip("the engine says that its tasks run in this process")
        result = run(deadly_flow(tmp_path))
        assert isinstance(result.exception, RunError)
        assert "'stage.dies_once'" in str(result.exception)
        expected = {"before.number": COMPLETED, "stage.number": COMPLETED, "beside.number": COMPLETED}
        assert _states(result) == {"stage.dies_once": FAILED, **expected}
        assert _published(config) == {"before", "beside"}
        again = run(deadly_flow(tmp_path))
        assert _states(again) == {"stage.dies_once": COMPLETED, **dict.fromkeys(expected, VALID)}
        assert _published(config) == {"before", "beside", "stage"}

    # --- waiting ----------------------------------------------------------------------------------------------------

    def test_a_stage_that_another_run_holds_is_waited_for(
        self, run: Callable[..., Result], config: ConfigContext, tmp_path: Path, waiting: list[Callable[[], Any]]
    ) -> None:
        """The run goes on when the stage is free."""
        other = Owner.of_run("other")
        config.lock_manager.acquire("first", other, seconds=60)
        waiting.append(lambda: config.lock_manager.release("first", other))
        assert set(_states(run(two_stages(tmp_path))).values()) == {COMPLETED}
        assert not waiting

    def test_a_run_that_waits_goes_on_elsewhere(
        self, run: Callable[..., Result], config: ConfigContext, tmp_path: Path, waiting: list[Callable[[], Any]]
    ) -> None:
        """A stage that is free is not kept by one that is not."""
        if not self.parallel:
            pytest.skip("the engine says that it runs one task at a time")
        other = Owner.of_run("other")
        config.lock_manager.acquire("first", other, seconds=60)
        second = tmp_path / "second"

        def release_when_the_second_has_run() -> None:
            watch = threading.Event()
            while not second.exists():
                watch.wait(0.01)
            config.lock_manager.release("first", other)

        thread = threading.Thread(target=release_when_the_second_has_run)
        waiting.append(thread.start)
        assert set(_states(run(two_stages(tmp_path))).values()) == {COMPLETED}
        thread.join()

    def test_a_run_waits_no_longer_than_it_may(
        self, run: Callable[..., Result], config: ConfigContext, tmp_path: Path
    ) -> None:
        """The error is that of the stage, and what is free is published."""
        config.lock_manager.acquire("first", Owner.of_run("other"), seconds=60)
        result = run(two_stages(tmp_path), config=config.evolve(wait_seconds=0.1))
        assert isinstance(result.exception, StageBusyError)
        assert _states(result) == {"first.number": FAILED, "second.meets": COMPLETED}
        assert _published(config) == {"second"}

    @pytest.fixture
    def waiting(self) -> Iterator[list[Callable[[], Any]]]:
        """What is called, once each, when a run has said that it waits for a stage."""
        calls: list[Callable[[], Any]] = []

        class Listener(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if record.getMessage().startswith("Waiting for stage first") and calls:
                    calls.pop()()

        listener, logger = Listener(), logging.getLogger("pipedag_airflow")
        logger.addHandler(listener)
        yield calls
        logger.removeHandler(listener)

    # --- arguments --------------------------------------------------------------------------------------------------

    def test_an_argument_that_nobody_knows_is_an_error(self, run: Callable[..., Result]) -> None:
        """It names the nearest one that is known."""
        with pytest.raises(TypeError, match=r"fail_fats.*Did you mean 'fail_fast'"):
            run(process_flow(), fail_fats=True)


def _states(result: Result) -> dict[str, FinalTaskState]:
    return {task.id: state for task, state in result.task_states.items()}


def _values(result: Result) -> dict[str, Any]:
    return {task.id: value for task, value in result.task_values.items()}


def _told(result: Result) -> dict[str, Any]:
    """Return what a run tells, so that two runs can be compared."""
    return {
        "states": _states(result),
        "values": {node: repr(value) for node, value in sorted(_values(result).items())},
        "decisions": {task.id: str(decision) for task, decision in result.decisions.items()},
        "successful": (result.successful, result.exception, result.subflow),
    }


def _loaded(result: Result) -> dict[str, Any]:
    """Return the results with their tables and blobs loaded."""

    def plain(value: Any) -> Any:
        return value.rows() if isinstance(value, pl.DataFrame) else value

    found = {task.id: result.get(task, as_type=pl.DataFrame) for task in result.task_values}
    return {node: plain(value) if not isinstance(value, list | tuple) else list(value) for node, value in found.items()}


def _published(config: ConfigContext) -> set[str]:
    """Return the names of the stages that readers see something of."""
    with config.table_store.transaction() as transaction:
        return {record.stage for record in transaction.metadata.all_stages() if record.live is not None}
