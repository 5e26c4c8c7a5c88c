"""The syntax of selections, evaluated on a flow of four stages."""

from __future__ import annotations

from typing import Any

import pytest

from pipedag_airflow import Flow, Stage, materialize
from pipedag_airflow.core.selector import Selection, everything, select
from pipedag_airflow.errors import FlowError, SelectionError


def call(name: str, *inputs: Any, tags: Any = ()) -> Any:
    """Wire a task of the given name."""

    @materialize(name=name, version="1", tags=tags)
    def function(*inputs: Any) -> Any:
        return inputs

    return function(*inputs)


def shop() -> Flow:
    """A chain of raw, clean (with inner nested in it) and report; other stands alone."""
    with Flow("shop") as flow:
        with Stage("raw", tags="source"):
            orders, items = call("orders", tags=["big", "daily"]), call("items")
        with Stage("clean"):
            merged = call("merged", orders, items)
            with Stage("inner"):
                checked = call("checked", merged, tags="daily")
            call("done", checked)
        with Stage("report", tags={"daily"}):
            call("sums", merged)
            call("sums", checked)
        with Stage("other"):
            call("alone")
    return flow


FLOW = shop()
PLAN = FLOW.plan()
ALL = everything(PLAN).tasks


def chosen(selection: Selection) -> tuple[set[str], set[str], set[str]]:
    return set(selection.tasks), set(selection.stages), set(selection.forced)


def tasks(text: str) -> set[str]:
    """Return the ids that a line of a table names, in which "r.o" stands for raw.orders."""
    short = {"r": "raw", "c": "clean", "i": "inner", "p": "report", "o": "other"}
    found = set()
    for word in text.split():
        stage, _, start = word.partition(".")
        found |= {node for node in ALL if node.startswith(f"{short[stage]}.{start}")}
    return found


@pytest.mark.parametrize(
    ("text", "expected", "published"),
    [
        ("stage:raw", "r", "raw"),
        ("stage:RAW", "r", "raw"),
        ("stage:clean", "c i", "clean inner"),
        ("stage:inner", "i", "inner"),
        ("+stage:inner", "r c i", "raw clean inner"),
        ("+stage:report", "r c i p", "raw clean inner report"),
        ("stage:raw+", "r c i p", "raw clean inner report"),
        ("stage:inner+", "c i p", "clean inner report"),
        ("tag:source", "r", "raw"),
        ("stage:clean,stage:inner", "i", "inner"),
        ("stage:other,state:invalid", "o", "other"),
        ("state:invalid", "r c i p o", "raw clean inner report other"),
        ("stage:other stage:inner", "o i", "other inner"),
    ],
)
def test_stages_are_selected_as_wholes_and_published(text: str, expected: str, published: str) -> None:
    assert chosen(select(PLAN, text)) == (tasks(expected), set(published.split()), set())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("raw.orders", "r.o"),
        ("report.sums__2", "p.sums__2"),
        ("+clean.merged", "r.o r.i c.m"),
        ("raw.items+", "r.i c i p"),
        ("+inner.checked+", "r c i p.sums__2"),
        ("stage:raw,tag:big", "r.o"),
        ("tag:daily,+inner.checked", "r.o i.c"),
        ("raw.items\tother.alone", "r.i o.a"),
    ],
)
def test_tasks_are_forced_and_not_published(text: str, expected: str) -> None:
    assert chosen(select(PLAN, text)) == (tasks(expected), set(), tasks(expected))


def test_state_invalid_keeps_a_named_task_from_running_though_it_is_valid() -> None:
    assert chosen(select(PLAN, "+clean.merged,state:invalid")) == (tasks("r.o r.i c.m"), set(), set())


def test_a_task_that_is_named_beside_its_stage_is_forced_and_published() -> None:
    assert chosen(select(PLAN, ["stage:raw", "raw.items"])) == (tasks("r"), {"raw"}, tasks("r.i"))


def test_a_tag_selects_tasks_and_stages_alike() -> None:
    assert chosen(select(PLAN, "tag:source tag:big")) == (tasks("r"), {"raw"}, tasks("r.o"))


