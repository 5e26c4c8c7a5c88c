"""Waiting for a stage that another run holds: the trigger looks, and the operator knows when the other run is over."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import socket
import time
from contextlib import ExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.api.datamodels._generated import DagRunState
from airflow.sdk.exceptions import AirflowFailException, AirflowRuntimeError, ErrorType, TaskDeferred
from airflow.sdk.execution_time.comms import ErrorResponse
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

from pipedag_airflow import Flow, PipedagConfig, Stage, materialize
from pipedag_airflow.backend.lock import FileLockManager, Lease, LockManager, Owner, ZooKeeperLockManager
from pipedag_airflow.config.embedded import embedded_default
from pipedag_airflow.errors import FlowChangedError, LockError, StaleRunError, StoreError
from pipedag_airflow.provider import triggers
from pipedag_airflow.provider.dag import compile_dag
from pipedag_airflow.provider.dag_runs import ReleaseStages, airflow_id, run_is_over
from pipedag_airflow.provider.triggers import StageFreeTrigger
from pipedag_airflow.testing.zookeeper import Ensemble

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

HOLDER = Owner.of_run("airflow:dag/run_1")
OTHER = Owner.of_run("airflow:dag/run_2")
#: What the form of a run asks for if nobody changes it.
EVERYTHING = {
    "instance": "__any__",
    "dry_run": False,
    "fail_fast": False,
    "select": [],
    "exclude": [],
    "cache_validation_mode": "as configured",
    "ignore_cache_function": False,
    "ignore_task_version": False,
}


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileLockManager:
    """The lock manager of the configuration that is found for the flow, with its stage held."""
    monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
    monkeypatch.setenv("PIPEDAG_HOME", str(tmp_path))
    manager = FileLockManager(tmp_path / "locks" / "pipeline")
    manager.acquire("stage", HOLDER, seconds=60)
    return manager


SINCE = 1_700_000_000.0
#: The event of a trigger that has nothing else to say.
FREE = {"stage": "stage", "since": SINCE, "trouble": None}


#: What a run whose flow has no pipedag.yaml says of its locks.
EMBEDDED: dict[str, Any] = {"source": "embedded default", "instance_id": "pipeline", "token": 1}


def trigger(**arguments: Any) -> StageFreeTrigger:
    known = {"flow": "flow", "folder": None, "instance": None, "stage": "stage", "run_id": OTHER.run_id, "since": SINCE}
    return StageFreeTrigger(**known | EMBEDDED | {"after": 0.0, "poll": 0.01} | arguments)


async def first_event(waiting: StageFreeTrigger) -> dict[str, Any]:
    return (await anext(aiter(waiting.run()))).payload


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 30))


async def _fires_after(*changes: Callable[[], object]) -> list[bool]:
    """Make changes, each after a few looks of the trigger; return whether it waited till then."""
    looks = []
    waiting = trigger()
    look = waiting._may_begin

    def counted(locks: LockManager) -> bool:
        looks.append(1)
        return look(locks)

    waiting._may_begin = counted  # type: ignore[method-assign]
    task = asyncio.ensure_future(first_event(waiting))
    waited = []
    for change in changes:
        looks.clear()
        while len(looks) < 3 and not task.done():
            await asyncio.sleep(0)
        waited.append(not task.done())
        change()
    assert await task == FREE
    return waited


@pytest.fixture(autouse=True)
def airflow_says(monkeypatch: pytest.MonkeyPatch) -> dict[str, DagRunState]:
    """The state of each DAG run, as the triggerer gets it."""
    states = {"run_1": DagRunState.RUNNING, "run_2": DagRunState.RUNNING, "run_3": DagRunState.RUNNING}
    monkeypatch.setattr(RuntimeTaskInstance, "get_dagrun_state", lambda dag_id, run_id: states[run_id])
    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", lambda dag_id, run_ids: {})
    monkeypatch.setattr(triggers, "_ASK_SECONDS", 0)
    return states


def test_a_trigger_is_made_again_from_what_it_says_of_itself() -> None:
    path, arguments = StageFreeTrigger(
        "flow",
        "/dags",
        "prod",
        "stage",
        "airflow:a/b",
        7.0,
        ("outer",),
        source="file",
        instance_id="id",
        token=3,
        parts=("shop",),
        nested={"shop": ["inner"]},
        after=7.0,
    ).serialize()
    assert path == "pipedag_airflow.provider.triggers.StageFreeTrigger"
    assert StageFreeTrigger(**arguments).serialize() == (path, arguments)
    assert arguments == {
        "flow": "flow",
        "folder": "/dags",
        "instance": "prod",
        "stage": "stage",
        "run_id": "airflow:a/b",
        "since": 7.0,
        "keeps": ["outer"],
        "source": "file",
        "instance_id": "id",
        "token": 3,
        "parts": ["shop"],
        "nested": {"shop": ["inner"]},
        "after": 7.0,
        "poll": 1.0,
    }


def test_it_keeps_its_place_but_does_not_fire_before_airflow_has_heard_of_the_end_of_the_process_that_deferred(
    locks: FileLockManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    places: list[tuple[float, list[str]]] = []
    yield_once = asyncio.sleep

    async def sleep(seconds: float) -> None:
        places.append((clock[0], locks.waits_for(OTHER.run_id)))
        clock[0] += seconds
        await yield_once(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(triggers, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    locks.release("stage", HOLDER)
    assert run(first_event(trigger(after=3.0, poll=1.0))) == FREE
    assert places == [(100.0 + second, ["stage"]) for second in range(3)]


def test_it_waits_until_the_stage_is_released(locks: FileLockManager) -> None:
    assert run(_fires_after(lambda: locks.release("stage", HOLDER))) == [True]


def test_it_goes_on_waiting_when_the_next_step_of_the_holder_runs_on_another_host(locks: FileLockManager) -> None:
    elsewhere = Owner(HOLDER.run_id, "another host")
    changes = (lambda: locks.acquire("stage", elsewhere, seconds=60), lambda: locks.release("stage", elsewhere))
    assert run(_fires_after(*changes)) == [True, True]


def test_it_fires_when_airflow_says_that_the_run_of_the_holder_is_over(
    locks: FileLockManager, airflow_says: dict[str, DagRunState]
) -> None:
    assert run(_fires_after(lambda: airflow_says.update(run_1=DagRunState.FAILED))) == [True]
    assert locks.holder("stage").owner == HOLDER


def test_it_waits_for_those_who_came_before(locks: FileLockManager) -> None:
    first = Owner.of_run("airflow:dag/run_3")
    locks.wait("stage", first, since=SINCE - 1)
    changes = (lambda: locks.release("stage", HOLDER), lambda: locks.withdraw("stage", first))
    assert run(_fires_after(*changes)) == [True, True]


def test_it_keeps_the_place_of_its_run_and_takes_it_back_after_the_triggerer_has_died(locks: FileLockManager) -> None:
    later = Owner.of_run("airflow:dag/run_3")
    assert locks.wait("stage", later).first

    def change() -> None:
        assert not locks.wait("stage", later).first
        locks.release("stage", HOLDER)

    assert run(_fires_after(change)) == [True]


def test_it_fires_when_its_run_is_to_give_up_in_a_circle(locks: FileLockManager) -> None:
    locks.acquire("outer", OTHER, seconds=60)
    waiting = trigger(keeps=("outer",))
    assert not waiting._may_begin(locks)
    locks.wait("outer", HOLDER, since=SINCE + 1, keeps=("stage",))
    assert not waiting._may_begin(locks)  # the other one came later
    locks.wait("outer", HOLDER, since=SINCE - 1)
    assert waiting._may_begin(locks)


FAILED = {"outer.commit_transaction": "upstream_failed", "stage.begin_transaction": "deferred"}
LEFT = {"outer.commit_transaction": None, "outer.task": "failed", "stage.begin_transaction": "deferred"}


def tasks_are(monkeypatch: pytest.MonkeyPatch, states: dict[str, str | None]) -> None:
    """Let Airflow tell these states of the tasks of the run that waits."""
    asked = {"dag_id": "dag", "run_ids": ["run_2"]}

    def get_task_states(dag_id: str, run_ids: list[str]) -> dict[str, Any]:
        assert {"dag_id": dag_id, "run_ids": run_ids} == asked
        return {"run_2": states}

    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", get_task_states)


def test_it_sees_a_circle_through_a_stage_in_which_something_has_failed_meanwhile(
    locks: FileLockManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks.acquire("outer", OTHER, seconds=60)
    locks.wait("outer", HOLDER, since=SINCE - 1, keeps=("stage",))
    waiting = trigger()
    for states, fires in ((LEFT, False), (FAILED, True)):
        tasks_are(monkeypatch, states)
        assert waiting._may_begin(locks) is fires


@pytest.mark.parametrize(
    "states",
    [
        {"dag": {"around": "failed"}},
        {"dag": {"part": "deferred"}, "dag.part": {"outer.commit_transaction": "upstream_failed", "part.task": None}},
    ],
    ids=["around it, as one operator", "in a DAG of its own"],
)
def test_it_sees_a_circle_through_a_stage_that_has_no_commit_in_the_dag_of_the_flow(
    locks: FileLockManager, monkeypatch: pytest.MonkeyPatch, states: dict[str, dict[str, str | None]]
) -> None:
    locks.acquire("outer", OTHER, seconds=60)
    locks.wait("outer", HOLDER, since=SINCE - 1, keeps=("stage",))
    waiting = trigger(parts=["part"], nested={"around": ["outer"]})
    assert not waiting._may_begin(locks)
    monkeypatch.setattr(
        RuntimeTaskInstance, "get_task_states", lambda dag_id, run_ids: dict.fromkeys(run_ids, states[dag_id])
    )
    assert waiting._may_begin(locks)


def test_a_trigger_leaves_no_lock_manager_behind(locks: FileLockManager, monkeypatch: pytest.MonkeyPatch) -> None:
    disposed = []
    monkeypatch.setattr(FileLockManager, "dispose", lambda manager: disposed.append(manager))
    locks.release("stage", HOLDER)
    run(first_event(trigger()))
    assert len(disposed) == 1


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how long triggers have slept; they do not in earnest."""
    slept: list[float] = []
    sleep = asyncio.sleep

    async def short(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", short)
    return slept


def test_what_it_cannot_read_is_left_to_the_step_after_a_pause(
    locks: FileLockManager, caplog: pytest.LogCaptureFixture, pauses: list[float]
) -> None:
    locks._path("stage").write_text("torn")
    event = run(first_event(trigger()))
    assert pauses == [30]
    assert "is not a lease record" in event["trouble"]
    assert event == FREE | {"trouble": event["trouble"]}
    assert event["trouble"] in f"LockError: {caplog.text}"
    with pytest.raises(LockError, match="is not a lease record"):
        begin_operator().execute_again({"ti": TaskInstance(DagRunState.RUNNING), "params": EVERYTHING}, event)
    assert f"The triggerer could not look whether stage stage is free, so this step does: {event['trouble']}" in [
        record.message for record in caplog.records if record.levelname == "WARNING"
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"folder": "/gone/flows", "source": "/gone/flows/pipedag.yaml"}, "from /gone/flows/pipedag.yaml (instance_id"),
        ({"instance_id": "another"}, "(instance_id 'another')"),
        ({"token": 2}, "after lease 2 of it, and at the locks of the triggerer"),
    ],
    ids=["a folder that the triggerer does not have", "an instance of another id", "locks of the same name elsewhere"],
)
def test_a_trigger_that_would_wait_at_other_locks_does_not_call_the_stage_free_and_says_what_to_do(
    locks: FileLockManager, caplog: pytest.LogCaptureFixture, pauses: list[float], arguments: Any, told: str
) -> None:
    locks.release("stage", HOLDER)
    waiting = trigger(**arguments)
    event = run(first_event(waiting))
    assert pauses[-1] == 30
    assert told in event["trouble"]
    assert "[pipedag] config_file" in event["trouble"]
    assert "PIPEDAG_CONFIG" in event["trouble"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert locks.waits_for(OTHER.run_id) == []


def test_the_trigger_knows_from_the_step_which_locks_it_is_to_wait_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pipedag.yaml"
    monkeypatch.setenv("PIPEDAG_CONFIG", str(file))
    document = embedded_default(tmp_path).data
    document["instances"]["__any__"]["instance_id"] = "shop"
    file.write_text(json.dumps(document))
    with PipedagConfig(file).get().create_lock_manager() as locks:
        for _ in range(3):
            locks.acquire("stage", HOLDER, seconds=60)
            locks.release("stage", HOLDER)
        locks.acquire("stage", HOLDER, seconds=60)
    with pytest.raises(TaskDeferred) as deferred:
        begin_operator().execute({"ti": TaskInstance(DagRunState.RUNNING), "params": EVERYTHING})
    waiting = deferred.value.trigger
    assert (waiting.source, waiting.instance_id, waiting.token) == (str(file), "shop", 4)


def test_many_triggers_share_one_connection_to_the_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ensemble(1, settings={"maxClientCnxns": 5}) as server:
        file = tmp_path / "pipedag.yaml"
        monkeypatch.setenv("PIPEDAG_CONFIG", str(file))
        document = embedded_default(tmp_path).data
        manager = "pipedag_airflow.backend.lock.ZooKeeperLockManager"
        document["instances"]["__any__"]["lock_manager"] = {"class": manager, "args": {"hosts": server.hosts}}
        file.write_text(json.dumps(document))
        with PipedagConfig(file).get().create_lock_manager() as locks:
            locks.acquire("stage", HOLDER, seconds=60)
            runs = [f"airflow:dag/run_{number}" for number in range(10, 20)]
            waiting = [trigger(run_id=run_id, source=str(file)) for run_id in runs]

            async def crowd() -> None:
                events = [asyncio.ensure_future(first_event(each)) for each in waiting]
                while not all(run_id in queue(locks) for run_id in runs):
                    await asyncio.sleep(0.01)
                assert not any(event.done() for event in events)
                locks.release("stage", HOLDER)
                for run_id in queue(locks):
                    assert await events[runs.index(run_id)] == FREE
                    locks.withdraw("stage", Owner.of_run(run_id))

            run(crowd())


def queue(locks: LockManager) -> list[str]:
    """The runs that wait for the stage, in their order."""
    assert isinstance(locks, ZooKeeperLockManager)
    return [ticket.owner.run_id for ticket in locks._read("stage").tickets]


# --- the operator ------------------------------------------------------------------------------------------------


class TaskInstance(SimpleNamespace):
    """What the operators ask of Airflow's task instance."""

    def __init__(self, state: Any, *, try_number: int = 1, max_tries: int = 2) -> None:
        super().__init__(dag_id="dag", run_id="run_2", task_id="stage.begin_transaction", pushed={})
        self.try_number, self.max_tries = try_number, max_tries
        self.state = state

    def get_dagrun_state(self, dag_id: str, run_id: str) -> Any:
        assert (dag_id, run_id) == ("dag", "run_1")
        if isinstance(self.state, Exception):
            raise self.state
        return self.state

    def get_task_states(self, *_: Any, **__: Any) -> dict[str, dict[str, Any]]:
        return {}

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
    assert run_is_over(lease(), TaskInstance(state), time.time) is over


def answer(status: int) -> AirflowRuntimeError:
    """What a task gets from Airflow's API in place of a state."""
    return AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": status}))


@pytest.mark.parametrize(
    ("began_here", "heard", "over"),
    [(True, 50, False), (True, 70, True), (False, 70, False), (False, 3590, False), (False, 3610, True)],
)
def test_of_a_run_that_airflow_does_not_know_the_clock_decides_and_much_later_if_it_began_in_another_airflow(
    began_here: bool, heard: float, over: bool
) -> None:
    owner = Owner.of_run(HOLDER.run_id, airflow_id() if began_here else "https://another.airflow.example")
    held = Lease("stage", owner, 1, since=0, heartbeat=1000, expires=1060)
    assert run_is_over(held, TaskInstance(answer(404)), lambda: 1000 + heard) is over


@pytest.mark.parametrize(
    ("base_url", "known_as"),
    [
        ("https://airflow.example/", "https://airflow.example"),
        ("", f"{socket.gethostname()}:8080"),
        ("http://localhost:8080", f"{socket.gethostname()}:8080"),
    ],
)
def test_an_airflow_is_known_by_its_address_if_that_is_one_for_others(
    monkeypatch: pytest.MonkeyPatch, base_url: str, known_as: str
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base_url)
    monkeypatch.setenv("AIRFLOW__API__PORT", "8080")
    assert airflow_id() == known_as


def test_a_step_says_in_which_airflow_its_run_began(locks: FileLockManager) -> None:
    locks.release("stage", HOLDER)
    begin_operator().execute({"ti": TaskInstance(DagRunState.RUNNING), "params": EVERYTHING})
    held = locks.holder("stage")
    assert held is not None
    assert held.owner.pid_space == airflow_id()


@pytest.mark.parametrize("trouble", [answer(503), ConnectionError("refused"), RuntimeError("404")])
def test_a_run_is_waited_for_when_airflow_cannot_be_asked(trouble: Exception) -> None:
    assert run_is_over(lease(expires=-1), TaskInstance(trouble), time.time) is False


def test_airflow_is_not_asked_about_runs_of_others() -> None:
    assert run_is_over(lease("local:1", expires=-1), TaskInstance(DagRunState.FAILED), time.time) is False


def begin_operator(**dag_args: Any) -> Any:
    @materialize(version="1")
    def task() -> int:
        return 1

    with Flow("flow") as flow, Stage("stage"):
        task()
    flow.file = None
    return compile_dag(flow, dag_args).get_task("stage.begin_transaction")


def begin_of(stage: str, *, nested: bool = True) -> Any:
    """The begin of one of two stages: "stage" is nested in "outer", or beside it."""

    @materialize(version="1")
    def task() -> int:
        return 1

    with Flow("flow") as flow, ExitStack() as around:
        with ExitStack() as outer:
            outer.enter_context(Stage("outer"))
            task()
            if nested:
                around.push(outer.pop_all())
        with Stage("stage"):
            task()
    flow.file = None
    return compile_dag(flow, {}).get_task(f"{stage}.begin_transaction")


def test_begin_defers_while_another_run_holds_the_stage(locks: FileLockManager) -> None:
    operator = begin_operator()
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute({"ti": TaskInstance(DagRunState.RUNNING), "params": EVERYTHING})
    assert isinstance(deferred.value.trigger, StageFreeTrigger)
    _, arguments = deferred.value.trigger.serialize()
    assert (arguments["stage"], arguments["run_id"]) == ("stage", OTHER.run_id)
    assert callable(getattr(operator, deferred.value.method_name))
    assert locks.holder("stage").owner == HOLDER


@pytest.mark.parametrize("holder_came_first", [False, True])
def test_begin_of_a_nested_stage_ends_a_circle_if_its_run_came_last(
    locks: FileLockManager, holder_came_first: bool
) -> None:
    context = {"ti": TaskInstance(DagRunState.RUNNING), "params": EVERYTHING}
    begin_of("outer").execute(context)
    locks.wait("outer", HOLDER, since=SINCE if holder_came_first else None, keeps=("stage",))
    if holder_came_first:
        with pytest.raises(AirflowFailException, match=r"DeadlockError: .* can never have stage 'stage'"):
            begin_of("stage").execute(context)
        assert locks.waits_for(OTHER.run_id) == []
        return
    with pytest.raises(TaskDeferred) as deferred:
        begin_of("stage").execute_again(context, FREE)
    assert deferred.value.trigger.keeps == ["outer"]
    assert deferred.value.trigger.nested == {"outer": ["stage"]}


@pytest.mark.parametrize(("states", "gives_up"), [(LEFT, False), (FAILED, True)])
def test_begin_ends_a_circle_through_a_stage_in_which_something_has_failed(
    locks: FileLockManager, monkeypatch: pytest.MonkeyPatch, states: dict[str, str | None], gives_up: bool
) -> None:
    context = {"ti": TaskInstance(DagRunState.RUNNING), "params": EVERYTHING}
    begin_of("outer", nested=False).execute(context)
    locks.wait("outer", HOLDER, since=SINCE, keeps=("stage",))
    tasks_are(monkeypatch, states)
    with pytest.raises(AirflowFailException if gives_up else TaskDeferred) as raised:
        begin_of("stage", nested=False).execute(context)
    assert ("DeadlockError" in str(raised.value)) is gives_up


@pytest.mark.parametrize("state", [DagRunState.FAILED, DagRunState.SUCCESS])
def test_begin_takes_over_from_a_run_that_is_over(locks: FileLockManager, state: DagRunState) -> None:
    instance = TaskInstance(state)
    begin_operator().execute_again({"ti": instance, "params": EVERYTHING}, FREE)
    assert locks.holder("stage").owner.run_id == OTHER.run_id
    assert instance.pushed["decisions"] == {
        "generation": 1,
        "unchanged": False,
        "tasks": {"stage.task": "runs (first_run)"},
    }


# --- the end of a run -----------------------------------------------------------------------------------------------


class Over(SimpleNamespace):
    """What Airflow knows of the tasks of a run that has failed."""

    def get_task_states(self, dag_id: str, run_ids: list[str]) -> dict[str, dict[str, Any]]:
        assert (dag_id, run_ids) == ("dag", ["run_1"])
        return {"run_1": self.states}


@pytest.mark.parametrize(
    ("states", "released"),
    [
        ({"stage.begin_transaction": "success", "stage.task": "failed", "stage.commit": "upstream_failed"}, True),
        ({"stage.task": None}, False),
        ({"stage.task": "running", "other.task": "failed"}, False),
    ],
)
def test_a_run_that_has_failed_gives_back_its_stages_unless_tasks_were_cleared(
    locks: FileLockManager, states: dict[str, Any], released: bool
) -> None:
    (callback,) = begin_operator().dag.on_failure_callback
    dag = SimpleNamespace(dag_id="dag")
    callback({"dag": dag, "run_id": "run_1", "ti": Over(states=states), "params": EVERYTHING})
    assert (locks.holder("stage") is None) is released


def test_callbacks_of_the_user_come_after_ours() -> None:
    with Flow("flow") as flow, Stage("stage"):
        pass
    flow.file = None
    for given in (print, [print], (print,)):
        release, *users = compile_dag(flow, {"on_failure_callback": given}).on_failure_callback
        assert isinstance(release, ReleaseStages)
        assert users == [print]


# --- retries --------------------------------------------------------------------------------------------------------


def failing(operator: Any, error: Exception) -> Any:
    def step(*_: object) -> None:
        raise error

    operator.step = step
    return operator


@pytest.mark.parametrize(
    ("error", "try_number", "is_final"),
    [
        (StoreError("the database cannot be reached"), 1, False),
        (StoreError("the database cannot be reached"), 3, False),  # Airflow counts
        (LockError("the file cannot be locked"), 1, False),
        (StaleRunError("another run has it"), 1, True),
        (FlowChangedError("deployed meanwhile"), 1, True),
        (ZeroDivisionError("the user's"), 1, True),
    ],
)
def test_begin_and_commit_try_again_what_another_try_may_mend_and_nothing_of_the_users(
    locks: FileLockManager, error: Exception, try_number: int, is_final: bool
) -> None:
    operator = failing(begin_operator(), error)
    assert (operator.retries, operator.retry_delay.total_seconds()) == (2, 5)
    context = {"ti": TaskInstance(None, try_number=try_number), "params": EVERYTHING}
    with pytest.raises(AirflowFailException if is_final else type(error), match=str(error)):
        operator.execute(context)


@pytest.mark.parametrize(
    ("try_number", "max_tries", "is_final"), [(1, 2, False), (2, 2, True), (4, 5, False), (5, 5, True)]
)
def test_what_is_the_users_is_tried_as_often_as_the_user_says_also_after_a_clear(
    locks: FileLockManager, try_number: int, max_tries: int, is_final: bool
) -> None:
    operator = failing(begin_operator(default_args={"retries": 1}), ZeroDivisionError("the user's"))
    assert (operator.retries, operator.users_retries) == (2, 1)
    context = {"ti": TaskInstance(None, try_number=try_number, max_tries=max_tries), "params": EVERYTHING}
    with pytest.raises(AirflowFailException if is_final else ZeroDivisionError):
        operator.execute(context)


def test_retries_of_the_users_that_are_more_stay_and_tasks_of_the_users_have_no_others(locks: FileLockManager) -> None:
    many = {"retries": 7, "retry_delay": dt.timedelta(minutes=9)}
    operator = begin_operator(default_args=many)
    assert (operator.retries, operator.retry_delay) == (7, many["retry_delay"])
    assert begin_operator().dag.get_task("stage.task").retries == 0


# --- giving up ------------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(locks: FileLockManager, monkeypatch: pytest.MonkeyPatch) -> None:
    find = PipedagConfig.find
    monkeypatch.setattr(PipedagConfig, "find", lambda folder: Impatient(find(folder)))


class Impatient:
    """A configuration file with `wait_seconds`."""

    def __init__(self, config: PipedagConfig) -> None:
        self._config = config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)

    def get(self, **given: Any) -> Any:
        return self._config.get(**given).evolve(wait_seconds=3600)


@pytest.mark.usefixtures("impatient")
def test_the_trigger_wakes_a_run_that_has_waited_for_long_enough(locks: FileLockManager) -> None:
    assert run(first_event(trigger())) == FREE
    assert locks.holder("stage").owner == HOLDER


@pytest.mark.usefixtures("impatient")
def test_a_step_that_has_waited_for_long_enough_fails_for_good_and_names_the_holder(locks: FileLockManager) -> None:
    context = {"ti": TaskInstance(DagRunState.RUNNING), "params": EVERYTHING}
    with pytest.raises(AirflowFailException, match=r"Given up after \d+ s.*held by run airflow:dag/run_1"):
        begin_operator().execute_again(context, FREE)
