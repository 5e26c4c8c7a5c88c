"""A DAG for each stage: which DAGs there are, what is in them, and who runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse
from airflow.utils.types import DagRunType
from test_dag_structure import call, edges
from test_granularity import three_stages

from pipedag_airflow import Flow, GroupNode, Stage
from pipedag_airflow.errors import ConfigError
from pipedag_airflow.provider.dag import compile_dags
from pipedag_airflow.provider.dag_runs import part_run_id
from pipedag_airflow.provider.form import RUN_OF
from pipedag_airflow.provider.links import page_of_run

if TYPE_CHECKING:
    from pathlib import Path

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
    limits = {"max_consecutive_failed_dag_runs": 5, "allowed_run_types": list(DagRunType)}
    dags = dags_of(three_stages(flow=SPLIT | said), on_success_callback=print, **limits)
    whole, part = dags["flow"], dags["flow.b"]
    assert (whole.schedule, part.schedule) == ("@daily", None)
    assert (whole.description, part.description) == ("A shop", None)
    assert (whole.is_paused_upon_creation, part.is_paused_upon_creation) == (None, False)
    assert (whole.on_success_callback, part.on_success_callback) == (print, None)
    assert whole.tags == part.tags == {"pipedag", "sales"}
    assert (part.get_task("b.y").retries, part.get_task("b.y").owner) == (3, "sales")
    assert (whole.max_active_runs, whole.max_consecutive_failed_dag_runs) == (1, 5)
    assert (part.max_active_runs, part.max_consecutive_failed_dag_runs) == (1_000_000, 0)
    assert (whole.allowed_run_types, part.allowed_run_types) == (frozenset(DagRunType), None)
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


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("flow", {"flow"}),
        ("flow.a", {"flow", "flow.a"}),
        ("flow.b", {"flow", "flow.b"}),
        # What a task of another flow has started, and so may want all there is.
        ("other", {"flow", "flow.a", "flow.b", "flow.c"}),
    ],
)
def test_the_process_of_a_task_makes_its_own_dag_only_beside_that_of_the_flow(
    monkeypatch: pytest.MonkeyPatch, wanted: str, expected: set[str]
) -> None:
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", wanted)
    assert set(dags_of(three_stages(flow=SPLIT))) == expected


_IMPORTS = "from pipedag_airflow import Flow, Stage, materialize\n\n"
_SPLIT = (
    _IMPORTS
    + """
@materialize(version="1")
def one():
    return 1

with Flow("shop", airflow={"split": "stage"}) as flow:
    with Stage("raw"):
        one()
"""
)
_LIKE_A_STAGE = 'with Flow("shop.raw"):\n    pass\n'


@pytest.mark.parametrize(
    "files",
    [
        {"shop": _SPLIT, "zz": _IMPORTS + _LIKE_A_STAGE},
        {"shop": _SPLIT + "dag = flow.to_dag()\n", "zz": _IMPORTS + _LIKE_A_STAGE},
        {"shop": _SPLIT + _LIKE_A_STAGE},
        {"shop": _IMPORTS + _LIKE_A_STAGE + _SPLIT},
        {"shop": _IMPORTS + _LIKE_A_STAGE + _SPLIT + "dag = flow.to_dag()\n"},
    ],
    ids=["another file", "another file, to_dag()", "after it", "before it", "before it, to_dag()"],
)
def test_a_flow_that_is_called_like_the_dag_of_a_stage_is_an_error(dags: Any, files: dict[str, str]) -> None:
    dags.write(**files)
    (error,) = dags.parse("shop.py").import_errors.values()
    assert "DuplicateNameError" in error
    assert "'shop.raw'" in error


@pytest.mark.parametrize("kind", list(DagRunType))
def test_the_id_of_a_part_is_none_that_airflow_keeps_for_runs_of_another_kind(kind: DagRunType) -> None:
    run_id = f"{kind.value}__2026-01-01T00:00:00+00:00"
    assert DagRunType.from_run_id(part_run_id(run_id)) is DagRunType.MANUAL


def test_a_run_that_is_linked_from_a_part_is_linked_to_its_part() -> None:
    page = page_of_run("airflow:flow/whole", "b.y", asked_in="flow.b")
    assert page.endswith("/dags/flow.b/runs/part__whole/tasks/b.y/xcom")
    page = page_of_run("airflow:flow/whole", "b", asked_in="flow")
    assert page.endswith("/dags/flow/runs/whole/tasks/b/xcom")


@pytest.mark.parametrize(
    ("inner", "offered"), [({}, True), ({"granularity": "stage"}, False)], ids=["a begin", "no begin"]
)
def test_the_dag_of_a_stage_offers_larger_operators_only_where_a_begin_can_be_one(
    inner: dict[str, str], offered: bool
) -> None:
    with Flow("flow", airflow=SPLIT) as flow, Stage("a"), Stage("inner", airflow=inner):
        call("x")
    assert ("granularity" in dags_of(flow)["flow.a"].params) is offered


class Instance(SimpleNamespace):
    """A task instance, as far as operators ask it; the run of the other DAG is in the given state."""

    def __init__(self, state: str, dag_id: str = "flow.b", task_id: str = "b.begin_transaction") -> None:
        super().__init__(dag_id=dag_id, run_id="own", task_id=task_id, state=state, asked=[], pushed={})
        #: What Airflow knows of DAGs.
        self.dags: dict[str, str] = {}

    def get_dagrun_state(self, dag_id: str, run_id: str) -> str:
        self.asked.append((dag_id, run_id))
        if self.state == "deleted":
            raise not_found()
        return str(self.state)

    def get_dag(self, dag_id: str) -> Any:
        if dag_id not in self.dags:
            raise not_found()
        return SimpleNamespace(is_paused=self.dags[dag_id] == "paused")

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


def not_found() -> AirflowRuntimeError:
    return AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 404}))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
    monkeypatch.setenv("PIPEDAG_HOME", str(tmp_path))


@pytest.fixture
def begin_of_b(home: None) -> Any:
    return dags_of(three_stages(flow=SPLIT))["flow.b"].get_task("b.begin_transaction")


def context_of(operator: Any, instance: Any, **conf: Any) -> Any:
    params = operator.dag.params.dump() | conf
    return {"ti": instance, "params": params, "dag_run": SimpleNamespace(conf=conf)}


def session_of(operator: Any, instance: Instance, **conf: Any) -> Any:
    context = context_of(operator, instance, **conf)
    return operator.session(context, operator.asked_for(context))


def test_the_run_of_a_stage_is_the_run_of_the_flow(begin_of_b: Any) -> None:
    session = session_of(begin_of_b, Instance("running"), **{RUN_OF: "whole"}, select=["stage:b", "stage:c"])
    assert session.run_id == "airflow:flow/whole"
    assert session.selection.stages == {"b", "inner", "c"}


def test_the_dag_of_a_stage_that_is_run_by_itself_is_of_that_stage_alone(begin_of_b: Any) -> None:
    session = session_of(begin_of_b, Instance("running"))
    assert session.run_id == "airflow:flow.b/own"
    assert session.selection.stages == {"b", "inner"}


def test_it_knows_what_it_is_a_part_of_also_where_airflow_lets_nobody_change_params(begin_of_b: Any) -> None:
    context = context_of(begin_of_b, Instance("running"), **{RUN_OF: "whole"})
    context["params"] = begin_of_b.dag.params.dump()
    assert begin_of_b.session(context, begin_of_b.asked_for(context)).run_id == "airflow:flow/whole"
