"""Rules 1.1.6, 1.1.7 and 10.42: the decorator, and what a call means where it stands."""

from __future__ import annotations

import inspect
import math

import pytest

from pipedag_airflow import Blob, Flow, RawSql, Stage, Table, materialize
from pipedag_airflow.core import Task, UnboundTask
from pipedag_airflow.core.task import running_task
from pipedag_airflow.errors import NotFiniteError, StageError, UnsupportedValueError


def add(a, b=2, *more, c, **others):
    """Adds."""
    return a + b + sum(more) + c + sum(others.values())


def test_the_decorator_works_with_and_without_arguments():
    bare, empty, given = materialize(add), materialize()(add), materialize(name="sum")(add)
    assert [type(task) for task in (bare, empty, given)] == [UnboundTask] * 3
    assert [task.name for task in (bare, empty, given)] == ["add", "add", "sum"]


def test_without_arguments_the_task_is_eager_has_no_version_and_one_output():
    task = materialize(add)
    assert (task.version, task.cache, task.input_type, task.lazy, task.nout) == (None, None, None, False, 1)


def test_the_arguments_of_the_decorator_are_kept():
    def cached():
        return 1

    task = materialize(name="n", input_type=int, version="3", cache=cached, lazy=True, nout=2)(add)
    assert (task.name, task.input_type, task.version) == ("n", int, "3")
    assert (task.cache, task.lazy, task.nout) == (cached, True, 2)


def test_a_task_looks_like_its_function():
    task = materialize(add)
    assert (task.__name__, task.__doc__, task.__wrapped__) == ("add", "Adds.", add)
    assert inspect.signature(task) == inspect.signature(add)


def test_attributes_of_the_function_do_not_replace_those_of_the_task():
    def function():
        return 1

    function.version = "of the function"
    function.name = "of the function"
    task = materialize(name="task", version="1")(function)
    assert (task.name, task.version) == ("task", "1")


def test_only_what_can_be_called_becomes_a_task():
    with pytest.raises(TypeError, match="decorates a function, not 'text'"):
        materialize(version="1")("text")


@pytest.mark.parametrize("nout", [0, -1, 1.5, "2", None, True])
def test_nout_is_a_positive_int_and_is_checked_at_once(nout):
    with pytest.raises(ValueError, match=f"an int of at least 1, not {nout!r}"):
        materialize(nout=nout)(add)


# --- a call within a stage ---------------------------------------------------------------------------------------


def test_a_call_within_a_stage_makes_a_task_and_does_not_run_the_function():
    called = []
    with Flow() as flow, Stage("stage") as stage:
        task = materialize(called.append)(1)
    assert called == []
    assert type(task) is Task
    assert (task.flow, task.stage, task.id) == (flow, stage, "stage.append")


def test_a_call_within_a_flow_but_outside_of_a_stage_is_refused():
    with Flow("sales"), pytest.raises(StageError, match="'add' is called within the flow 'sales', but outside"):
        materialize(add)(1, c=3)


def test_a_call_after_the_last_stage_is_outside_of_a_stage_too():
    with Flow():
        with Stage("stage"):
            pass
        with pytest.raises(StageError, match="outside of a stage"):
            materialize(add)(1, c=3)


@pytest.mark.parametrize(
    ("args", "kwargs", "complaint"),
    [((), {"c": 1}, "'a'"), ((1,), {}, "'c'"), ((1,), {"a": 1, "c": 1}, "multiple values")],
)
def test_arguments_that_do_not_fit_are_refused_while_wiring(args, kwargs, complaint):
    with (
        Flow("sales"),
        Stage("clean"),
        pytest.raises(TypeError, match=f"'add' in stage 'clean' of flow 'sales': .*{complaint}"),
    ):
        materialize(add)(*args, **kwargs)


def test_defaults_are_part_of_the_call():
    with Flow(), Stage("stage"):
        task = materialize(add)(1, c=3)
    assert task.bound.arguments == {"a": 1, "b": 2, "more": (), "c": 3, "others": {}}


@pytest.mark.parametrize(
    ("default", "error"), [(len, UnsupportedValueError), ({1}, UnsupportedValueError), (math.nan, NotFiniteError)]
)
def test_a_default_that_cannot_be_an_argument_is_refused_as_one(default, error):
    @materialize
    def total(frame, how=default):
        return frame, how

    told = r"argument how is .* default of the parameter: let that be None"
    with pytest.raises(error, match=told) as refused, Flow(), Stage("stage"):
        total(1)
    with pytest.raises(error) as given, Flow(), Stage("stage"):
        total(1, [default])

    assert type(refused.value) is error
    assert "default of the parameter" not in str(given.value)
    with Flow(), Stage("stage"):
        total(1, None)


def test_arguments_are_kept_as_they_are_until_the_run():
    numbers = [1]
    with Flow(), Stage("stage"):
        task = materialize(add)(numbers, c=3)
    numbers.append(2)
    assert task.bound.arguments["a"] is numbers


# --- a call outside of flows -------------------------------------------------------------------------------------


def test_a_call_outside_of_flows_runs_the_function():
    assert materialize(add)(1, 2, 3, c=4, d=5) == 15


def test_arguments_of_a_plain_call_are_passed_untouched():
    table = Table([1], "t")
    received = materialize(lambda argument: [argument is table])(table)
    assert received == [True]


def test_a_plain_call_unwraps_containers_at_any_depth():
    frame, model = object(), object()

    def function():
        return {
            "table": Table(frame),
            "blobs": [Blob(model), (Blob(None), 1)],
            "script": RawSql("SELECT 1"),
            "plain": "text",
        }

    result = materialize(function)()
    assert result == {"table": frame, "blobs": [model, (None, 1)], "script": "SELECT 1", "plain": "text"}


def test_a_plain_call_with_a_wrong_signature_is_pythons_own_type_error():
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'a'"):
        materialize(add)(c=1)


# --- a call within a running task --------------------------------------------------------------------------------


@pytest.fixture
def running():
    """Make a task of the given input type the one whose function is being called."""
    tokens = []

    def start(input_type):
        with Flow(), Stage("stage"):
            outer = materialize(name="outer", input_type=input_type)(lambda: None)()
        tokens.append(running_task.set(outer))

    yield start
    for token in reversed(tokens):
        running_task.reset(token)


@pytest.mark.parametrize(("outer", "inner"), [(int, int), (None, int), (int, None), (None, None)])
def test_a_running_task_may_call_a_task_whose_input_type_is_its_own_or_none(running, outer, inner):
    running(outer)
    assert materialize(input_type=inner)(lambda: Table("frame"))() == "frame"


@pytest.mark.parametrize(("outer", "inner"), [(int, str), ((int, "a"), (int, "b"))])
def test_a_running_task_may_not_call_a_task_of_another_input_type(running, outer, inner):
    running(outer)
    called = []
    with pytest.raises(RuntimeError, match=r"'outer' .* calls task 'append', whose input_type is"):
        materialize(input_type=inner)(called.append)(1)
    assert called == []


def test_an_input_type_in_quotes_is_refused_when_the_task_is_made() -> None:
    with pytest.raises(TypeError, match=r"not its name in quotes: 'polars.DataFrame'"):
        materialize(input_type="polars.DataFrame")(lambda: None)
