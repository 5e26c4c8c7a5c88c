"""Rules 1.2: ids, order and edges of the compiled plan; section 3 of the design: one plan in every process."""

from __future__ import annotations

import os
import subprocess
import sys

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipedag_airflow import Flow, Stage, materialize
from pipedag_airflow.core.plan import NodeKind
from pipedag_airflow.errors import FlowChangedError


def call(name, *args):
    """Wire a task of the given name."""
    return materialize(name=name, version="1")(lambda *args: args)(*args)


def ids(plan):
    return [node.id for node in plan.nodes]


def upstream(plan):
    """Return the edges of the plan, commits written as the stage's name in angle brackets."""
    short = {stage.commit: f"<{stage.name}>" for stage in plan.stages}
    names = {node.id: short.get(node.id, node.name) for node in plan.nodes}
    return {names[node.id]: [names[other] for other in node.upstream] for node in plan.nodes}


# --- ids and order -----------------------------------------------------------------------------------------------


def test_the_id_of_a_task_is_its_stage_and_name():
    with Flow() as flow, Stage("Clean"):
        call("Flights")
    assert ids(flow.plan()) == ["clean.Flights", "clean.commit_transaction"]


def test_further_calls_in_a_stage_are_counted_in_wiring_order():
    with Flow() as flow, Stage("s"):
        made = [call("t", number) for number in range(3)]
    assert [task.id for task in made] == ["s.t", "s.t__2", "s.t__3"]
    assert ids(flow.plan())[:3] == ["s.t", "s.t__2", "s.t__3"]


def test_calls_in_two_stages_are_counted_apart():
    with Flow() as flow:
        for name in ("a", "b"):
            with Stage(name):
                call("t")
    assert [node.id for node in flow.plan().nodes if node.kind is NodeKind.TASK] == ["a.t", "b.t"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["x", "x__2", "x"], ["s.x", "s.x__2", "s.x__3"]),
        (["x", "x", "x__2"], ["s.x", "s.x__2", "s.x__2__2"]),
        (["x__2", "x", "x"], ["s.x__2", "s.x", "s.x__3"]),
    ],
)
def test_a_counted_id_never_takes_a_name_of_the_users(names, expected):
    with Flow() as flow, Stage("s"):
        made = [call(name) for name in names]
    assert [task.id for task in made] == expected
    assert [flow.tasks[node_id] for node_id in expected] == made


names = st.sampled_from(["a", "b", "a__2", "a.b", "b.commit_transactions", "a__2__2"])


@given(st.lists(st.tuples(names, st.lists(names, max_size=4)), max_size=4, unique_by=lambda stage: stage[0]))
def test_every_node_has_an_id_of_its_own(stages):
    with Flow() as flow:
        for stage, tasks in stages:
            with Stage(stage):
                for task in tasks:
                    call(task)
    found = ids(flow.plan())
    assert len(set(found)) == len(found) == sum(len(tasks) + 1 for _, tasks in stages)


def test_nodes_stand_in_the_order_of_their_making_and_a_commit_where_its_stage_is_left():
    with Flow() as flow:
        with Stage("outer"):
            call("first")
            with Stage("inner"):
                call("second")
            call("third")
        with Stage("next"):
            call("fourth")
    assert ids(flow.plan()) == [
        "outer.first",
        "inner.second",
        "inner.commit_transaction",
        "outer.third",
        "outer.commit_transaction",
        "next.fourth",
        "next.commit_transaction",
    ]


def test_stages_stand_in_the_order_in_which_they_are_opened():
    with Flow() as flow:
        with Stage("b"), Stage("c"):
            pass
        with Stage("a"):
            pass
    assert [(stage.name, stage.parent) for stage in flow.plan().stages] == [("b", None), ("c", "b"), ("a", None)]


def test_a_stage_of_the_plan_has_its_own_tasks_only():
    with Flow() as flow, Stage("outer"):
        call("first")
        with Stage("inner"):
            call("second")
        call("third")
    by_name = flow.plan().stage_by_name
    assert by_name["outer"].tasks == ("outer.first", "outer.third")
    assert by_name["inner"].tasks == ("inner.second",)


