"""Waiting for a stage that another run holds: the trigger looks, and the operator knows when the other run is over."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.api.datamodels._generated import DagRunState
from airflow.sdk.exceptions import TaskDeferred

from pipedag_airflow import Flow, Stage, materialize
from pipedag_airflow.backend.lock import FileLockManager, Lease, Owner
from pipedag_airflow.provider import triggers
from pipedag_airflow.provider.dag import compile_dag
from pipedag_airflow.provider.operators import _run_is_over
from pipedag_airflow.provider.triggers import StageFreeTrigger

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

HOLDER = Owner.of_run("airflow:dag/run_1")
OTHER = Owner.of_run("airflow:dag/run_2")


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileLockManager:
    """The lock manager of the configuration that is found for the flow, with its stage held."""
    monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
    monkeypatch.setenv("PIPEDAG_HOME", str(tmp_path))
    manager = FileLockManager(tmp_path / "locks" / "pipeline")
    manager.acquire("stage", HOLDER, seconds=60)
    return manager


def trigger() -> StageFreeTrigger:
    return StageFreeTrigger(flow="flow", folder=None, instance=None, stage="stage", poll=0.01)


async def first_event(waiting: StageFreeTrigger) -> dict[str, Any]:
    return (await anext(aiter(waiting.run()))).payload


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 30))


async def _fires_after(*changes: Callable[[], object]) -> tuple[list[bool], dict[str, Any]]:
    """Make changes, each after a few looks of the trigger; return whether it waited till then, and its event."""
    looks = []
    waiting = trigger()
    look = waiting._holder

    def counted() -> Lease | None:
        looks.append(1)
        return look()

    waiting._holder = counted  # type: ignore[method-assign]
    task = asyncio.ensure_future(first_event(waiting))
    waited = []
    for change in changes:
        looks.clear()
        while len(looks) < 3 and not task.done():
            await asyncio.sleep(0)
        waited.append(not task.done())
        change()
    return waited, await task


def test_a_trigger_is_made_again_from_what_it_says_of_itself() -> None:
    path, arguments = StageFreeTrigger("flow", "/dags", "prod", "stage").serialize()
    assert path == "pipedag_airflow.provider.triggers.StageFreeTrigger"
    assert arguments == {"flow": "flow", "folder": "/dags", "instance": "prod", "stage": "stage", "poll": 1.0}
    assert StageFreeTrigger(**arguments).serialize() == (path, arguments)


def test_it_fires_at_once_when_the_stage_is_free(locks: FileLockManager) -> None:
    locks.release("stage", HOLDER)
    assert run(first_event(trigger())) == {"stage": "stage"}


def test_it_waits_until_the_stage_is_released(locks: FileLockManager) -> None:
    assert run(_fires_after(lambda: locks.release("stage", HOLDER))) == ([True], {"stage": "stage"})


def test_it_goes_on_waiting_when_the_next_step_of_the_holder_runs_on_another_host(locks: FileLockManager) -> None:
    elsewhere = Owner(HOLDER.run_id, "another host")
    changes = (lambda: locks.acquire("stage", elsewhere, seconds=60), lambda: locks.release("stage", elsewhere))
    assert run(_fires_after(*changes)) == ([True, True], {"stage": "stage"})


def test_a_look_leaves_no_lock_manager_behind(locks: FileLockManager, monkeypatch: pytest.MonkeyPatch) -> None:
    disposed = []
    monkeypatch.setattr(FileLockManager, "dispose", lambda manager: disposed.append(manager))
    locks.release("stage", HOLDER)
    run(first_event(trigger()))
    assert len(disposed) == 1


def test_it_fires_when_the_holder_is_another_one(locks: FileLockManager) -> None:
    def change() -> None:
        locks.release("stage", HOLDER)
        locks.acquire("stage", OTHER, seconds=60)

    assert run(_fires_after(change)) == ([True], {"stage": "stage"})


def test_it_lets_the_operator_look_now_and_then(locks: FileLockManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "_LOOK_SECONDS", 0.05)
    assert run(first_event(trigger())) == {"stage": "stage"}
    assert locks.holder("stage") is not None


# --- the operator ------------------------------------------------------------------------------------------------


class TaskInstance(SimpleNamespace):
    """What the operators ask of Airflow's task instance."""

    def __init__(self, state: Any) -> None:
        super().__init__(dag_id="dag", run_id="run_2", max_tries=0, task_id="stage.begin_transaction", pushed={})
        self.state = state

    def get_dagrun_state(self, dag_id: str, run_id: str) -> Any:
        assert (dag_id, run_id) == ("dag", "run_1")
        if isinstance(self.state, Exception):
            raise self.state
        return self.state

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


def lease(run_id: str = HOLDER.run_id, *, expires: float = 60) -> Lease:
    now = time.time()
    return Lease("stage", Owner.of_run(run_id), 1, now, now, now + expires)


@pytest.mark.parametrize(
    ("state", "over"),
    [
        (DagRunState.SUCCESS, True),
        (DagRunState.FAILED, True),
        (DagRunState.RUNNING, False),
        (DagRunState.QUEUED, False),
        ("failed", True),
        ("running", False),
    ],
)
def test_a_run_is_over_when_airflow_says_so(state: Any, over: bool) -> None:
    assert _run_is_over(lease(), TaskInstance(state)) is over


@pytest.mark.parametrize(("expires", "over"), [(60, False), (-1, True)])
def test_of_a_run_that_airflow_does_not_know_the_clock_decides(expires: float, over: bool) -> None:
    assert _run_is_over(lease(expires=expires), TaskInstance(RuntimeError("404"))) is over


def test_airflow_is_not_asked_about_runs_of_others() -> None:
    assert _run_is_over(lease("local:1", expires=-1), TaskInstance(DagRunState.FAILED)) is False


def begin_operator() -> Any:
    @materialize(version="1")
    def task() -> int:
        return 1

    with Flow("flow") as flow, Stage("stage"):
        task()
    flow.file = None
    return compile_dag(flow, {}).get_task("stage.begin_transaction")


def test_begin_defers_while_another_run_holds_the_stage(locks: FileLockManager) -> None:
    operator = begin_operator()
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute({"ti": TaskInstance(DagRunState.RUNNING)})
    assert isinstance(deferred.value.trigger, StageFreeTrigger)
    _, arguments = deferred.value.trigger.serialize()
    assert arguments == {"flow": "flow", "folder": None, "instance": None, "stage": "stage", "poll": 1.0}
    assert callable(getattr(operator, deferred.value.method_name))
    assert locks.holder("stage").owner == HOLDER


@pytest.mark.parametrize("state", [DagRunState.FAILED, DagRunState.SUCCESS])
def test_begin_takes_over_from_a_run_that_is_over(locks: FileLockManager, state: DagRunState) -> None:
    instance = TaskInstance(state)
    begin_operator().execute_again({"ti": instance}, {"stage": "stage"})
    assert locks.holder("stage").owner.run_id == OTHER.run_id
    assert instance.pushed["decisions"] == {
        "generation": 1,
        "unchanged": False,
        "tasks": {"stage.task": "runs (first_run)"},
    }
