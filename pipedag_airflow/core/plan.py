"""The compiled form of a flow: plain immutable data that is the same in every process.

Ids are ``stage.task``, a second call of a task in its stage is ``stage.task__2``, the commit of a stage is
``stage.commit_transaction``. The nodes stand in an order in which they can run.
"""

from __future__ import annotations

from enum import Enum
from functools import cached_property
from itertools import count, zip_longest
from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.core.fingerprint import fingerprint
from pipedag_airflow.core.ordering import barrier_edges
from pipedag_airflow.core.task import Task, TaskGetItem
from pipedag_airflow.core.values import dump_identity
from pipedag_airflow.errors import FlowChangedError, UnsupportedValueError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pipedag_airflow.core.flow import Flow
    from pipedag_airflow.core.group_node import GroupNode
    from pipedag_airflow.core.stage import Stage

__all__ = [
    "BEGIN_TASK",
    "COMMIT_TASK",
    "RESERVED_TASKS",
    "NodeKind",
    "Plan",
    "PlanGroup",
    "PlanNode",
    "PlanStage",
    "compile_plan",
]

BEGIN_TASK = "begin_transaction"
COMMIT_TASK = "commit_transaction"
RESERVED_TASKS = frozenset({BEGIN_TASK, COMMIT_TASK})


class NodeKind(Enum):
    """What a node of the plan is."""

    TASK = "task"
    COMMIT = "commit"


@attrs.frozen
class PlanNode:
    """A task of the user, or the commit of a stage."""

    id: str
    name: str
    stage: str
    kind: NodeKind
    #: Ids of the tasks whose results are arguments, in the order of first use.
    inputs: tuple[str, ...]
    #: Ids of all nodes that must be over before, commits included, in plan order.
    upstream: tuple[str, ...]
    #: Where the node stands in the graph: its name, stage, literal arguments and the positions of its inputs.
    position: str
    #: What it can be selected by.
    tags: tuple[str, ...] = ()
    #: Ids of the tasks that an ordering barrier puts directly before, in plan order.
    waits_for: tuple[str, ...] = ()
    #: Id of the group that the task directly stands in.
    group: str | None = None


@attrs.frozen
class PlanStage:
    """A stage of the plan."""

    name: str
    parent: str | None
    #: Ids of the stage's own tasks, without those of nested stages.
    tasks: tuple[str, ...]
    commit: str
    #: Names of the stages whose results the stage's own tasks read, itself left out, sorted.
    reads: tuple[str, ...]
    #: What it can be selected by.
    tags: tuple[str, ...] = ()
    #: Id of the group that the stage directly stands in.
    group: str | None = None


@attrs.frozen
class PlanGroup:
    """A group of tasks or stages, which is for the eye alone: what its barrier orders is said by the nodes."""

    id: str
    label: str | None
    #: The innermost stage around the group.
    stage: str | None
    #: Id of the group that it directly stands in, within that stage.
    parent: str | None
    #: Ids of the tasks in it, those of groups and stages within it included.
    tasks: tuple[str, ...]
    ordering_barrier: bool


