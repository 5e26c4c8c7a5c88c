"""A flow as a graph for Graphviz: a cluster per stage, a node per task, an edge from each task to those that read it.

Stages, tasks and edges stand in the order of the plan, so the same flow gives the same text in every process.
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipedag_airflow.errors import FlowError, MissingExtraError
from pipedag_airflow.run.result import FinalTaskState

if TYPE_CHECKING:
    import pydot

    from pipedag_airflow.core.flow import Flow
    from pipedag_airflow.core.plan import PlanGroup, PlanStage
    from pipedag_airflow.core.task import Task
    from pipedag_airflow.run.result import Result

__all__ = ["draw"]

_FILL = {
    FinalTaskState.COMPLETED: "#adef9b",
    FinalTaskState.CACHE_VALID: "#e8ffc6",
    FinalTaskState.FAILED: "#ff453a",
    FinalTaskState.UNKNOWN: "white",
}
_SELECTED = {"color": "black", "fontcolor": "black"}
_UNSELECTED = {"color": "grey", "fontcolor": "grey"}
# What XML, and so SVG, cannot hold.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ufffe\uffff]")


def draw(flow: Flow, result: Result | None = None) -> pydot.Dot:
    """Draw a flow.

    Args:
        flow: The flow.
        result: A run of the flow: tasks are filled by what became of them, and what was not selected is dashed.

    Raises:
        MissingExtraError: if pydot is not installed.
        FlowError: if the result is that of another flow.
    """
    picture = _Picture(_pydot(), flow, result)
    plan = flow.plan()
    graph = picture.graph()
    boxes: dict[str, pydot.Subgraph] = {}

    def home(group: str | None, stage: str | None) -> Any:
        """Return what stands in no box of its own: the box of a group, made on first use, of a stage, or the graph."""
        if group is None:
            return graph if stage is None else boxes[stage]
        if group not in boxes:
            planned = plan.group_by_id[group]
            boxes[group] = picture.box(planned)
            home(planned.parent, planned.stage).add_subgraph(boxes[group])
        return boxes[group]

    for stage in plan.stages:  # an enclosing stage stands before those in it
        boxes[stage.name] = picture.cluster(stage)
        home(stage.group, stage.parent).add_subgraph(boxes[stage.name])
        for node in stage.tasks:
            home(plan.node_by_id[node].group, stage.name).add_node(picture.node(flow.tasks[node]))
    for stage in plan.stages:
        for node in stage.tasks:
            for source in plan.node_by_id[node].inputs:
                graph.add_edge(picture.edge(source, node))
    return graph


def _pydot() -> Any:
    try:
        return import_module("pydot")
    except ImportError as error:
        raise MissingExtraError(
            "Pictures of flows need pydot, which is not installed: pip install 'pipedag-airflow[visualize]'."
        ) from error


class _Picture:
    """Makes the parts of the graph."""

    def __init__(self, pydot: Any, flow: Flow, result: Result | None) -> None:
        self.pydot = pydot
        self.flow = flow
        self.states: dict[str, FinalTaskState] = {}
        self.reasons: dict[str, str] = {}
        self.selected = set(flow.plan().node_by_id)
        if result is not None:
            _check_same_flow(flow, result)
            self.selected = set(result.subflow)
            self.states = {task.id: state for task, state in result.task_states.items()}
            self.reasons = {task.id: decision.reason.value for task, decision in result.decisions.items()}

    def graph(self) -> pydot.Dot:
        graph: pydot.Dot = self.pydot.Dot(
            _quoted(self.flow.name), graph_type="digraph", rankdir="LR", fontname="sans-serif"
        )
        graph.set_node_defaults(shape="box", style='"filled,rounded"', fillcolor="white", fontname="sans-serif")
        return graph

    def cluster(self, stage: PlanStage) -> pydot.Subgraph:
        selected = not self.selected.isdisjoint({stage.commit, *stage.tasks})
        # A cluster passes its style on to those in it: so each has one of its own.
        cluster: pydot.Subgraph = self.pydot.Subgraph(
            _quoted(f"cluster_{stage.name}"),
            label=_quoted(stage.name),
            tooltip=_tooltip(stage.name),
            style='"rounded"' if selected else '"rounded,dashed"',
            **(_SELECTED if selected else _UNSELECTED),
        )
        return cluster

    def box(self, group: PlanGroup) -> pydot.Subgraph:
        selected = not self.selected.isdisjoint(group.tasks)
        label = group.label or ""
        style = ["rounded", *(["bold"] if group.ordering_barrier else []), *([] if selected else ["dashed"])]
        box: pydot.Subgraph = self.pydot.Subgraph(
            _quoted(f"cluster_{group.id}"),
            label=_quoted(label),
            tooltip=_tooltip(f"{label}\nordering barrier" if group.ordering_barrier else label),
            style=f'"{",".join(style)}"',
            **(_SELECTED if selected else _UNSELECTED),
        )
        return box

    def node(self, task: Task) -> pydot.Node:
        look = {"fillcolor": _quoted(_FILL[self.states.get(task.id, FinalTaskState.UNKNOWN)])}
        if task.id not in self.selected:
            look = {"style": '"rounded,dashed"', **_UNSELECTED}
        label, tooltip = task.id.removeprefix(f"{task.stage.name}."), "\n".join(self._facts(task))
        node: pydot.Node = self.pydot.Node(_quoted(task.id), label=_quoted(label), tooltip=_tooltip(tooltip), **look)
        return node

    def edge(self, source: str, reader: str) -> pydot.Edge:
        look = {} if {source, reader} <= self.selected else {"style": "dashed", "color": "grey"}
        edge: pydot.Edge = self.pydot.Edge(_quoted(source), _quoted(reader), **look)
        return edge

    def _facts(self, task: Task) -> list[str]:
        """Return the lines of a task's tooltip."""
        unbound = task.unbound
        kind = ["lazy"] if unbound.lazy else []
        if unbound.version is not None:
            kind.append(f"version {unbound.version}")
        facts = [task.id, ", ".join(kind) or "no version"]
        if unbound.fn.__doc__ and unbound.fn.__doc__ != type(unbound.fn).__doc__:
            facts += inspect.cleandoc(unbound.fn.__doc__).splitlines()[:1]
        if task.id in self.states:
            # The reason's kind alone: its detail shows values of arguments, which a link would take to a server.
            reason = self.reasons.get(task.id, "valid")
            outcome = self.states[task.id].value if reason == "valid" else f"{self.states[task.id].value}: {reason}"
            facts.append(outcome.replace("_", " "))
        return facts


def _check_same_flow(flow: Flow, result: Result) -> None:
    if result.flow.plan().fingerprint != flow.plan().fingerprint:
        raise FlowError(
            f"The flow {flow.name!r} cannot be drawn with a result of flow {result.flow.name!r}: its stages, tasks or "
            "arguments are others. Use result.visualize(), which draws the flow that was run."
        )


def _tooltip(text: str) -> str:
    """Quote a text for a tooltip, in which Graphviz looks for escapes twice."""
    return _quoted(text, backslash="\\" * 4)


def _quoted(text: str, backslash: str = "\\" * 2) -> str:
    """Quote a name or text for DOT, so that nothing in it means anything to Graphviz or pydot."""
    printable = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text.encode("utf-8", "replace").decode())
    escaped = printable.replace("&", "&amp;").replace("\\", backslash).replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
