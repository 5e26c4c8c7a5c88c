"""PrefectTwoEngine on the suite of all engines, and what Prefect is told.

They need an environment of their own: see .ci/prefect.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pipedag_airflow import Flow, PrefectEngine, Stage, materialize
from pipedag_airflow.config.known_secrets import known_secrets
from pipedag_airflow.engine import PrefectTwoEngine
from pipedag_airflow.testing.engine_flows import failing_flow, whole_flow
from pipedag_airflow.testing.engine_suite import EngineSuite

pytest.importorskip("prefect", reason="Prefect needs an environment of its own: .ci/prefect")

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipedag_airflow import ConfigContext
    from pipedag_airflow.engine import OrchestrationEngine

SECRET = "correct-horse-battery"

pytestmark = pytest.mark.usefixtures("prefect_server")


class TestPrefect(EngineSuite):
    separate_processes = False

    @pytest.fixture
    def make_config(self, instances: Callable[[str], ConfigContext]) -> Callable[[str], ConfigContext]:
        return instances

    @pytest.fixture
    def make_engine(self) -> Callable[[], OrchestrationEngine]:
        from prefect.task_runners import ThreadPoolTaskRunner

        return partial(PrefectTwoEngine, {"task_runner": ThreadPoolTaskRunner(max_workers=3)})


@pytest.fixture
def config(instances: Callable[[str], ConfigContext]) -> ConfigContext:
    return instances("one")


@materialize
def tells() -> None:
    raise ValueError(f"the password is {SECRET}")


def told(state: Any) -> tuple[dict[str, tuple[str, str | None]], str]:
    """Return the task runs of a flow run, each with its state and message; and all that Prefect's log says of it."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, LogFilter, LogFilterFlowRunId

    run_id = state.state_details.flow_run_id
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])))
        logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id])))
        flow_run = client.read_flow_run(run_id)
    states = {run.name: (run.state.name, run.state.message) for run in runs}
    return states, "\n".join([log.message for log in logs] + [str(flow_run), *map(str, runs)])


def test_each_step_that_has_something_to_do_is_a_task_run(config: ConfigContext) -> None:
    flow = whole_flow()
    made = flow.run(config=config, orchestration_engine=PrefectEngine())
    assert made.underlying.is_completed()
    steps = {f"{stage}.{step}" for stage in flow.stages for step in ("begin_transaction", "commit_transaction")}
    assert set(told(made.underlying)[0]) == steps | set(flow.tasks)
    found = whole_flow().run("stage:raw", config=config, orchestration_engine=PrefectEngine())
    assert set(told(found.underlying)[0]) == {"raw.begin_transaction"}


def test_the_state_of_a_run_that_failed_is_failed(config: ConfigContext) -> None:
    result = failing_flow().run(config=config, orchestration_engine=PrefectEngine())
    assert result.underlying.is_failed()
    assert "OwnError" in result.underlying.message
    states, _ = told(result.underlying)
    assert states["broken.fails"][0] == "Failed"
    assert "broken.commit_transaction" not in states


def test_prefect_is_told_no_secret(config: ConfigContext) -> None:
    known_secrets.learn([SECRET])
    with Flow("telling") as flow, Stage("stage"):
        tells()
    result = flow.run(config=config, orchestration_engine=PrefectEngine())
    states, everything = told(result.underlying)
    assert states["stage.tells"] == ("Failed", "ValueError: the password is ***")
    assert SECRET not in everything
    assert SECRET in str(result.exception)


def test_arguments_of_the_flow_go_to_prefect(config: ConfigContext) -> None:
    engine = PrefectTwoEngine({"name": "of my own", "flow_run_name": "today"})
    result = failing_flow().run("stage:before", config=config, orchestration_engine=engine)
    assert "name='today'" in told(result.underlying)[1]
    with pytest.raises(TypeError, match="flow_run_nam"):
        failing_flow().run(config=config, orchestration_engine=PrefectTwoEngine({"flow_run_nam": "x"}))