def test_every_node_says_what_it_is():
    with Flow() as flow, Stage("s"):
        call("t")
    task, commit = flow.plan().nodes
    assert (task.name, task.stage, task.kind) == ("t", "s", NodeKind.TASK)
    assert (commit.name, commit.stage, commit.kind) == ("commit_transaction", "s", NodeKind.COMMIT)
    assert commit.inputs == ()


def test_a_plan_cannot_be_changed():
    with Flow() as flow:
        pass
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        flow.plan().flow = "another"


def test_an_empty_flow_has_an_empty_plan():
    with Flow("empty") as flow:
        pass
    plan = flow.plan()
    assert (plan.flow, plan.stages, plan.nodes, plan.readers) == ("empty", (), (), {})


# --- edges -------------------------------------------------------------------------------------------------------


def test_a_task_follows_each_task_that_it_reads_once():
    with Flow() as flow, Stage("s"):
        first, second = call("first"), call("second")
        call("third", second["x"], [first, second], {"deep": (second[0],)})
    plan = flow.plan()
    assert plan.node_by_id["s.third"].inputs == ("s.second", "s.first")
    assert plan.node_by_id["s.third"].upstream == ("s.first", "s.second")


def test_a_commit_follows_the_tasks_of_the_stage_that_no_task_of_the_stage_reads():
    with Flow() as flow, Stage("s"):
        read = call("read")
        call("reader", read)
        call("alone")
    assert upstream(flow.plan())["<s>"] == ["reader", "alone"]


def test_a_commit_follows_a_task_that_only_other_stages_read():
    with Flow() as flow:
        with Stage("a"):
            made = call("made")
        with Stage("b"):
            call("reader", made)
    assert upstream(flow.plan())["<a>"] == ["made"]


def test_the_commit_of_an_empty_stage_follows_nothing():
    with Flow() as flow, Stage("s"):
        pass
    assert upstream(flow.plan()) == {"<s>": []}


def test_a_task_of_another_stage_follows_the_commit_too():
    with Flow() as flow:
        with Stage("a"):
            made = call("made")
        with Stage("b"):
            call("reader", made)
    assert upstream(flow.plan())["reader"] == ["made", "<a>"]


def test_rule_a_a_nested_task_reads_the_open_transaction_of_the_stage_around_it():
    with Flow() as flow, Stage("outer"):
        made = call("made")
        with Stage("middle"), Stage("inner"):
            call("reader", made)
    assert upstream(flow.plan())["reader"] == ["made"]


def test_rule_b_a_task_that_reads_a_nested_one_follows_the_nested_commit():
    with Flow() as flow, Stage("outer"):
        with Stage("inner"):
            made = call("made")
        call("reader", made)
    assert upstream(flow.plan())["reader"] == ["made", "<inner>"]


def test_a_task_outside_that_reads_a_nested_one_follows_only_the_nested_commit():
    with Flow() as flow:
        with Stage("outer"), Stage("inner"):
            made = call("made")
        with Stage("next"):
            call("reader", made)
    assert upstream(flow.plan())["reader"] == ["made", "<inner>"]


def test_a_task_of_a_sibling_within_one_stage_follows_the_siblings_commit():
    with Flow() as flow, Stage("outer"):
        with Stage("left"):
            made = call("made")
        with Stage("right"):
            call("reader", made)
    assert upstream(flow.plan())["reader"] == ["made", "<left>"]


def test_rule_c_stages_without_data_between_them_are_not_ordered():
    with Flow() as flow:
        for name in ("a", "b"):
            with Stage(name):
                call(f"in_{name}")
    assert upstream(flow.plan()) == {"in_a": [], "<a>": ["in_a"], "in_b": [], "<b>": ["in_b"]}


def test_rule_d_a_task_without_inputs_follows_nothing_wherever_it_stands():
    with Flow() as flow:
        with Stage("a"):
            made = call("made")
        with Stage("b"):
            call("reader", made)
            call("source")
    assert upstream(flow.plan())["source"] == []


def test_rule_e_an_outer_commit_follows_all_leaves_of_nested_stages_and_their_commits():
    with Flow() as flow, Stage("outer"):
        made = call("made")
        with Stage("middle"):
            call("first", made)
            with Stage("inner"):
                call("second")
    edges = upstream(flow.plan())
    assert edges["<inner>"] == ["second"]
    assert edges["<middle>"] == ["first", "second", "<inner>"]
    assert edges["<outer>"] == ["first", "second", "<middle>"]


