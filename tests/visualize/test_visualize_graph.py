"""Rule 9.1: what the picture of a flow shows, read from the SVG that Graphviz draws of it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipedag_airflow import Flow, GroupNode, Stage, materialize
from pipedag_airflow.errors import FlowError, MissingExtraError
from pipedag_airflow.run.result import FinalTaskState
from pipedag_airflow.visualize.graph import _FILL, _quoted, _tooltip

if TYPE_CHECKING:
    import pydot

SVG = "{http://www.w3.org/2000/svg}"
TOOLTIP = "{http://www.w3.org/1999/xlink}title"


@dataclass(frozen=True)
class Shape:
    """A box, frame or arrow as it is drawn; its name is the id in the plan."""

    text: str
    tooltip: str
    fill: str
    line: str
    dashed: bool
    bold: bool


def drawn(graph: pydot.Dot) -> dict[str, Shape]:
    """Let Graphviz draw the graph and return its shapes by their names."""
    root = ET.fromstring(
        subprocess.run(["dot", "-Tsvg"], input=graph.to_string().encode(), stdout=subprocess.PIPE, check=True).stdout
    )
    shapes = {}
    for group in root.iter(f"{SVG}g"):
        if group.get("class") in {"cluster", "node", "edge"}:
            outline = next(group.iter(f"{SVG}path"))
            link = next(group.iter(f"{SVG}a"), None)
            shapes[group.findtext(f"{SVG}title")] = Shape(
                "".join(text.text for text in group.iter(f"{SVG}text")),
                "" if link is None else link.get(TOOLTIP),
                outline.get("fill"),
                outline.get("stroke"),
                outline.get("stroke-dasharray") is not None,
                outline.get("stroke-width") is not None,
            )
    return shapes


@materialize(version="1.0", nout=2)
def source():
    """Make two numbers.

    Nobody reads on.
    """
    return 1, 2


@materialize(lazy=True)
def lazy(*args):
    return 3


@materialize
def total(*args):
    return 4


def two_stages() -> Flow:
    with Flow("numbers") as flow:
        with Stage("raw"):
            one, two = source()
            other = source()
        with Stage("mart") as mart:
            last = lazy(one, {"deep": [two]}, other, mart)
            with Stage("inner"):
                total(last)
    return flow


@pytest.mark.usefixtures("dot")
class TestFlow:
    def test_stages_are_frames_tasks_are_boxes_and_arrows_follow_the_data(self):
        assert set(drawn(two_stages().visualize_pydot())) == {
            *("cluster_raw", "cluster_mart", "cluster_inner"),
            *("raw.source", "raw.source__2", "mart.lazy", "inner.total"),
            *("raw.source->mart.lazy", "raw.source__2->mart.lazy", "mart.lazy->inner.total"),
        }

    def test_two_references_into_one_result_are_one_arrow(self):
        graph = two_stages().visualize_pydot()
        assert len(graph.get_edge('"raw.source"', '"mart.lazy"')) == 1

    def test_a_nested_stage_is_within_the_frame_of_its_stage(self):
        graph = two_stages().visualize_pydot()
        (mart,) = graph.get_subgraph('"cluster_mart"')
        assert [inner.get_label() for inner in mart.get_subgraphs()] == ['"inner"']
        assert [stage.get_label() for stage in graph.get_subgraphs()] == ['"raw"', '"mart"']

    def test_a_box_tells_version_and_docstring(self):
        shapes = drawn(two_stages().visualize_pydot())
        assert shapes["raw.source"].tooltip == "raw.source\nversion 1.0\nMake two numbers."
        assert shapes["mart.lazy"].tooltip == "mart.lazy\nlazy"
        assert shapes["inner.total"].tooltip == "inner.total\nno version"
        assert (shapes["raw.source__2"].text, shapes["cluster_raw"].text) == ("source__2", "raw")

    def test_a_lazy_task_may_have_a_version_as_well(self):
        with Flow() as flow, Stage("stage"):
            materialize(lambda: 1, name="both", version="2", lazy=True)()
        assert drawn(flow.visualize_pydot())["stage.both"].tooltip == "stage.both\nlazy, version 2"

    def test_groups_are_boxes_where_they_stand_and_those_of_barriers_are_bold(self):
        with Flow() as flow, GroupNode("all"), Stage("stage"):
            numbers = source()
            with GroupNode("a <group>", ordering_barrier=True):
                total(numbers)
                with Stage("nested"):
                    total(numbers)
        graph = flow.visualize_pydot()
        shapes = drawn(graph)
        assert {name: shape.text for name, shape in shapes.items() if name.startswith("cluster")} == {
            "cluster_group_1": "all",
            "cluster_stage": "stage",
            "cluster_group_2": "a <group>",
            "cluster_nested": "nested",
        }
        assert {name for name, shape in shapes.items() if shape.bold} == {"cluster_group_2"}
        assert shapes["cluster_group_2"].tooltip == "a <group>\nordering barrier"
        (everything,) = graph.get_subgraphs()
        (stage,) = everything.get_subgraphs()
        (group,) = stage.get_subgraphs()
        assert [node.get_name() for node in group.get_nodes()] == ['"stage.total"']
        assert [inner.get_label() for inner in group.get_subgraphs()] == ['"nested"']

    def test_without_a_result_everything_is_white_and_solid(self):
        boxes = [shape for name, shape in drawn(two_stages().visualize_pydot()).items() if "->" not in name]
        assert {(box.line, box.dashed) for box in boxes} == {("black", False)}
        assert {box.fill for box in boxes} == {"none", "white"}


@pytest.mark.usefixtures("dot")
class TestResult:
    def test_tasks_are_filled_by_what_became_of_them(self, config):
        @materialize(version="1")
        def kept():
            return 1

        @materialize
        def made(before):
            return before

        @materialize
        def broken(before):
            raise ZeroDivisionError("the user's own error")

        with Flow() as flow, Stage("stage"):
            total(broken(made(kept())))
        flow.run(config=config())
        result = flow.run(config=config())

        shapes = drawn(result.visualize_pydot())
        assert {name: (shape.fill, shape.tooltip.splitlines()[-1]) for name, shape in shapes.items() if shape.text} == {
            "cluster_stage": ("none", "stage"),
            "stage.kept": ("#e8ffc6", "cache valid"),
            "stage.made": ("#adef9b", "completed: no version"),
            "stage.broken": ("#ff453a", "failed"),
            "stage.total": ("white", "unknown"),
        }
        assert drawn(flow.visualize_pydot(result)) == shapes

    def test_what_was_not_selected_is_dashed_and_grey(self, config):
        flow = two_stages()
        flow.run(config=config())
        shapes = drawn(flow.run(flow["inner"], config=config()).visualize_pydot())
        dashed = {name for name, shape in shapes.items() if shape.dashed}
        assert {name for name, shape in shapes.items() if shape.line in {"grey", "#c0c0c0"}} == dashed
        assert shapes.keys() - dashed == {"cluster_inner", "inner.total"}
        assert {shapes[name].fill for name in dashed} == {"none"}

    def test_a_result_of_another_flow_is_refused(self, config):
        result = two_stages().run(config=config())
        with Flow("other") as other, Stage("stage"):
            source()
        with pytest.raises(FlowError, match=r"'other' cannot be drawn with a result of flow 'numbers'.*result\.visual"):
            other.visualize_pydot(result)

    def test_a_result_of_the_same_flow_imported_again_is_welcome(self, config):
        result = two_stages().run(config=config())
        assert two_stages().visualize_pydot(result).to_string() == result.visualize_pydot().to_string()


def test_every_state_has_a_colour():
    assert set(_FILL) == set(FinalTaskState)


# --- names ------------------------------------------------------------------------------------------------------------

HOSTILE = [
    "<b>bold</b>",
    'quote"inside',
    'ends with "',
    "back\\slash",
    "ends with backslash\\",
    r"\N \G \l escapes",
    "&amp; & &lt;",
    "graph",
    "a:b:c",
    "a -> b; }",
    "größer 表 😀",
    '"already quoted"',
    '"]; evil [label="x',
    "/* no comment */ // # none",
]


@pytest.mark.usefixtures("dot")
@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_drawn_as_they_are(name):
    def function():
        return 1

    function.__doc__ = name
    with Flow(name) as flow, Stage(name) as stage:
        materialize(function, version=name, name="plain")()
        materialize(lambda: 1, name=name)()
    shapes = {shape.text: shape for shape in drawn(flow.visualize_pydot()).values()}
    # The only blanks of a label that Graphviz does not write as they are: it makes them not to break.
    texts = {text.replace("\N{NO-BREAK SPACE}", " "): shape for text, shape in shapes.items()}
    assert texts.keys() == {stage.name, "plain", name}
    # A Graphviz that looks for escapes once would leave every backslash double.
    assert texts["plain"].tooltip.replace("\\\\", "\\") == f"{stage.name}.plain\nversion {name}\n{name}"


@pytest.mark.usefixtures("dot")
def test_what_no_picture_can_hold_is_replaced():
    with Flow() as flow, Stage("stage"):
        materialize(lambda: 1, name="nul\0 bell\a lone \ud800")()
    (box,) = (shape for shape in drawn(flow.visualize_pydot()).values() if shape.text != "stage")
    assert box.text.replace("\N{NO-BREAK SPACE}", " ") == "nul\ufffd bell\ufffd lone ?"


@given(st.text(), st.sampled_from([_quoted, _tooltip]))
def test_a_quoted_text_ends_where_its_quotes_end(text, quote):
    quoted = quote(text)
    inner = quoted[1:-1].replace("\\\\", "").replace('\\"', "").replace("\\n", "")
    assert quoted[0] == quoted[-1] == '"'
    assert not {'"', "\\", "\n"} & set(inner)


# --- order ------------------------------------------------------------------------------------------------------------

PRINTS = """
import sys
sys.path.insert(0, sys.argv[1])
from test_visualize_graph import two_stages
print(two_stages().visualize_pydot().to_string())
"""


def test_the_text_is_the_same_in_every_process():
    texts = {
        subprocess.run(
            [sys.executable, "-c", PRINTS, Path(__file__).parent],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2", "3")
    }
    assert texts == {two_stages().visualize_pydot().to_string().strip()}


def test_without_pydot_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydot", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pipedag-airflow\[visualize\]'"):
        two_stages().visualize_pydot()
