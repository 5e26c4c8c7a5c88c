"""Ordering barriers: which tasks wait for which others, although they read nothing of theirs."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipedag_airflow.core.flow import Flow
    from pipedag_airflow.core.group_node import GroupNode
    from pipedag_airflow.core.task import Task

__all__ = ["barrier_edges"]


def barrier_edges(flow: Flow) -> dict[str, set[str]]:
    """Return for each task of a flow the ids of the tasks that a barrier puts directly before it.

    A barrier is no node of its own, because a node that does nothing would cost an orchestrator a step: the last tasks
    on one side of it come before the first ones on the other side.
    """
    before: dict[str, set[str]] = {node: set() for node in flow.tasks}
    for group in flow.groups:
        if not group.ordering_barrier:
            continue
        sides = [side for side in _sides(flow, group) if side]
        for earlier, later in pairwise(sides):
            last = _last(earlier)
            for task in _first(later):
                before[task.id] |= last
    return before


def _sides(flow: Flow, group: GroupNode) -> tuple[list[Task], list[Task], list[Task]]:
    """Return the tasks of the group's stage before the group, within it and after it."""
    sides: tuple[list[Task], list[Task], list[Task]] = ([], [], [])
    assert group.stage is not None
    for place, task in enumerate(flow.tasks.values()):
        if task.stage is group.stage or task.stage.is_inside(group.stage):
            sides[(place >= group.members.start) + (place >= group.members.stop)].append(task)
    return sides


def _last(tasks: Sequence[Task]) -> set[str]:
    """Return the ids of those that none of the others reads."""
    return {task.id for task in tasks} - {source.id for task in tasks for source in task.inputs}


def _first(tasks: Sequence[Task]) -> list[Task]:
    """Return those that read none of the others."""
    those = set(tasks)
    return [task for task in tasks if those.isdisjoint(task.inputs)]
