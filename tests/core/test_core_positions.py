"""Rule 10.17: where a call stands in the graph, whatever its results are."""

from __future__ import annotations

import pytest

from pipedag_airflow import Flow, Stage, materialize


@materialize(version="1")
def source():
    return {}


@materialize(version="1")
def task(a=1, b=2, *more, **others):
    return a, b, more, others


def position(wire, stage="stage"):
    """Return the position of the call that ``wire`` makes of a source."""
    with Flow() as flow, Stage(stage):
        made = wire(source())
    return flow.plan().node_by_id[made.id].position


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (lambda s: task(a=1, b=s), lambda s: task(b=s, a=1)),
        (lambda s: task(5, 6), lambda s: task(b=6, a=5)),
        (lambda s: task(x=1, y=2), lambda s: task(y=2, x=1)),
        (lambda s: task(), lambda s: task(1, 2)),
        (lambda s: task(s), lambda s: task(s, 2)),
        (lambda s: task({"x": 1, "y": s}), lambda s: task({"y": s, "x": 1})),
        (lambda s: task({1: 1, "1": s}), lambda s: task({"1": s, 1: 1})),
        (lambda s: task([s, 1]), lambda s: task((s, 1))),
    ],
    ids=[
        "keyword order",
        "keyword or positional",
        "order of **kwargs",
        "defaults given",
        "one default given",
        "dict order",
        "order of mixed keys",
        "list or tuple",
    ],
)
def test_the_same_wiring_said_otherwise_has_the_same_position(left, right):
    assert position(left) == position(right)


KEYS = [1, "1", 1.0, True, (1,), None, slice(1), slice(1, None), slice(None, 1, 2)]


def test_every_item_key_is_a_position_of_its_own():
    positions = {position(lambda s, key=key: task(s[key])) for key in KEYS}
    assert len(positions) == len(KEYS)


ARGUMENTS = [
    lambda s: task(s),
    lambda s: task(b=s),
    lambda s: task([s]),
    lambda s: task(s, s),
    lambda s: task(s, 2, s),
    lambda s: task(s["x"]),
    lambda s: task(s["x"]["y"]),
    lambda s: task(s["x", "y"]),
    lambda s: task({"x": s}),
    lambda s: task({s: "x"}),
    lambda s: task(x=s),
    lambda s: task(1.0),
    lambda s: task("1"),
    lambda s: task(True),
    lambda s: task(None),
    lambda s: task({1: 1}),
    lambda s: task({"1": 1}),
]


def test_every_difference_of_the_wiring_is_a_position_of_its_own():
    positions = {position(wire) for wire in ARGUMENTS}
    assert len(positions) == len(ARGUMENTS)


def test_a_literal_cannot_pass_for_a_task():
    with Flow() as flow, Stage("stage"):
        made = task(source())
    plan = flow.plan()
    encoded = {"$": "task", "v": plan.node_by_id["stage.source"].position}
    assert position(lambda s: task(encoded)) != plan.node_by_id[made.id].position


def test_the_same_call_twice_has_one_position_and_two_ids():
    with Flow() as flow, Stage("stage"):
        first, second = task(source()), task(source())
    plan = flow.plan()
    assert first.id != second.id
    assert plan.node_by_id[first.id].position == plan.node_by_id[second.id].position


def test_the_stage_is_part_of_the_position():
    assert position(lambda s: task(), stage="a") != position(lambda s: task(), stage="b")


def test_the_name_is_part_of_the_position():
    assert position(lambda s: task()) != position(lambda s: materialize(name="other")(task.fn)())


def test_the_position_of_an_input_is_part_of_the_position():
    assert position(lambda s: task(task(1))) != position(lambda s: task(task(3)))


def test_version_and_code_are_no_part_of_the_position():
    assert position(lambda s: task(s)) == position(
        lambda s: materialize(name="task", version="2", lazy=True)(lambda a=1, b=2, *more, **others: 0)(s)
    )


def test_an_argument_that_is_a_stage_counts_by_its_name():
    def wired(name):
        with Flow() as flow:
            with Stage(name) as other:
                pass
            with Stage("stage"):
                made = task(other)
        return flow.plan().node_by_id[made.id].position

    assert wired("a") == wired("A")
    assert wired("a") != wired("b")
