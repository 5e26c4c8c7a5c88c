"""The edges of a DAG: which operators come before which others."""

from __future__ import annotations

from collections import defaultdict
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

from pipedag_airflow.core.plan import BEGIN_TASK

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipedag_airflow.core.plan import Plan, PlanStage

__all__ = ["contracted_edges", "reduced_edges", "stage_edges"]

Edges = set[tuple[str, str]]


def stage_edges(plan: Plan) -> Edges:
    """Return the edges of a DAG in which each step is an operator, before redundant ones are left out."""
    edges: Edges = set()
    for stage in plan.stages:
        if not stage.tasks:
            continue
        begin = f"{stage.name}.{BEGIN_TASK}"
        edges.add((begin, stage.commit))
        edges.update((outer, begin) for outer in _nearest_begin(plan, stage))
        edges.update((commit, stage.commit) for commit in _nested_commits(plan, stage))
        for node in map(plan.node_by_id.__getitem__, stage.tasks):
            edges.add((begin, node.id))
            edges.add((node.id, stage.commit))
            edges.update(_input_edge(plan, stage, node.id, source) for source in node.inputs)
            edges.update((other, node.id) for other in node.waits_for)
    return edges


def contracted_edges(edges: Edges, into: Mapping[str, str]) -> Edges:
    """Let nodes take the places of others.

    There is no cycle: a stage's tasks stand together in the plan's order.

    Args:
        edges: The edges.
        into: Which node stands for which others.
    """
    renamed = ((into.get(source, source), into.get(target, target)) for source, target in edges)
    return {(source, target) for source, target in renamed if source != target}


def reduced_edges(edges: Edges) -> Edges:
    """Leave out the edges that a longer way makes redundant: the scheduler walks every edge in every loop."""
    downstream: dict[str, set[str]] = defaultdict(set)
    for source, target in edges:
        downstream[source].add(target)
    rank: dict[str, int] = {}
    reach: dict[str, int] = {}  # sets of ranks, as bits
    kept: Edges = set()
    # What comes last has the lowest rank, so a longer way to a target begins with one of a higher rank.
    for place, source in enumerate(TopologicalSorter(downstream).static_order()):
        reached = 0
        for target in sorted(downstream.get(source, ()), key=rank.__getitem__, reverse=True):
            if not reached >> rank[target] & 1:
                reached |= reach[target]
                kept.add((source, target))
        rank[source], reach[source] = place, reached | 1 << place
    return kept


def _input_edge(plan: Plan, stage: PlanStage, node: str, source: str) -> tuple[str, str]:
    """Return the edge that makes a task wait for an input."""
    producer = plan.stage_by_name[plan.node_by_id[source].stage]
    if producer is stage:
        return source, node
    begin = f"{stage.name}.{BEGIN_TASK}"
    if plan.is_inside(stage.name, producer.name):
        return source, begin
    return producer.commit, node if plan.is_inside(producer.name, stage.name) else begin


def _nearest_begin(plan: Plan, stage: PlanStage) -> Iterable[str]:
    for name in plan.enclosing(stage.name):
        if plan.stage_by_name[name].tasks:
            return [f"{name}.{BEGIN_TASK}"]
    return []


def _nested_commits(plan: Plan, stage: PlanStage) -> Iterable[str]:
    return [other.commit for other in plan.stages if other.tasks and plan.is_inside(other.name, stage.name)]
