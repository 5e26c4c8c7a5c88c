"""Rules 1.1.3 to 1.1.5 and 1.2.6: stages as blocks, their names, and their tasks by name."""

from __future__ import annotations

import pytest

from pipedag_airflow import Flow, Stage, materialize
from pipedag_airflow.core import definition
from pipedag_airflow.core.stage import current_schemas
from pipedag_airflow.errors import DuplicateNameError, StageError


@materialize(version="1")
def task(*args):
    return args


def test_a_stage_stands_within_a_flow():
    with pytest.raises(StageError, match="'clean' stands outside of a flow"):
        Stage("clean").__enter__()


def test_a_stage_is_opened_once():
    with Flow("sales"):
        with Stage("clean") as stage:
            pass
        with pytest.raises(StageError, match="'clean' was opened before, in flow 'sales'"):
            stage.__enter__()


def test_a_stage_is_not_nested_in_itself():
    with Flow(), Stage("clean") as stage, pytest.raises(StageError, match="opened before"):
        stage.__enter__()


def test_a_stage_is_not_opened_again_in_another_flow():
    with Flow("first"), Stage("clean") as stage:
        pass
    with Flow("second"), pytest.raises(StageError, match="in flow 'first'"):
        stage.__enter__()


@pytest.mark.parametrize("again", ["clean", "CLEAN", " Clean "])
def test_two_stages_of_a_flow_have_two_names_whatever_their_case(again):
    with Flow("sales"):
        with Stage("clean"):
            pass
        with pytest.raises(DuplicateNameError, match="'sales' has two stages of the name 'clean'"):
            Stage(again).__enter__()


def test_a_nested_stage_needs_a_name_of_its_own_too():
    with Flow(), Stage("clean"), pytest.raises(DuplicateNameError):
        Stage("clean").__enter__()


def test_a_refused_stage_does_not_become_the_open_one():
    with Flow(), Stage("clean") as stage:
        with pytest.raises(DuplicateNameError):
            Stage("clean").__enter__()
        assert definition.current_stage() is stage


def test_two_flows_may_have_stages_of_one_name():
    for name in ("first", "second"):
        with Flow(name) as flow, Stage("clean"):
            pass
        assert list(flow.stages) == ["clean"]


@pytest.mark.parametrize(
    ("given", "normal"),
    [("Clean", "clean"), ("  clean\n", "clean"), ("a/b/c", "a_b_c"), ("STRASSE", "strasse"), ("Straße", "strasse")],
)
def test_the_name_of_a_stage_is_normalised(given, normal):
    assert Stage(given).name == normal


@pytest.mark.parametrize("name", ["", "  ", "\n"])
def test_an_empty_name_is_refused(name):
    with pytest.raises(StageError, match="not empty"):
        Stage(name)


@pytest.mark.parametrize("name", ["x__g3", "X__G3", "a__g12", "__g0"])
def test_a_name_like_the_schema_of_a_generation_is_refused(name):
    with pytest.raises(StageError, match=f"{name!r} ends like the schema of a generation"):
        Stage(name)


@pytest.mark.parametrize("name", ["x_g3", "x__g", "x__g3_y", "x__ga"])
def test_names_that_only_resemble_a_generation_are_free(name):
    assert Stage(name).name == name


def test_the_name_of_the_metadata_schema_is_refused():
    with pytest.raises(StageError, match="'pipedag_metadata' is the schema of the metadata"):
        Stage("Pipedag_Metadata")


def test_a_stage_knows_the_stages_around_it():
    with Flow(), Stage("a") as a, Stage("b") as b, Stage("c") as c:
        pass
    assert (a.parent, b.parent, c.parent) == (None, a, b)
    assert c.is_inside(a)
    assert c.is_inside(b)
    assert not a.is_inside(c)
    assert not a.is_inside(a)


def test_a_task_belongs_to_the_innermost_open_stage():
    with Flow(), Stage("outer") as outer:
        before = task()
        with Stage("inner") as inner:
            within = task()
        after = task()
    assert outer.tasks == [before, after]
    assert inner.tasks == [within]


def test_a_task_is_found_by_its_name():
    with Flow(), Stage("clean") as stage:
        made = task()
    assert stage["task"] is made
    assert stage.get_task("task") is made


def test_several_tasks_of_one_name_are_told_apart_by_index_in_the_order_of_their_definition():
    with Flow(), Stage("clean") as stage:
        made = [task(number) for number in range(3)]
    assert [stage["task", index] for index in range(3)] == made
    assert stage.get_task("task", 2) is made[2]


def test_several_tasks_of_one_name_need_an_index():
    with Flow(), Stage("clean") as stage:
        task()
        task()
    with pytest.raises(ValueError, match=r"'clean' has 2 tasks 'task': choose one by stage\['task', index\]"):
        stage["task"]


def test_an_index_that_is_too_large_is_an_index_error():
    with Flow(), Stage("clean") as stage:
        task()
    with pytest.raises(IndexError, match="'clean' has 1 tasks 'task': there is no index 1"):
        stage["task", 1]


def test_a_negative_index_counts_from_the_end_and_no_further_than_the_first():
    with Flow(), Stage("clean") as stage:
        made = [task(), task()]
    assert stage["task", -1] is made[1]
    with pytest.raises(IndexError, match="there is no index -3"):
        stage["task", -3]


@pytest.mark.parametrize("key", ["tusk", ("tusk", 0)])
def test_an_unknown_task_is_a_key_error_that_names_the_known_ones(key):
    with Flow(), Stage("clean") as stage:
        task()
    with pytest.raises(KeyError, match=r"'clean' has no task 'tusk'. Its tasks: task"):
        stage[key]


@pytest.mark.parametrize("key", [1, None, ("task",), ("task", "0"), ("task", 0, 0), (0, "task"), ["task", 0]])
def test_any_other_key_is_a_type_error(key):
    with Flow(), Stage("clean") as stage:
        task()
    with pytest.raises(TypeError, match="Ask for a task by"):
        stage[key]


def test_a_task_of_a_nested_stage_is_not_one_of_the_outer_stage():
    with Flow(), Stage("outer") as outer, Stage("inner"):
        task()
    with pytest.raises(KeyError, match="Its tasks: none"):
        outer["task"]


@pytest.mark.parametrize("name", ["transaction_name", "current_name"])
def test_a_stage_has_no_schema_while_no_task_runs(name):
    with pytest.raises(LookupError, match="'clean' has a schema only while a task runs"):
        getattr(Stage("clean"), name)


def test_a_stage_asks_the_run_for_its_schemas():
    token = current_schemas.set(lambda stage: (f"{stage}__g7", f"{stage}_now"))
    try:
        stage = Stage("Clean")
        assert (stage.transaction_name, stage.current_name) == ("clean__g7", "clean_now")
    finally:
        current_schemas.reset(token)
