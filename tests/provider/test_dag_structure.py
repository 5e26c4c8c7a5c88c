"""The graph of a DAG: groups, ids, edges, and the rules by which its tasks start."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipedag_airflow import Flow, GroupNode, Stage, materialize
from pipedag_airflow.core.plan import NodeKind
from pipedag_airflow.errors import FlowError
from pipedag_airflow.provider.dag import compile_dag
from pipedag_airflow.provider.edges import reduced_edges, stage_edges

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import DAG


def call(name: str, *inputs: Any) -> Any:
    """Wire a task of the given name."""

    @materialize(name=name, version="1")
    def function(*inputs: Any) -> Any:
        return inputs

    return function(*inputs)


def edges(dag: DAG) -> set[str]:
    """Return the edges as "a.x > b.y", begin and commit of a stage written as "[a" and "a]"."""
    return {f"{_short(upstream)} > {_short(task.task_id)}" for task in dag.tasks for upstream in task.upstream_task_ids}


def _short(node: str) -> str:
    stage, _, label = node.rpartition(".")
    return {"begin_transaction": f"[{stage}", "commit_transaction": f"{stage}]"}.get(label, node)


def chain() -> None:
    with Stage("a"):
        call("z", call("y", call("x")))


def diamond() -> None:
    with Stage("a"):
        x = call("x")
        call("z", call("y", x), call("w", x), x)


def independent() -> None:
    with Stage("a"):
        call("x")
        call("y")


def across() -> None:
    with Stage("a"):
        x = call("x")
    with Stage("b"):
        call("y")
        call("z", x)


def across_and_further() -> None:
    with Stage("a"):
        x = call("x")
    with Stage("b"):
        y = call("y", x)
    with Stage("c"):
        call("z", x, y)


def nested_reads_enclosing() -> None:
    with Stage("a"):
        x = call("x")
        with Stage("b"):
            call("y", x)


def enclosing_reads_nested() -> None:
    with Stage("a"):
        with Stage("b"):
            y = call("y")
        call("x", y)


def nested_beside_nested() -> None:
    with Stage("a"):
        x = call("x")
        with Stage("b"):
            y = call("y", x)
        with Stage("c"):
            call("z", y)


def reader_of_both() -> None:
    with Stage("a"):
        x = call("x")
        with Stage("b"):
            y = call("y")
    with Stage("c"):
        call("z", x, y)


def nested_reads_outside() -> None:
    with Stage("a"):
        x = call("x")
    with Stage("b"):
        call("w")
        with Stage("c"):
            call("y", x)


def only_nested() -> None:
    with Stage("a"):
        with Stage("b"):
            y = call("y")
        with Stage("c"):
            call("z", y)


def deep() -> None:
    with Stage("a"):
        x = call("x")
        with Stage("b"), Stage("c"):
            call("y", x)


def empty() -> None:
    with Stage("a"):
        pass
    with Stage("b"):
        call("x")


CASES: list[tuple[Callable[[], None], set[str]]] = [
    (chain, {"[a > a.x", "a.x > a.y", "a.y > a.z", "a.z > a]"}),
    (diamond, {"[a > a.x", "a.x > a.y", "a.x > a.w", "a.y > a.z", "a.w > a.z", "a.z > a]"}),
    (independent, {"[a > a.x", "[a > a.y", "a.x > a]", "a.y > a]"}),
    (across, {"[a > a.x", "a.x > a]", "a] > [b", "[b > b.y", "[b > b.z", "b.y > b]", "b.z > b]"}),
    (
        across_and_further,
        {"[a > a.x", "a.x > a]", "a] > [b", "[b > b.y", "b.y > b]", "b] > [c", "[c > c.z", "c.z > c]"},
    ),
    (nested_reads_enclosing, {"[a > a.x", "a.x > [b", "[b > b.y", "b.y > b]", "b] > a]"}),
    (enclosing_reads_nested, {"[a > [b", "[b > b.y", "b.y > b]", "b] > a.x", "a.x > a]"}),
    (
        nested_beside_nested,
        {"[a > a.x", "a.x > [b", "[b > b.y", "b.y > b]", "b] > [c", "[c > c.z", "c.z > c]", "c] > a]"},
    ),
    (
        reader_of_both,
        {"[a > a.x", "[a > [b", "[b > b.y", "b.y > b]", "a.x > a]", "b] > a]", "a] > [c", "[c > c.z", "c.z > c]"},
    ),
    (
        nested_reads_outside,
        {
            *("[a > a.x", "a.x > a]", "a] > [c", "[b > b.w", "[b > [c"),
            *("[c > c.y", "c.y > c]", "c] > b]", "b.w > b]"),
        },
    ),
    (only_nested, {"[b > b.y", "b.y > b]", "b] > [c", "[c > c.z", "c.z > c]"}),
    (deep, {"[a > a.x", "a.x > [c", "[c > c.y", "c.y > c]", "c] > a]"}),
    (empty, {"[b > b.x", "b.x > b]"}),
]


@pytest.mark.parametrize(("wire", "expected"), CASES, ids=[wire.__name__ for wire, _ in CASES])
def test_edges(wire: Callable[[], None], expected: set[str]) -> None:
    with Flow("flow") as flow:
        wire()
    assert edges(compile_dag(flow, {})) == expected


def test_stages_are_nested_groups_and_ids_are_those_of_the_plan() -> None:
    with Flow("flow") as flow, Stage("Outer"):
        x = call("x")
        call("x")
        with Stage("inner"):
            call("y", x)
    dag = compile_dag(flow, {})
    (outer,) = dag.task_group.children.values()
    assert list(outer.children) == [
        "outer.begin_transaction",
        "outer.x",
        "outer.x__2",
        "outer.commit_transaction",
        "inner",
    ]
    assert list(outer.children["inner"].children) == ["inner.begin_transaction", "inner.y", "inner.commit_transaction"]
    assert [task.task_display_name for task in outer.children["inner"]] == [
        "begin_transaction",
        "y",
        "commit_transaction",
    ]


def test_a_stage_without_tasks_has_no_operators() -> None:
    with Flow("flow") as flow, Stage("empty"):
        pass
    dag = compile_dag(flow, {})
    assert (dag.tasks, list(dag.task_group.children)) == ([], ["empty"])


def test_every_operator_takes_skipped_for_good_and_has_a_weight_of_its_own() -> None:
    with Flow("flow") as flow:
        reader_of_both()
    tasks = compile_dag(flow, {}).tasks
    assert {task.trigger_rule.value for task in tasks} == {"none_failed"}
    assert {str(task.weight_rule) for task in tasks} == {"absolute"}
    assert not any(task.is_setup or task.is_teardown for task in tasks)


def test_the_docstring_of_a_function_is_the_documentation_of_its_task() -> None:
    @materialize(version="1")
    def load() -> int:
        """Load the orders.

        From the shop.
        """
        return 1

    with Flow("flow") as flow, Stage("raw"):
        load()
        call("without")
    dag = compile_dag(flow, {})
    assert dag.get_task("raw.load").doc_md == "Load the orders.\n\nFrom the shop."
    assert dag.get_task("raw.without").doc_md is None


def test_a_flow_file_of_a_thousand_tasks_in_a_chain_compiles() -> None:
    with Flow("flow") as flow, Stage("long"):
        made = call("first")
        for number in range(1_500):
            made = call(f"t{number}", made)
    assert len(edges(compile_dag(flow, {}))) == 1_502


@pytest.mark.parametrize(
    ("flow_name", "stage", "task", "named"),
    [
        ("my flow", "stage", "task", "flow 'my flow'"),
        ("f" * 251, "stage", "task", "flow 'fff"),
        ("flow", "raw data", "task", "stage 'raw data'"),
        ("flow", "raw.data", "task", "stage 'raw.data'"),
        ("flow", "s" * 201, "task", "stage 'sss"),
        ("flow", "stage", "a task", "'stage.a task'"),
        ("flow", "stage", "t" * 250, "'stage.ttt"),
        ("flow", "s" * 200, "t" * 50, "'sss"),
    ],
)
def test_a_name_that_airflow_does_not_take_is_an_error(flow_name: str, stage: str, task: str, named: str) -> None:
    with Flow(flow_name) as flow, Stage(stage):
        call(task)
    with pytest.raises(FlowError, match="cannot become a DAG") as raised:
        compile_dag(flow, {})
    assert named in str(raised.value)
    assert flow_name in str(raised.value)


def test_names_as_long_as_airflow_takes_them() -> None:
    with Flow("f" * 250) as flow, Stage("s" * 200):
        call("t" * 49)
    assert len(compile_dag(flow, {}).tasks) == 3


# --- groups -------------------------------------------------------------------------------------------------------


def test_groups_are_groups_of_airflows_and_a_barrier_is_edges() -> None:
    with Flow("flow") as flow, GroupNode("all of it"), Stage("a"):
        call("x")
        call("y")
        with GroupNode("side effects", ordering_barrier=True):
            call("z")
            with Stage("b"):
                call("w")
    dag = compile_dag(flow, {})
    assert {"a.x > a.z", "a.y > a.z", "a.x > b.w", "a.y > b.w"} <= edges(dag)
    groups = dag.task_group.get_task_group_dict()
    assert {name: set(group.children) for name, group in groups.items() if name} == {
        "group_1": {"a"},
        "a": {"a.begin_transaction", "a.x", "a.y", "group_2", "a.commit_transaction"},
        "group_2": {"a.z", "b"},
        "b": {"b.begin_transaction", "b.w", "b.commit_transaction"},
    }
    assert [groups[name].group_display_name for name in ("group_1", "group_2")] == ["all of it", "side effects"]


# --- random plans ------------------------------------------------------------------------------------------------


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    """Flows of nested and neighbouring stages whose tasks read any tasks before them."""
    made: list[Any] = []
    number = iter(range(1_000))

    def fill(depth: int) -> None:
        for _ in range(draw(st.integers(0, 3))):
            kind = draw(st.sampled_from(["task", "stage", "group"])) if depth < 3 else "task"
            if kind == "stage":
                with Stage(f"s{next(number)}"):
                    fill(depth + 1)
            elif kind == "group":
                with GroupNode(ordering_barrier=depth > 0 and draw(st.booleans())):
                    fill(depth)
            elif depth > 0:
                inputs = draw(st.lists(st.sampled_from(made), max_size=3)) if made else []
                made.append(call(f"t{next(number)}", *inputs))

    with Flow("random") as flow:
        fill(0)
    return flow


def closure(pairs: set[tuple[str, str]], names: list[str]) -> dict[str, set[str]]:
    """Return what follows each node, the plain way."""
    after: dict[str, set[str]] = {name: set() for name in names}
    for _ in names:
        for source, target in pairs:
            after[source] |= {target} | after[target]
    return after


@settings(deadline=None)
@given(flows())
def test_leaving_out_redundant_edges_keeps_what_follows_what(flow: Flow) -> None:
    full = stage_edges(flow.plan())
    names = sorted({name for edge in full for name in edge})
    kept = reduced_edges(full)
    assert kept <= full
    before = closure(full, names)
    assert closure(kept, names) == before
    assert all(name not in after for name, after in before.items()), "the graph has a cycle"
    for source, target in kept:
        assert not any(target in before[other] for other in before[source] if other != target), "a longer way remains"


@settings(deadline=None)
@given(flows())
def test_a_task_follows_what_it_reads_and_what_publishes_it(flow: Flow) -> None:
    """The rules of section 9, asked of the graph: every path of data is a path of the DAG, by way of the commits."""
    plan = flow.plan()
    full = stage_edges(plan)
    after = closure(full, sorted({name for edge in full for name in edge}))
    for node in (node for node in plan.nodes if node.kind is NodeKind.TASK):
        begin, commit = f"{node.stage}.begin_transaction", f"{node.stage}.commit_transaction"
        for first, then in pairwise((begin, node.id, commit)):
            assert then in after[first]
        for other in node.waits_for:
            assert node.id in after[other]
        for source in node.inputs:
            producer = plan.node_by_id[source].stage
            assert node.id in after[source]
            if producer != node.stage and not plan.is_inside(node.stage, producer):
                assert node.id in after[f"{producer}.commit_transaction"]
            if producer != node.stage and not plan.is_inside(producer, node.stage):
                assert begin in after[source], "begin knows all that comes from outside"
    for stage in (stage for stage in plan.stages if stage.tasks):
        for outer in (outer for outer in plan.enclosing(stage.name) if plan.stage_by_name[outer].tasks):
            assert f"{stage.name}.begin_transaction" in after[f"{outer}.begin_transaction"]
            assert f"{outer}.commit_transaction" in after[stage.commit]
