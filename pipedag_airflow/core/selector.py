"""Selecting a part of a flow: one syntax for Python, the command line and Airflow.

========================  ==========================================================================================
``stage:clean``           a stage with all that is nested in it; it is published
``clean.orders``          a task, by its id as the log and Airflow show it; it runs even if it is valid
``+clean.orders``         the task and all that it depends on; with a stage: the stages that it reads
``clean.orders+``         the task and all that depends on it; with a stage: the stages that read it
``tag:nightly``           stages and tasks of that tag
``state:invalid``         what is not valid when its turn comes; with others: no task runs just because it is named
``a,b``                   what is in both
``a b``                   what is in either
========================  ==========================================================================================
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.core.naming import normalise
from pipedag_airflow.core.plan import NodeKind, Plan
from pipedag_airflow.core.stage import Stage
from pipedag_airflow.core.task import Task, TaskGetItem
from pipedag_airflow.errors import FlowError, SelectionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pipedag_airflow.core.plan import PlanStage

__all__ = ["Selection", "everything", "select"]

_EXAMPLES = "Write 'stage:x', 'x.y', '+x.y', 'x.y+', 'tag:t' or 'state:invalid'; a comma stands for \"and\"."


@attrs.frozen
class Selection:
    """What a run executes and publishes.

    Args:
        tasks: Ids of the tasks that may run. Of all others the published results are read.
        stages: Names of the stages that are published: those that are selected as a whole.
        forced: Ids of the tasks that run even if they are valid: those that are selected as single tasks.
    """

    tasks: frozenset[str]
    stages: frozenset[str]
    forced: frozenset[str] = frozenset()

    def of(self, stage: PlanStage) -> tuple[str, ...]:
        """Return the ids of the selected tasks of a stage, in plan order."""
        return tuple(node for node in stage.tasks if node in self.tasks)

    def is_unpublished(self, stage: PlanStage) -> bool:
        """Say whether tasks of a stage are selected, but not the stage: their results stay in this run."""
        return stage.name not in self.stages and not self.tasks.isdisjoint(stage.tasks)

    def nodes(self, plan: Plan) -> tuple[str, ...]:
        """Return the ids of all nodes to run, commits included, in plan order."""
        return tuple(
            node.id
            for node in plan.nodes
            if node.id in self.tasks or (node.kind is NodeKind.COMMIT and node.stage in self.stages)
        )


@attrs.frozen
class _Term:
    """What one word selects: tasks, and the stages among them that are meant as a whole."""

    tasks: frozenset[str]
    stages: frozenset[str] = frozenset()
    only_invalid: bool = False


def everything(plan: Plan) -> Selection:
    """Return the selection of the whole flow."""
    return Selection(_all_tasks(plan), frozenset(plan.stage_by_name))


def select(plan: Plan, components: Any = (), exclude: Any = ()) -> Selection:
    """Return what a run of the given components executes and publishes.

    Args:
        plan: The plan of the flow.
        components: Texts in the syntax above, stages, tasks and references into their results, one or several of them:
            whatever one of them selects is selected. None of them stands for the whole flow.
        exclude: Likewise, what is left out.

    Raises:
        SelectionError: if a text means nothing in this flow, nothing is selected, or a stage would be published with
            results in it that are not.
        FlowError: if a stage or task is of another flow.
        TypeError: if a component is something else.
    """
    parts = list(_parts(plan, components)) or [everything(plan)]
    excluded = frozenset[str]().union(*(part.tasks for part in _parts(plan, exclude)))
    selection = Selection(
        frozenset[str]().union(*(part.tasks for part in parts)) - excluded,
        frozenset(
            name for part in parts for name in part.stages if excluded.isdisjoint(plan.stage_by_name[name].tasks)
        ),
        frozenset[str]().union(*(part.forced for part in parts)) - excluded,
    )
    if excluded and not selection.tasks and not selection.stages:
        raise SelectionError(f"The selection leaves no task of flow {plan.flow!r} to run: all of it is excluded.")
    _check_publishable(plan, selection)
    return selection


def _parts(plan: Plan, components: Any) -> Iterator[Selection]:
    # A task can be iterated, too.
    single = isinstance(components, (str, Task, TaskGetItem, Stage))
    for component in [components] if single else components:
        if isinstance(component, str):
            yield from (_conjunction(plan, text) for text in component.split())
        elif isinstance(component, Stage):
            _check_flow(plan, component, component.name in plan.stage_by_name)
            yield _selection(plan, [_stages(plan, [component.name])])
        elif isinstance(component, (Task, TaskGetItem)):
            task = component.task if isinstance(component, TaskGetItem) else component
            _check_flow(plan, task, task.id in plan.node_by_id)
            yield _selection(plan, [_Term(frozenset([task.id]))])
        else:
            raise TypeError(f"Select stages, tasks or texts like 'stage:x' and 'x.y', not {component!r}.")


def _check_flow(plan: Plan, component: Stage | Task, known: bool) -> None:
    if not known or component.flow is None or component.flow.name != plan.flow:
        raise FlowError(f"{component!r} is not in flow {plan.flow!r}: select stages and tasks of the flow that is run.")


def _conjunction(plan: Plan, text: str) -> Selection:
    selection = _selection(plan, [_term(plan, word) for word in text.split(",")])
    if not selection.tasks and not selection.stages:
        raise SelectionError(f"{text!r} selects nothing of flow {plan.flow!r}: no task is in all of it.")
    return selection


def _selection(plan: Plan, terms: list[_Term]) -> Selection:
    tasks = frozenset.intersection(*(term.tasks for term in terms))
    stages = frozenset.intersection(*(term.stages for term in terms))
    if any(term.only_invalid for term in terms):
        return Selection(tasks, stages)
    return Selection(tasks, stages, tasks - _tasks_of(plan, stages))


def _term(plan: Plan, word: str) -> _Term:
    upstream, downstream = word.startswith("+"), word.endswith("+")
    name = word.removeprefix("+").removesuffix("+")
    method, colon, value = name.partition(":")
    if not name:
        raise SelectionError(f"A part of the selection of flow {plan.flow!r} is empty. {_EXAMPLES}")
    if colon and method == "state":
        return _state(plan, value, word)
    if colon and method == "stage":
        found = _stages(plan, [_known(plan, "stage", normalise(value), plan.stage_by_name)])
    elif colon and method == "tag":
        found = _tagged(plan, value)
    else:
        found = _Term(frozenset([_task_id(plan, name)]))
    return _with_neighbours(plan, found, upstream=upstream, downstream=downstream)


def _state(plan: Plan, value: str, word: str) -> _Term:
    if value != "invalid":
        raise SelectionError(f"There is no state {value!r} to select by: the one that there is is 'state:invalid'.")
    if word != "state:invalid":
        raise SelectionError(
            f"{word!r} has no meaning: whatever reads something that is made anew is judged when its turn comes, and "
            "runs if it is not valid then. Write 'state:invalid'."
        )
    whole = everything(plan)
    return _Term(whole.tasks, whole.stages, only_invalid=True)


def _task_id(plan: Plan, name: str) -> str:
    if name in plan.stage_by_name:
        raise SelectionError(f"{name!r} is a stage of flow {plan.flow!r}: write 'stage:{name}'.")
    return _known(plan, "task", name, _all_tasks(plan))


def _known(plan: Plan, kind: str, name: str, known: Iterable[str]) -> str:
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    names = ", ".join(sorted(known)) or "none"
    raise SelectionError(f"Flow {plan.flow!r} has no {kind} {name!r}.{hint} What it has: {names}. {_EXAMPLES}")


def _tagged(plan: Plan, tag: str) -> _Term:
    tags = {known for stage in plan.stages for known in stage.tags} | {
        known for node in plan.nodes for known in node.tags
    }
    _known(plan, "tag", tag, tags)
    stages = _stages(plan, [stage.name for stage in plan.stages if tag in stage.tags])
    return _Term(stages.tasks | {node.id for node in plan.nodes if tag in node.tags}, stages.stages)


def _all_tasks(plan: Plan) -> frozenset[str]:
    return frozenset(node for stage in plan.stages for node in stage.tasks)


def _tasks_of(plan: Plan, stages: Iterable[str]) -> frozenset[str]:
    return frozenset(node for name in stages for node in plan.stage_by_name[name].tasks)


def _stages(plan: Plan, names: Iterable[str]) -> _Term:
    """Return stages as wholes, with all that is nested in them."""
    outer = set(names)
    found = frozenset(
        stage.name for stage in plan.stages if stage.name in outer or not outer.isdisjoint(plan.enclosing(stage.name))
    )
    return _Term(_tasks_of(plan, found), found)


def _with_neighbours(plan: Plan, term: _Term, *, upstream: bool, downstream: bool) -> _Term:
    """Add what a term depends on, and what depends on it: stages to stages, tasks to tasks."""
    single = term.tasks - _tasks_of(plan, term.stages)
    stages, tasks = set(term.stages), set(single)
    if upstream:
        stages |= _reachable(term.stages, lambda name: _stages_read(plan, name))
        tasks |= _reachable(single, lambda node: plan.node_by_id[node].inputs)
    if downstream:
        stages |= _reachable(term.stages, lambda name: _stages(plan, plan.readers[name]).stages)
        tasks |= _reachable(single, lambda node: _task_readers(plan, node))
    whole = _stages(plan, stages)
    return _Term(whole.tasks | tasks, whole.stages)


def _stages_read(plan: Plan, name: str) -> frozenset[str]:
    return _stages(plan, plan.stage_by_name[name].reads).stages


def _task_readers(plan: Plan, node: str) -> list[str]:
    return [reader.id for reader in plan.nodes if node in reader.inputs]


def _reachable(start: Iterable[str], neighbours: Callable[[str], Iterable[str]]) -> set[str]:
    found, waiting = set(start), list(start)
    while waiting:
        new = set(neighbours(waiting.pop())) - found
        found |= new
        waiting += new
    return found


def _check_publishable(plan: Plan, selection: Selection) -> None:
    """Refuse a stage that would be published with something made from results that are not.

    Readers would see it beside older tables of the stage that it was made from.
    """
    for node in plan.nodes:
        if node.kind is not NodeKind.TASK or node.stage not in selection.stages:
            continue
        for source in node.inputs:
            stage = plan.node_by_id[source].stage
            if source in selection.tasks and stage not in selection.stages:
                raise SelectionError(
                    f"Stage {node.stage!r} is selected and would be published, but its task {node.id!r} reads "
                    f"{source!r}, which is selected as a single task, so that stage {stage!r} is not published. Select "
                    f"'stage:{stage}' as a whole, or tasks of stage {node.stage!r} instead of all of it."
                )