def test_objects_of_the_flow_select_like_their_names() -> None:
    item = FLOW["raw"]["orders"]["part"]
    assert select(PLAN, FLOW["clean"]) == select(PLAN, "stage:clean")
    assert select(PLAN, [FLOW["raw"]["items"], item]) == select(PLAN, "raw.items raw.orders")
    assert select(PLAN, FLOW["raw"]["items"]) == select(PLAN, "raw.items")


@pytest.mark.parametrize("nothing", [(), [], "", ["  "]])
def test_nothing_selected_is_the_whole_flow(nothing: Any) -> None:
    selection = select(PLAN, nothing)
    assert selection == everything(PLAN)
    assert selection.nodes(PLAN) == tuple(node.id for node in PLAN.nodes)


def test_a_stage_without_one_of_its_tasks_is_not_published() -> None:
    selection = select(PLAN, "stage:raw stage:other", exclude="raw.orders")
    assert chosen(selection) == (tasks("r.i o"), {"other"}, set())
    assert selection.is_unpublished(PLAN.stage_by_name["raw"])
    assert not selection.is_unpublished(PLAN.stage_by_name["other"])
    assert not selection.is_unpublished(PLAN.stage_by_name["clean"])
    assert selection.nodes(PLAN) == ("raw.items", "other.alone", "other.commit_transaction")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raw.order", r"Flow 'shop' has no task 'raw.order'. Did you mean 'raw.orders'\? What it has: clean.done"),
        ("raw", "'raw' is a stage of flow 'shop': write 'stage:raw'"),
        ("stage:rwa", r"Flow 'shop' has no stage 'rwa'. Did you mean 'raw'\? What it has: clean, inner"),
        ("tag:dayly", r"Flow 'shop' has no tag 'dayly'. Did you mean 'daily'\? What it has: big, daily, source"),
        ("stages:raw", "no task 'stages:raw'"),
        ("raw.commit_transaction", "no task 'raw.commit_transaction'"),
        ("state:modified", "There is no state 'modified'"),
        ("state:invalid+", r"'state:invalid\+' has no meaning"),
        ("+", "A part of the selection of flow 'shop' is empty"),
        ("raw.items,", "A part of the selection of flow 'shop' is empty"),
        ("stage:raw,stage:clean", "'stage:raw,stage:clean' selects nothing of flow 'shop'"),
        (
            "stage:report clean.merged",
            "'report' is selected and would be published, but its task 'report.sums' reads 'clean.merged', which is",
        ),
    ],
)
def test_what_means_nothing_is_refused_with_what_would(text: str, says: str) -> None:
    with pytest.raises(SelectionError, match=says):
        select(PLAN, text)


def test_excluding_everything_is_refused() -> None:
    with pytest.raises(SelectionError, match="leaves no task of flow 'shop' to run"):
        select(PLAN, "stage:raw", exclude="tag:source")


def test_another_flows_stages_and_tasks_are_refused() -> None:
    with Flow("another") as another, Stage("raw"):
        task = call("orders")
    for component in (another["raw"], task):
        with pytest.raises(FlowError, match="is not in flow 'shop'"):
            select(PLAN, component)
    with pytest.raises(FlowError, match="is not in flow 'shop'"):
        select(PLAN, Stage("never_opened"))


@pytest.mark.parametrize("component", [3, None, ["stage:raw"]])
def test_other_objects_are_refused(component: Any) -> None:
    with pytest.raises(TypeError, match="Select stages, tasks or texts"):
        select(PLAN, [component])


@pytest.mark.parametrize("tag", ["", "a b", "a,b", "+a", 3])
def test_a_tag_that_could_not_be_selected_is_refused(tag: Any) -> None:
    with pytest.raises(ValueError, match=r"Stage 'x' has the tag .*: a tag is made of"):
        Stage("x", tags=[tag])
    with pytest.raises(ValueError, match=r"Task 'x' has the tag .*: a tag is made of"):
        materialize(name="x", tags=[tag])(lambda: None)


def test_tags_are_no_part_of_a_plans_identity() -> None:
    def plan(tags: Any) -> Any:
        with Flow("flow") as flow, Stage("stage", tags=tags):
            call("task", tags=tags)
        return flow.plan()

    assert plan("a").fingerprint == plan(()).fingerprint
    assert plan(["b", "a"]).stage_by_name["stage"].tags == ("a", "b")