def test_a_nested_task_that_reads_an_outer_one_is_what_the_outer_commit_follows():
    with Flow() as flow, Stage("outer"):
        made = call("made")
        with Stage("inner"):
            call("reader", made)
    edges = upstream(flow.plan())
    assert edges["<inner>"] == ["reader"]
    assert edges["<outer>"] == ["reader", "<inner>"]


def test_a_nested_task_that_the_outer_stage_reads_is_still_a_leaf_of_its_own_stage():
    with Flow() as flow, Stage("outer"):
        with Stage("inner"):
            made = call("made")
        call("reader", made)
    edges = upstream(flow.plan())
    assert edges["<inner>"] == ["made"]
    assert edges["<outer>"] == ["<inner>", "reader"]


@st.composite
def flows(draw):
    """Flows of nested stages whose tasks read any tasks made before them."""
    made = []

    def fill(depth):
        for _ in range(draw(st.integers(0, 3))):
            if depth < 3 and draw(st.booleans()):
                with Stage(f"s{len(flow.stages)}"):
                    fill(depth + 1)
            elif depth:
                inputs = draw(st.lists(st.sampled_from(made), max_size=3)) if made else []
                made.append(call(draw(st.sampled_from("tuv")), *inputs))

    with Flow() as flow:
        fill(0)
    return flow.plan()


@given(flows())
def test_every_node_stands_behind_all_that_it_follows(plan):
    seen = set()
    for node in plan.nodes:
        assert seen.issuperset(node.upstream)
        seen.add(node.id)


@given(flows())
def test_a_commit_comes_after_every_task_of_its_stage_and_of_stages_within(plan):
    behind = {}
    for node in plan.nodes:
        behind[node.id] = {node.id}.union(*(behind[other] for other in node.upstream))
    for stage in plan.stages:
        for inner in plan.stages:
            if inner == stage or plan.is_inside(inner.name, stage.name):
                assert behind[stage.commit].issuperset({*inner.tasks, inner.commit})


@given(flows())
def test_who_reads_from_outside_comes_after_the_commit_and_who_reads_from_inside_before(plan):
    behind = {}
    for node in plan.nodes:
        behind[node.id] = {node.id}.union(*(behind[other] for other in node.upstream))
        for source in node.inputs:
            stage = plan.node_by_id[source].stage
            is_inside = node.stage == stage or plan.is_inside(node.stage, stage)
            assert (plan.stage_by_name[stage].commit in behind[node.id]) != is_inside


# --- stages among themselves -------------------------------------------------------------------------------------


@pytest.fixture
def three_stages():
    with Flow() as flow:
        with Stage("z"):
            made = call("made")
        with Stage("y"):
            other = call("other", made)
        with Stage("x"):
            call("last", other, made, call("own"))
    return flow.plan()


def test_a_stage_knows_which_stages_it_reads(three_stages):
    assert {stage.name: stage.reads for stage in three_stages.stages} == {"z": (), "y": ("z",), "x": ("y", "z")}


def test_the_plan_knows_the_readers_of_a_stage(three_stages):
    assert three_stages.readers == {"z": ("x", "y"), "y": ("x",), "x": ()}


def test_what_a_nested_stage_reads_does_not_count_as_read_by_the_outer_one():
    with Flow() as flow:
        with Stage("source"):
            made = call("made")
        with Stage("outer"), Stage("inner"):
            call("reader", made)
    assert flow.plan().readers == {"source": ("inner",), "outer": (), "inner": ()}


def test_the_stages_around_a_stage_come_innermost_first():
    with Flow() as flow, Stage("outer"), Stage("middle"), Stage("inner"):
        pass
    plan = flow.plan()
    assert plan.enclosing("inner") == ("middle", "outer")
    assert plan.enclosing("outer") == ()
    assert plan.is_inside("inner", "outer")
    assert not plan.is_inside("outer", "inner")
    assert not plan.is_inside("inner", "inner")


# --- the fingerprint ---------------------------------------------------------------------------------------------


