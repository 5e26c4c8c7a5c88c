"""Which flow, which stages and which groups are open in a ``with`` block right now."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipedag_airflow.core.flow import Flow
    from pipedag_airflow.core.group_node import GroupNode
    from pipedag_airflow.core.stage import Stage
    from pipedag_airflow.core.task import Task, TaskGetItem

__all__ = [
    "close_flow",
    "close_group",
    "close_stage",
    "current_flow",
    "current_group",
    "current_stage",
    "open_flow",
    "open_group",
    "open_stage",
    "own",
]

_flow: ContextVar[Flow | None] = ContextVar("flow", default=None)
_stages: ContextVar[tuple[Stage, ...]] = ContextVar("stages", default=())
_groups: ContextVar[tuple[GroupNode, ...]] = ContextVar("groups", default=())


#: Returns the flow whose ``with`` block is open, if any. It is asked for each attribute of each task, so it is no
#: function of Python's.
current_flow = _flow.get


def current_stage() -> Stage | None:
    """Return the innermost open stage, if any."""
    stages = _stages.get()
    return stages[-1] if stages else None


def current_group() -> GroupNode | None:
    """Return the innermost open group within the innermost open stage, if any."""
    groups = _groups.get()
    return groups[-1] if groups and groups[-1].stage is current_stage() else None


def open_flow(flow: Flow) -> None:
    """Note that the flow's block was entered."""
    _flow.set(flow)
    _stages.set(())
    _groups.set(())


def close_flow() -> None:
    """Note that the flow's block was left."""
    _flow.set(None)
    _stages.set(())
    _groups.set(())


def open_stage(stage: Stage) -> None:
    """Note that the stage's block was entered."""
    _stages.set((*_stages.get(), stage))


def close_stage(stage: Stage) -> None:
    """Note that the stage's block was left."""
    _stages.set(tuple(open_stage for open_stage in _stages.get() if open_stage is not stage))


def open_group(group: GroupNode) -> None:
    """Note that the group's block was entered."""
    _groups.set((*_groups.get(), group))


def close_group(group: GroupNode) -> None:
    """Note that the group's block was left."""
    _groups.set(tuple(open_group for open_group in _groups.get() if open_group is not group))


def own(reference: Task | TaskGetItem, name: str) -> Any:
    """Return an attribute of a task itself, also while its flow is open and ``task.name`` is a field of its result."""
    return object.__getattribute__(reference, name)
