"""Rules 1.3: groups of tasks, and the order that a barrier gives them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipedag_airflow import Flow, GroupNode, Stage, materialize
from pipedag_airflow.core.plan import NodeKind
from pipedag_airflow.errors import GroupNodeError, StageError


def call(name, *args):
    """Wire a task of the given name."""
    return materialize(name=name, version="1")(lambda *args: args)(*args)


def barriers(flow):
    """Return what waits for what without reading it."""
    plan = flow.plan()
    names = {node.id: node.name for node in plan.nodes}
    return {node.name: [names[other] for other in node.waits_for] for node in plan.nodes if node.waits_for}


def test_a_barrier_stands_between_the_last_tasks_before_it_and_the_first_ones_behind_it():
    with Flow() as flow, Stage("s"):
        call("before", call("earlier"))
        call("beside")
        with GroupNode("group", ordering_barrier=True):
            call("second", call("first"))
            call("alone")
        call("after_that", call("after"))
    assert barriers(flow) == {
        "first": ["before", "beside"],
        "alone": ["before", "beside"],
        "after": ["second", "alone"],
    }
    assert flow.plan().node_by_id["s.first"].upstream == ("s.before", "s.beside")


@pytest.mark.parametrize(
    ("around", "expected"),
    [
        (GroupNode(), {}),
        (GroupNode("label"), {}),
        (GroupNode(ordering_barrier=True), {"inside": ["before"], "after": ["inside"]}),
    ],
)
def test_a_group_orders_its_tasks_only_if_it_is_a_barrier(around, expected):
    with Flow() as flow, Stage("s"):
        call("before")
        with around:
            call("inside")
        call("after")
    assert barriers(flow) == expected


def test_an_empty_group_can_be_a_barrier():
    with Flow() as flow, Stage("s"):
        call("before")
        with GroupNode(ordering_barrier=True):
            pass
        call("after")
    assert barriers(flow) == {"after": ["before"]}


def test_what_reads_a_task_on_the_other_side_still_waits_for_all_of_them():
    with Flow() as flow, Stage("s"):
        read = call("read")
        call("beside")
        with GroupNode(ordering_barrier=True):
            call("inside", read)
    assert barriers(flow) == {"inside": ["read", "beside"]}


def test_a_barrier_orders_the_tasks_of_its_stage_and_of_stages_in_that_one():
    with Flow() as flow:
        with Stage("other"):
            call("elsewhere")
        with Stage("s"):
            with Stage("nested"):
                call("before")
            with GroupNode(ordering_barrier=True), Stage("grouped"):
                call("inside")
            with Stage("last"):
                call("after")
        with Stage("next"):
            call("later")
    assert barriers(flow) == {"inside": ["before"], "after": ["inside"]}


def chain(*, grouped):
    with Flow() as flow:
        with Stage("s"):
            one = call("one")
            if grouped:
                with GroupNode("group", ordering_barrier=True):
                    call("two", one)
            else:
                call("two", one)
            call("three")
        with Stage("t"):
            call("four", one)
    return {node.id: (node.position, node.inputs) for node in flow.plan().nodes}


def test_a_group_changes_neither_ids_nor_what_makes_a_task_valid():
    assert chain(grouped=True) == chain(grouped=False)


def test_a_plan_has_its_groups_where_they_were_opened():
    with Flow() as flow, GroupNode("outer"), Stage("s"):
        call("plain")
        with GroupNode("inner", ordering_barrier=True):
            call("inside")
            with Stage("nested"), GroupNode("innermost"):
                call("deep")
        with GroupNode():
            pass
    plan = flow.plan()
    assert [(group.id, group.label, group.stage, group.parent, group.tasks) for group in plan.groups] == [
        ("group_1", "outer", None, None, ("s.plain", "s.inside", "nested.deep")),
        ("group_2", "inner", "s", None, ("s.inside", "nested.deep")),
        ("group_3", "innermost", "nested", None, ("nested.deep",)),
        ("group_4", None, "s", None, ()),
    ]
    assert {stage.name: stage.group for stage in plan.stages} == {"s": "group_1", "nested": "group_2"}
    assert {node.name: node.group for node in plan.nodes if node.kind is NodeKind.TASK} == {
        "plain": None,
        "inside": "group_2",
        "deep": "group_3",
    }


def test_groups_within_groups_know_each_other_and_no_stage_is_called_like_a_group():
    with Flow() as flow:
        with GroupNode(), GroupNode(), Stage("group_1"):
            call("task")
        with Stage("group_3"), GroupNode():
            call("task")
    assert [(group.id, group.parent) for group in flow.plan().groups] == [
        ("group_2", None),
        ("group_4", "group_2"),
        ("group_5", None),
    ]


def test_a_group_is_opened_once():
    group = GroupNode("twice")
    with Flow(), Stage("s"):
        with group:
            pass
        with pytest.raises(GroupNodeError, match="<GroupNode twice> was opened before"), group:
            pass


def test_a_group_outside_of_a_flow_is_an_error():
    with pytest.raises(StageError, match="<GroupNode without label> stands outside of a flow"), GroupNode():
        pass


def test_a_barrier_outside_of_a_stage_is_an_error():
    with (
        pytest.raises(GroupNodeError, match=r"<GroupNode g> of flow 'f' is an ordering barrier.*outside of a stage"),
        Flow("f"),
        GroupNode("g", ordering_barrier=True),
    ):
        pass


def test_the_label_of_a_group_is_a_string():
    with pytest.raises(TypeError, match="The label of a group is a string, not int: 1"):
        GroupNode(1)


@st.composite
def flows(draw):
    """A stage of tasks, groups and nested stages."""
    made = []
    number = iter(range(1_000))

    def fill(depth):
        for _ in range(draw(st.integers(0, 3))):
            kind = draw(st.sampled_from(["task", "group", "stage"] if depth < 3 else ["task"]))
            if kind == "task":
                inputs = draw(st.lists(st.sampled_from(made), max_size=2)) if made else []
                made.append(call(f"t{len(made)}", *inputs))
                continue
            with GroupNode(ordering_barrier=True) if kind == "group" else Stage(f"s{next(number)}"):
                fill(depth + 1)

    with Flow() as flow, Stage("s"):
        fill(0)
    return flow


@given(flows())
def test_whatever_stands_before_a_barrier_comes_before_whatever_stands_behind_it(flow):
    tasks = list(flow.tasks.values())
    after = {}
    for task in tasks:  # in plan order, so that what comes before is known
        direct = flow.plan().node_by_id[task.id].upstream
        after[task.id] = {node for other in direct for node in (other, *after.get(other, ()))}
    for group in flow.groups:
        scope = [task for task in tasks if task.stage is group.stage or task.stage.is_inside(group.stage)]
        side = {task.id: (i >= group.members.start) + (i >= group.members.stop) for i, task in enumerate(tasks)}
        for task in scope:
            assert {other.id for other in scope if side[other.id] < side[task.id]} <= after[task.id]
