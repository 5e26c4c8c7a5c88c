"""Rules 1.1.7 to 1.1.10: references to parts of a result, and where arguments are searched for tasks."""

from __future__ import annotations

import contextvars
from collections import OrderedDict, namedtuple

import pytest

from pipedag_airflow import Flow, RawSql, Stage, materialize
from pipedag_airflow.core.definition import own
from pipedag_airflow.errors import UnsupportedValueError

Pair = namedtuple("Pair", ["left", "right"])


class MyList(list):
    pass


class Box:
    def __init__(self, content):
        self.content = content


@materialize(version="1")
def task(*args, **kwargs):
    return args, kwargs


@materialize(version="1", nout=3)
def triple():
    return 1, 2, 3


def picked(reference, value):
    """Return what a run picks: the flow's block was left then."""
    return contextvars.Context().run(lambda: reference.pick(value))


@pytest.fixture
def flow():
    with Flow("sales") as flow, Stage("clean"):
        yield flow


def test_a_reference_picks_a_part_of_the_result(flow):
    assert picked(task()["a"], {"a": 1}) == 1


def test_references_nest(flow):
    assert picked(task()["a"][1]["b"], {"a": [0, {"b": 7}]}) == 7


def test_a_reference_may_be_a_slice(flow):
    assert picked(task()[1:][::2], [0, 1, 2, 3]) == [1, 3]


def test_any_hashable_key_will_do(flow):
    assert picked(task()[(1, None)], {(1, None): "x"}) == "x"


@pytest.mark.parametrize(("key", "result", "error"), [("b", {"a": 1}, KeyError), (2, [0, 1], IndexError)])
def test_a_part_that_is_not_there_is_the_values_own_error(flow, key, result, error):
    with pytest.raises(error):
        picked(task()[key], result)


@pytest.mark.parametrize("result", [None, {"a": None}])
def test_nothing_is_picked_from_none(flow, result):
    reference = task()["a"]["b"]
    with pytest.raises(TypeError, match=r"<clean\.task\['a'\]\['b'\]>: the value before \['[ab]'\] is None"):
        picked(reference, result)


def test_none_itself_may_be_picked(flow):
    assert picked(task()["a"], {"a": None}) is None


def test_a_reference_into_a_script_picks_a_table(flow):
    script = RawSql(name="script")
    script.table_names = ["Flights"]
    script.locate("clean", 3, "key")
    table = picked(task()["flights"], script)
    assert (table.name, table.stage, table.generation) == ("Flights", "clean", 3)


def test_a_task_is_unpacked_into_its_nout_outputs(flow):
    made = triple()
    first, second, third = made
    assert [(own(part, "task"), own(part, "keys")) for part in (first, second, third)] == [
        (made, (index,)) for index in range(3)
    ]


def test_a_task_of_one_output_cannot_be_unpacked_into_two(flow):
    with pytest.raises(ValueError, match="not enough values to unpack"):
        _, _ = task()


def test_a_reference_cannot_be_iterated(flow):
    with pytest.raises(TypeError, match="not iterable"):
        iter(task()["a"])


def test_a_task_that_was_not_called_cannot_be_unpacked():
    with pytest.raises(ValueError, match=r"Task 'triple' is unpacked, but not called: write triple\(\.\.\.\)"):
        _, _, _ = triple


@pytest.mark.parametrize(
    "wrap",
    [
        lambda made: made,
        lambda made: made["x"][0],
        lambda made: [made],
        lambda made: (made,),
        lambda made: {"key": made},
        lambda made: {made: "value"},
        lambda made: [({"key": [made["x"]]},)],
    ],
    ids=["itself", "item", "list", "tuple", "dict value", "dict key", "nested"],
)
def test_tasks_are_found_in_lists_tuples_and_dicts(flow, wrap):
    made = triple()
    assert own(task(wrap(made)), "inputs") == (made,)
    assert own(task(keyword=wrap(made)), "inputs") == (made,)


def test_each_input_counts_once_in_the_order_of_its_first_use(flow):
    first, second = task(), triple()
    assert own(task([second[0], first], second, deep={"x": first["y"]}), "inputs") == (second, first)


@pytest.mark.parametrize(
    ("wrap", "kind"),
    [
        (lambda made: {made}, "set"),
        (lambda made: frozenset([made]), "frozenset"),
        (lambda made: OrderedDict(a=made), "collections.OrderedDict"),
        (lambda made: Pair(made, 1), "Pair"),
        (lambda made: MyList([made]), "MyList"),
        (lambda made: Box(made), "Box"),
        (lambda made: task, "UnboundTask"),
    ],
    ids=["set", "frozenset", "OrderedDict", "namedtuple", "list subclass", "object", "a task that was not called"],
)
def test_an_argument_that_would_hide_a_task_is_refused_when_the_flow_is_left(wrap, kind):
    flow = Flow("sales")
    expected = rf"Task 'clean\.task' of flow 'sales': argument args\[0\]\['deep'\] is of type .*{kind}, which"
    with pytest.raises(UnsupportedValueError, match=expected), flow, Stage("clean"):
        assert own(task({"deep": wrap(triple())}), "inputs") == ()


def test_an_argument_that_would_hide_a_task_is_refused_by_its_name():
    @materialize(version="1")
    def named(first, second):
        return first, second

    expected = r"Task 'clean\.named' of flow 'sales': argument second is of type set"
    with (
        pytest.raises(UnsupportedValueError, match=expected),
        Flow("sales"),
        Stage("clean"),
    ):
        named(1, second={2})


def test_an_argument_that_holds_itself_is_refused_with_its_path(flow):
    circle = {"a": []}
    circle["a"].append(circle)
    expected = r"^Task 'task' in stage 'clean' of flow 'sales': argument args\[1\]\['a'\]\[0\] is .*args\[1\] itself"
    with pytest.raises(UnsupportedValueError, match=expected):
        task(1, circle)