def shop(*, name="shop", text="x", last="report", nested=False):
    with Flow(name) as flow:
        with Stage("raw"):
            flights = call("flights", {"b": 1, "a": text})
        with Stage("clean"):
            clean = call("clean", flights)
            if nested:
                with Stage("inner"):
                    call(last, clean)
            else:
                call(last, clean)
    return flow.plan()


def test_equal_flows_have_equal_fingerprints():
    assert shop() == shop()
    assert shop().fingerprint == shop().fingerprint


@pytest.mark.parametrize("change", [{"name": "store"}, {"text": "y"}, {"last": "summary"}, {"nested": True}])
def test_every_change_of_the_wiring_changes_the_fingerprint(change):
    assert shop(**change).fingerprint != shop().fingerprint


def test_nesting_alone_changes_the_fingerprint():
    with Flow() as nested, Stage("outer"):
        with Stage("inner"):
            call("a")
        call("b")
    with Flow() as flat:
        with Stage("inner"):
            call("a")
        with Stage("outer"):
            call("b")
    assert ids(nested.plan()) == ids(flat.plan())
    assert nested.plan().fingerprint != flat.plan().fingerprint


IN_ANOTHER_PROCESS = """
from pathlib import Path
from pipedag_airflow import Flow, Stage, materialize

@materialize(version="1", nout=2)
def task(*args, **kwargs):
    return args

with Flow("shop") as flow:
    with Stage("raw") as raw:
        a, b = task({"x": 1, "y": [Path("p"), (None, 1.5)]}, raw, text="é")
    with Stage("clean"):
        with Stage("inner"):
            c = task(z=a["k"][1:2], b=b, c={1: b, "1": a, (2,): 3})
        task(c)
        task(c)
plan = flow.plan()
print(plan.fingerprint, *[f"{node.id}@{node.position}<{','.join(node.upstream)}" for node in plan.nodes])
"""


def test_the_plan_is_the_same_in_every_process_and_for_every_hash_seed():
    outcomes = {
        subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(outcomes) == 1
    assert "clean.task__2@" in outcomes.pop()


# --- a flow that is changed in the middle of a run ---------------------------------------------------------------


def recorded(plan):
    """Return what a run keeps of its plan."""
    return plan.fingerprint, [f"{node.id}@{node.position}" for node in plan.nodes]


def test_an_unchanged_plan_passes():
    shop().check_unchanged(*recorded(shop()))


@pytest.mark.parametrize(
    ("then", "now", "difference"),
    [
        ({}, {"last": "summary"}, "'clean.report' then, 'clean.summary' now"),
        ({}, {"text": "y"}, "'raw.flights' has other arguments than before"),
        ({"last": "a@b"}, {"last": "a@c"}, "'clean.a@b' then, 'clean.a@c' now"),
        ({}, {"nested": True}, "'clean.report' then, 'inner.report' now"),
    ],
)
def test_a_changed_plan_is_refused_with_the_first_node_that_differs(then, now, difference):
    with pytest.raises(FlowChangedError, match=f"flow 'shop' was changed .* the first difference is {difference}"):
        shop(**now).check_unchanged(*recorded(shop(**then)))


def with_stages(*stages):
    with Flow("shop") as flow:
        for name in stages:
            with Stage(name):
                call("task")
    return flow.plan()


def test_a_node_that_was_added_at_the_end_is_named():
    with pytest.raises(FlowChangedError, match=r"first difference is 'b\.task' is new"):
        with_stages("a", "b").check_unchanged(*recorded(with_stages("a")))


def test_a_node_that_was_removed_at_the_end_is_named():
    with pytest.raises(FlowChangedError, match=r"first difference is 'b\.task' is gone"):
        with_stages("a").check_unchanged(*recorded(with_stages("a", "b")))


def test_another_nesting_of_the_same_nodes_is_refused_too():
    with Flow("shop") as nested, Stage("outer"), Stage("inner"):
        pass
    with pytest.raises(FlowChangedError, match="the nesting of the stages"):
        nested.plan().check_unchanged(*recorded(_flat()))


def _flat():
    with Flow("shop") as flow:
        for name in ("inner", "outer"):
            with Stage(name):
                pass
    return flow.plan()
