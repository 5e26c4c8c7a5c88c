"""What begin skips, and what it says of that; what hangs on a stage is never skipped with it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DownstreamTasksSkipped
from airflow.sdk.execution_time.context import OutletEventAccessors

from pipedag_airflow import Flow, Stage, materialize
from pipedag_airflow.provider.dag import compile_dag

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.sdk import DAG


CALLS: list[str] = []


@materialize(version="1")
def one() -> int:
    CALLS.append("one")
    return 1


@materialize
def always() -> int:
    return 2


@materialize(version="1")
def after(value: int) -> int:
    return value


def skipping() -> int:
    raise AirflowSkipException("of the cache function")


@materialize(version="1", cache=skipping)
def odd() -> int:
    return 3


def dag(*, changing: bool = False, late: bool = False) -> DAG:
    with Flow("shop") as flow, Stage("raw"):
        one()
        if changing or late:
            number = always()
        if late:
            after(number)
    flow.file = None
    return compile_dag(flow, {})


class Runs:
    """Steps of runs of a DAG in this process."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {}

    def step(self, dag: DAG, node: str, run_id: str, *, cleared: int = 0) -> Any:
        """Execute a step, which has been cleared so often; return what it skips, else its result."""
        instance = SimpleNamespace(
            dag_id="shop",
            run_id=run_id,
            task_id=node,
            max_tries=(dag.get_task(node).retries or 0) + cleared,
            try_number=1,
            xcom_push=self.told.__setitem__,
            xcom_pull=lambda *, task_ids, key: self.told.get(key) if task_ids == "raw.begin_transaction" else None,
            get_dagrun_state=lambda *_: "success",
            get_task_states=lambda *_, **__: {},
        )
        context = {"ti": instance, "params": dag.params.dump(), "outlet_events": OutletEventAccessors()}
        try:
            return dag.get_task(node).execute(context)
        except DownstreamTasksSkipped as skipped:
            return list(skipped.tasks)
        except AirflowSkipException:
            return "skipped"

    def whole(self, dag: DAG, run_id: str) -> Any:
        """Run the stage; return what its commit tells."""
        skipped = self.step(dag, "raw.begin_transaction", run_id) or []
        nodes = [task.task_id for task in dag.tasks if task.task_id not in ("raw.begin_transaction", *skipped)]
        return [self.step(dag, node, run_id) for node in nodes][-1]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runs:
    monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
    monkeypatch.setenv("PIPEDAG_HOME", str(tmp_path))
    return Runs()


def test_begin_and_commit_sum_up_what_was_executed_and_what_was_valid(
    runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    runs.whole(dag(), "first")
    caplog.set_level("INFO")
    told = runs.whole(dag(changing=True), "second")
    assert runs.told["decisions"]["tasks"] == {"raw.one": "valid", "raw.always": "runs (no_version)"}
    assert (told["executed"], told["valid"]) == (["raw.always"], ["raw.one"])
    for line in ("raw.one: valid", "Stage raw: executed: raw.always", "Stage raw: valid: raw.one"):
        assert line in caplog.messages


def test_the_commit_of_a_fully_valid_stage_is_skipped_unless_operators_of_the_users_own_wait_for_it(
    runs: Runs,
) -> None:
    runs.whole(dag(), "first")
    assert runs.step(dag(), "raw.begin_transaction", "second") == ["raw.one", "raw.commit_transaction"]
    awaited = dag()
    awaited.get_task("raw.commit_transaction") >> EmptyOperator(task_id="mail", dag=awaited)
    assert runs.step(awaited, "raw.begin_transaction", "third") == ["raw.one"]
    told = runs.step(awaited, "raw.commit_transaction", "third")
    assert (told["changed"], told["removed"]) == ([], [])


def test_a_valid_task_is_not_skipped_if_operators_of_the_users_own_wait_for_it(runs: Runs) -> None:
    awaited = dag()
    awaited.get_task("raw.one") >> EmptyOperator(task_id="mail", dag=awaited)
    runs.whole(awaited, "first")
    calls = len(CALLS)
    assert runs.step(awaited, "raw.begin_transaction", "second") == ["raw.commit_transaction"]
    assert "published_by" in runs.step(awaited, "raw.one", "second")
    assert len(CALLS) == calls
    # Whoever clears it by itself wants it made anew, as with any other.
    runs.step(awaited, "raw.one", "second", cleared=1)
    assert len(CALLS) == calls + 1


def test_a_task_that_turns_out_to_be_valid_is_not_skipped_either_if_operators_of_the_users_own_wait_for_it(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.whole(dag(late=True), "first")
    awaited = dag(late=True)
    assert runs.step(awaited, "raw.begin_transaction", "second") == ["raw.one"]
    runs.step(awaited, "raw.always", "second")
    assert runs.step(awaited, "raw.after", "second") == "skipped"
    awaited.get_task("raw.after") >> EmptyOperator(task_id="mail", dag=awaited)
    assert runs.step(awaited, "raw.begin_transaction", "third") == ["raw.one"]
    runs.step(awaited, "raw.always", "third")
    assert runs.step(awaited, "raw.after", "third")["reason"] == "valid"


def test_a_cache_function_cannot_skip_the_begin_of_its_stage(runs: Runs) -> None:
    with Flow("shop") as flow, Stage("raw"):
        one()
        odd()
    flow.file = None
    broken = compile_dag(flow, {})
    assert runs.step(broken, "raw.begin_transaction", "first") is None
    told = runs.told["decisions"]["tasks"]["raw.odd"]
    assert told == "runs (decided_later): cache function: AirflowSkipException: of the cache function"
    runs.step(broken, "raw.one", "first")
    assert runs.step(broken, "raw.odd", "first") == "skipped", "its own signal is its own"
    with pytest.raises(AirflowFailException, match=r"task 'raw\.odd' is failed"):
        runs.step(broken, "raw.commit_transaction", "first")
