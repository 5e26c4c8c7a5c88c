"""A DAG for each stage: which DAGs there are, what is in them, and who runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from test_dag_structure import call, edges
from test_granularity import three_stages

from pipedag_airflow import Flow, GroupNode, Stage
from pipedag_airflow.errors import ConfigError
from pipedag_airflow.provider.dag import compile_dags
from pipedag_airflow.provider.form import RUN_OF

SPLIT = {"split": "stage"}
_A = {"[a > a.x", "a.x > a]"}
_B = {"[b > b.y", "b.y > [inner", "[inner > inner.z", "inner.z > inner]", "inner] > b.w", "b.w > b]"}
_C = {"[c > c.v", "c.v > c]"}


def dags_of(flow: Flow, **dag_args: Any) -> dict[str, Any]:
    flow.file = None
    return {dag.dag_id: dag for dag in compile_dags(flow, dag_args)}


@pytest.mark.parametrize(
    ("airflow", "expected"),
    [
        ({}, {"flow": {"a > b", "b > c"}, "flow.a": _A, "flow.b": _B, "flow.c": _C}),
        ({"a": {"granularity": "stage"}}, {"flow": {"a > b", "b > c"}, "flow.b": _B, "flow.c": _C}),
        (
            {"inner": {"granularity": "stage"}},
            {
                "flow": {"a > b", "b > c"},
                "flow.a": _A,
                "flow.b": {"[b > b.y", "b.y > inner", "inner > b.w", "b.w > b]"},
                "flow.c": _C,
            },
        ),
    ],
    ids=["all", "one that is one operator", "one nested that is one operator"],
)
def test_each_stage_has_a_dag_with_all_that_is_nested_in_it(airflow: dict[str, Any], expected: dict[str, Any]) -> None:
    dags = dags_of(three_stages(flow=SPLIT, **airflow))
    assert {name: edges(dag) for name, dag in dags.items()} == expected


def test_groups_are_in_the_dags_of_the_stages_that_they_are_in() -> None:
    with Flow("flow", airflow=SPLIT) as flow:
        with GroupNode("around"), Stage("a"), GroupNode("within"):
            x = call("x")
        with Stage("b"):
            call("y", x)
    dags = dags_of(flow)
    assert {name: groups_of(dag) for name, dag in dags.items()} == {
        "flow": {"around"},
        "flow.a": {"a", "within"},
        "flow.b": {"b"},
    }


def groups_of(dag: Any) -> set[str]:
    return {group.group_display_name or group.group_id for group in dag.task_group_dict.values()} - {None}


def test_what_is_said_of_the_flow_holds_once_in_its_own_dag() -> None:
    said = {"schedule": "@daily", "description": "A shop", "tags": ["sales"], "retries": 3, "owner": "sales"}
    dags = dags_of(three_stages(flow=SPLIT | said), on_success_callback=print)
    whole, part = dags["flow"], dags["flow.b"]
    assert (whole.schedule, part.schedule) == ("@daily", None)
    assert (whole.description, part.description) == ("A shop", None)
    assert (whole.is_paused_upon_creation, part.is_paused_upon_creation) == (None, False)
    assert (whole.on_success_callback, part.on_success_callback) == (print, None)
    assert whole.tags == part.tags == {"pipedag", "sales"}
    assert (part.get_task("b.y").retries, part.get_task("b.y").owner) == (3, "sales")
    assert RUN_OF not in whole.params
    assert part.params.dump() == whole.params.dump() | {RUN_OF: None}


@pytest.mark.parametrize(
    ("airflow", "message"),
    [
        ({"split": "task"}, "airflow.split of flow 'flow' is 'task', but can only be 'stage'"),
        (SPLIT | {"granularity": "flow"}, "both split: stage, a DAG for each stage, and granularity: flow"),
    ],
)
def test_what_contradicts_itself_or_does_not_exist_is_an_error(airflow: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dags_of(three_stages(flow=airflow))


def test_the_name_of_our_parameter_is_taken() -> None:
    with pytest.raises(ConfigError, match=f"a parameter '{RUN_OF}' of its own"):
        dags_of(three_stages(flow=SPLIT), params={RUN_OF: 1})


def test_a_module_registers_all_its_dags_and_to_dag_takes_the_place_of_all(dags: Any) -> None:
    text = """
from pipedag_airflow import Flow, Stage, materialize

@materialize(version="1")
def one():
    return 1

with Flow("shop", airflow={"split": "stage"}) as flow:
    with Stage("raw"):
        one()
"""
    dags.write(shop=text)
    assert sorted(dags.parse("shop.py").dags) == ["shop", "shop.raw"]
    dags.write(shop=text + 'dag = flow.to_dag(dag_id="store")\n')
    assert sorted(dags.parse("shop.py").dags) == ["store", "store.raw"]


class Instance(SimpleNamespace):
    """A task instance in the DAG of a stage, as far as a session asks it; the flow's run is in the given state."""

    def __init__(self, state: str) -> None:
        super().__init__(dag_id="flow.b", run_id="own", task_id="b.begin_transaction", state=state, asked=[])

    def get_dagrun_state(self, dag_id: str, run_id: str) -> str:
        self.asked.append((dag_id, run_id))
        return str(self.state)


@pytest.fixture
def begin_of_b(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PIPEDAG_HOME", str(tmp_path))
    return dags_of(three_stages(flow=SPLIT))["flow.b"].get_task("b.begin_transaction")


def session_of(operator: Any, instance: Instance, **conf: Any) -> Any:
    from pipedag_airflow.provider.form import RunOptions

    params = operator.dag.params.dump() | conf
    return operator.session({"ti": instance, "params": params}, RunOptions.of(params))


def test_the_run_of_a_stage_is_the_run_of_the_flow(begin_of_b: Any) -> None:
    session = session_of(begin_of_b, Instance("running"), **{RUN_OF: "whole"}, select=["stage:b", "stage:c"])
    assert session.run_id == "airflow:flow/whole"
    assert session.selection.stages == {"b", "inner", "c"}


def test_the_dag_of_a_stage_that_is_run_by_itself_is_of_that_stage_alone(begin_of_b: Any) -> None:
    session = session_of(begin_of_b, Instance("running"))
    assert session.run_id == "airflow:flow.b/own"
    assert session.selection.stages == {"b", "inner"}


def test_nothing_is_begun_for_a_run_of_the_flow_that_has_failed(begin_of_b: Any) -> None:
    instance = Instance("failed")
    with pytest.raises(AirflowFailException, match=r"run whole of the DAG flow, .* has failed. Clear b there"):
        session_of(begin_of_b, instance, **{RUN_OF: "whole"})
    assert instance.asked == [("flow", "whole")]


def test_the_operator_of_a_stage_takes_the_colour_of_its_run() -> None:
    operator = dags_of(three_stages(flow=SPLIT))["flow"].get_task("b")
    context: Any = {"ti": SimpleNamespace(dag_id="flow", run_id="whole")}
    operator.execute_complete(context, ("trigger", {"whole": "success"}))
    with pytest.raises(AirflowFailException, match=r"Stage b: run whole of the DAG flow\.b is failed"):
        operator.execute_complete(context, ("trigger", {"whole": "failed"}))
