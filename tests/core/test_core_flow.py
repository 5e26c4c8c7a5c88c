"""Rules 1.1.1, 1.1.2 and 1.1.12: the flow as a block, its stages by name, and tasks of other flows."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from pipedag_airflow import Flow, Stage, materialize
from pipedag_airflow.core import definition
from pipedag_airflow.errors import FlowError, StageError


@materialize(version="1")
def task(*args, **kwargs):
    return args, kwargs


def test_a_flow_is_called_default_unless_named():
    assert Flow().name == "default"
    assert Flow("sales").name == "sales"


def test_a_flow_within_an_open_flow_is_refused():
    with Flow("outer"), pytest.raises(RuntimeError, match="'inner' is opened within the open flow 'outer'"):
        Flow("inner").__enter__()


def test_flows_may_follow_each_other():
    with Flow("first"):
        pass
    with Flow("second") as second:
        assert definition.current_flow() is second


@pytest.mark.parametrize("with_stage", [True, False])
def test_a_flow_is_defined_by_one_block(with_stage):
    with Flow("once") as flow:
        if with_stage:
            Stage("stage").__enter__()
    with pytest.raises(FlowError, match="'once' was opened before"):
        flow.__enter__()


def test_an_error_in_the_block_closes_flow_and_stages():
    with pytest.raises(ZeroDivisionError), Flow("broken") as flow, Stage("stage"):
        task(1 / 0)
    assert definition.current_flow() is None
    assert definition.current_stage() is None
    with pytest.raises(FlowError, match=r"'broken' has no plan: .* or left with an error"):
        flow.plan()


def test_there_is_no_plan_before_the_block_is_left():
    with Flow("open") as flow, pytest.raises(FlowError, match="'open' has no plan"):
        flow.plan()


def test_the_plan_is_compiled_once():
    with Flow() as flow:
        pass
    assert flow.plan() is flow.plan()


def test_a_flow_knows_the_file_of_its_block():
    with Flow() as flow:
        pass
    assert flow.file == Path(__file__).resolve()


def test_a_flow_that_a_stack_opens_is_in_the_file_of_the_code_that_has_the_stack():
    with ExitStack() as stack:
        flow = stack.enter_context(Flow())
    assert flow.file == Path(__file__).resolve()


def test_a_flow_that_is_typed_in_has_no_file():
    namespace = {"__name__": "__main__"}
    exec("from pipedag_airflow import Flow\nwith Flow() as flow: pass", namespace)
    assert namespace["flow"].file is None


def test_stages_are_found_by_their_normal_name():
    with Flow() as flow, Stage(" Raw/Data ") as stage:
        pass
    assert flow["raw_data"] is stage
    assert flow.get_stage("raw_data") is stage


def test_an_unknown_stage_is_a_key_error_that_names_the_known_ones():
    with Flow("sales") as flow:
        with Stage("clean"):
            pass
        with Stage("report"):
            pass
    for look_up in (flow.__getitem__, flow.get_stage):
        with pytest.raises(KeyError, match=r"'sales' has no stage 'raw'. Its stages: clean, report"):
            look_up("raw")


def test_a_flow_without_stages_says_so_when_asked_for_one():
    with Flow() as flow:
        pass
    with pytest.raises(KeyError, match="Its stages: none"):
        flow["raw"]


def test_a_task_of_another_flow_is_refused_as_an_argument():
    with Flow("first"), Stage("raw"):
        foreign = task()
    for argument in (foreign, foreign[0], [{"deep": (foreign["x"],)}]):
        with (
            Flow("second"),
            Stage("clean"),
            pytest.raises(
                FlowError, match=r"'task' in stage 'clean' of flow 'second' .* 'raw\.task' of another flow, 'first'"
            ),
        ):
            task(argument)


def test_a_refused_task_leaves_no_trace():
    with Flow("first"), Stage("raw"):
        foreign = task()
    with Flow("second") as flow:
        with Stage("clean") as stage, pytest.raises(FlowError):
            task(foreign)
        assert stage.tasks == []
    assert [node.id for node in flow.plan().nodes] == ["clean.commit_transaction"]


@pytest.mark.parametrize("name", ["begin_transaction", "commit_transaction", "nested.commit_transaction"])
def test_the_names_of_the_stages_own_operators_are_reserved(name):
    with (
        Flow("sales"),
        Stage("clean"),
        pytest.raises(StageError, match=f"{name!r} in stage 'clean' of flow 'sales': the name is reserved"),
    ):
        materialize(name=name)(lambda: 1)()


def test_names_that_only_resemble_the_reserved_ones_are_free():
    with Flow() as flow, Stage("clean"):
        materialize(name="begin_transactions")(lambda: 1)()
    assert "clean.begin_transactions" in flow.tasks


def test_the_shown_form_names_the_thing():
    with Flow("sales") as flow, Stage("clean") as stage:
        made = task()
    assert [repr(thing) for thing in (flow, stage, task, made, made["a"][0])] == [
        "<Flow sales>",
        "<Stage clean>",
        "<UnboundTask task>",
        "<Task clean.task>",
        "<clean.task['a'][0]>",
    ]