@attrs.frozen
class Plan:
    """All nodes and stages of a flow, in an order in which they can run."""

    flow: str
    stages: tuple[PlanStage, ...]
    nodes: tuple[PlanNode, ...]
    #: The groups, each before those in it.
    groups: tuple[PlanGroup, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of ids and wiring: two plans of equal fingerprint are the same plan."""
        return fingerprint(self.flow, *(part for node in self.nodes for part in _signature(node)))

    @cached_property
    def node_by_id(self) -> dict[str, PlanNode]:
        """The nodes by their ids."""
        return {node.id: node for node in self.nodes}

    @cached_property
    def stage_by_name(self) -> dict[str, PlanStage]:
        """The stages by their names."""
        return {stage.name: stage for stage in self.stages}

    @cached_property
    def group_by_id(self) -> dict[str, PlanGroup]:
        """The groups by their ids."""
        return {group.id: group for group in self.groups}

    @cached_property
    def readers(self) -> dict[str, tuple[str, ...]]:
        """For each stage the stages that read it, sorted; itself left out."""
        found: dict[str, list[str]] = {stage.name: [] for stage in self.stages}
        for reader in self.stages:
            for name in reader.reads:
                found[name].append(reader.name)
        return {name: tuple(sorted(readers)) for name, readers in found.items()}

    def enclosing(self, stage: str) -> tuple[str, ...]:
        """Return the stages around a stage, the innermost first."""
        found = []
        parent = self.stage_by_name[stage].parent
        while parent is not None:
            found.append(parent)
            parent = self.stage_by_name[parent].parent
        return tuple(found)

    def is_inside(self, stage: str, other: str) -> bool:
        """Say whether ``stage`` is nested in ``other``, at any depth."""
        return other in self.enclosing(stage)

    def nested(self) -> dict[str, list[str]]:
        """Return the names of the stages that are nested in others, at any depth, by the names of these."""
        found: dict[str, list[str]] = {}
        for stage in self.stages:
            for outer in self.enclosing(stage.name):
                found.setdefault(outer, []).append(stage.name)
        return found

    def check_unchanged(self, fingerprint_of_run: str, ids_of_run: Iterable[str]) -> None:
        """Compare the plan with the one that a run began with.

        Raises:
            FlowChangedError: if they differ; the message names the first node that does.
        """
        if fingerprint_of_run == self.fingerprint:
            return
        before, now = list(ids_of_run), [f"{node.id}@{node.position}" for node in self.nodes]
        pairs = ((then, present) for then, present in zip_longest(before, now) if then != present)
        difference = next((_difference(then, present) for then, present in pairs), "the nesting of the stages")
        raise FlowChangedError(
            f"The flow {self.flow!r} was changed after this run began: the first difference is {difference}. "
            "A run keeps to the plan that it began with: start a new run."
        )


def _difference(then: str | None, now: str | None) -> str:
    before, after = (None if node is None else node.rpartition("@")[0] for node in (then, now))
    if before is None or after is None:
        return f"{after!r} is new" if before is None else f"{before!r} is gone"
    return f"{before!r} has other arguments than before" if before == after else f"{before!r} then, {after!r} now"


def _signature(node: PlanNode) -> tuple[str, ...]:
    return (node.id, node.kind.value, node.position, *node.upstream)


def compile_plan(flow: Flow) -> Plan:
    """Compile a flow whose block was left.

    Every edge leads from an older node to a younger one, so a plan cannot have a cycle.

    Raises:
        UnsupportedValueError: if an argument of a task is of a type that cannot be stored.
    """
    group_ids = _group_ids(flow)
    stages = _stages(flow, group_ids)
    barriers = barrier_edges(flow)
    by_commit = {stage.commit: stage for stage in stages}
    leaves = _leaves(flow)
    rank = {node_id: index for index, node_id in enumerate(flow.order)}
    positions: dict[str, str] = {}
    nodes = []
    for node_id in flow.order:
        if node_id in by_commit:
            stage = by_commit[node_id]
            nested = [other.commit for other in stages if other.parent == stage.name]
            upstream = {*leaves[stage.name], *nested}
            position = fingerprint("commit", stage.name)
            kind, name, stage_name = NodeKind.COMMIT, COMMIT_TASK, stage.name
            inputs: tuple[str, ...] = ()
            tags: tuple[str, ...] = ()
            waits_for: set[str] = set()
            group = None
        else:
            task = flow.tasks[node_id]
            waits_for = barriers[node_id]
            upstream = _upstream(task) | waits_for
            group = group_ids.get(task.group)
            position = positions[node_id] = _position(task, positions)
            kind, name, stage_name = NodeKind.TASK, task.name, task.stage.name
            inputs = tuple(source.id for source in task.inputs)
            tags = task.unbound.tags
        ordered, waiting = (tuple(sorted(nodes, key=rank.__getitem__)) for nodes in (upstream, waits_for))
        nodes.append(PlanNode(node_id, name, stage_name, kind, inputs, ordered, position, tags, waiting, group))
    return Plan(flow.name, stages, tuple(nodes), _groups(flow, group_ids))


def _group_ids(flow: Flow) -> dict[GroupNode | None, str]:
    """Return ids that no stage has: an orchestrator may show groups of tasks and stages side by side."""
    free = (name for number in count(1) if (name := f"group_{number}") not in flow.stages)
    return {group: next(free) for group in flow.groups}


def _groups(flow: Flow, ids: dict[GroupNode | None, str]) -> tuple[PlanGroup, ...]:
    tasks = tuple(flow.tasks)
    return tuple(
        PlanGroup(
            id=ids[group],
            label=group.label,
            stage=group.stage.name if group.stage else None,
            parent=ids.get(group.parent),
            tasks=tasks[group.members.start : group.members.stop],
            ordering_barrier=group.ordering_barrier,
        )
        for group in flow.groups
    )


def _stages(flow: Flow, group_ids: dict[GroupNode | None, str]) -> tuple[PlanStage, ...]:
    return tuple(
        PlanStage(
            name=stage.name,
            parent=stage.parent.name if stage.parent else None,
            tasks=tuple(task.id for task in stage.tasks),
            commit=f"{stage.name}.{COMMIT_TASK}",
            reads=tuple(sorted({source.stage.name for task in stage.tasks for source in task.inputs} - {stage.name})),
            tags=stage.tags,
            group=group_ids.get(stage.group),
        )
        for stage in flow.stages.values()
    )


def _leaves(flow: Flow) -> dict[str, set[str]]:
    """Return for each stage the tasks in it, nested stages included, that no task in it reads."""
    inside: dict[str, set[str]] = {name: set() for name in flow.stages}
    read: dict[str, set[str]] = {name: set() for name in flow.stages}
    for stage in flow.stages.values():
        for scope in _with_those_around(stage):
            inside[scope].update(task.id for task in stage.tasks)
            read[scope].update(source.id for task in stage.tasks for source in task.inputs)
    return {name: inside[name] - read[name] for name in flow.stages}


def _with_those_around(stage: Stage | None) -> Iterator[str]:
    while stage is not None:
        yield stage.name
        stage = stage.parent


def _upstream(task: Task) -> set[str]:
    """Return the inputs, and the commits of the other stages that they belong to.

    A task of a nested stage reads the open transaction of an enclosing stage, so it does not wait for its commit.
    """
    stage, upstream = task.stage, set()
    for source in task.inputs:
        upstream.add(source.id)
        if source.stage is not stage and not stage.is_inside(source.stage):
            upstream.add(f"{source.stage.name}.{COMMIT_TASK}")
    return upstream


def _position(task: Task, positions: dict[str, str]) -> str:
    def reference(value: Any, where: str) -> Any:
        if isinstance(value, Task):
            return {"$": "task", "v": positions[value.id]}
        if isinstance(value, TaskGetItem):
            return {"$": "item", "v": positions[value.task.id], "keys": [repr(key) for key in value.keys]}
        return NotImplemented

    where = f"Task {task.id!r} of flow {task.flow.name!r}: argument"
    arguments: list[str] = []
    for name, value in sorted(task.bound.arguments.items()):
        try:
            arguments += name, dump_identity(value, f"{where} {name}", reference, task.flow.classes)
        except UnsupportedValueError as error:
            raise _with_default(error, task, name, value) from None
    return fingerprint(task.name, task.stage.name, *arguments)


def _with_default(error: UnsupportedValueError, task: Task, name: str, value: Any) -> UnsupportedValueError:
    """Return an error that says so if the argument was not given, but is the default."""
    parameter = task.unbound.signature.parameters.get(name)
    if parameter is None or parameter.default is not value:
        return error
    return type(error)(
        f"{error} It is the default of the parameter: let that be None, and replace None within the function."
    )
