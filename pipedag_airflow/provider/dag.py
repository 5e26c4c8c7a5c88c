"""The compiler from a plan to a DAG.

Per stage a TaskGroup: ``begin_transaction`` → tasks → ``commit_transaction``. Across stages the commit of the producer
comes before the begin of the consumer, so that begin knows all outside inputs. The begin of a nested stage follows the
begin of the stage around it and the tasks there that it reads; whoever reads nested results follows the nested commit.

Compiling touches no database, no file but pipedag.yaml, and calls no function of the user's: every task's process
does it again.
"""

from __future__ import annotations

import datetime as dt
import inspect
import re
from typing import TYPE_CHECKING, Any

import attrs
from airflow.sdk import DAG, BaseOperator, TaskGroup

from pipedag_airflow.config import PipedagConfig
from pipedag_airflow.core.plan import BEGIN_TASK, Plan, PlanStage
from pipedag_airflow.errors import ConfigError, FlowError
from pipedag_airflow.provider.operators import (
    BeginTransactionOperator,
    CommitTransactionOperator,
    FlowReference,
    MaterializeOperator,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipedag_airflow.core.flow import Flow

__all__ = ["compile_dag", "stage_edges"]

# What Airflow takes as an id of DAGs and tasks, and, more strictly, of groups.
_ID = re.compile(r"[\w.-]{1,250}")
_GROUP_ID = re.compile(r"[\w-]{1,200}")
_START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def compile_dag(flow: Flow, dag_args: Mapping[str, Any]) -> DAG:
    """Compile a flow to a DAG of its name.

    Args:
        flow: The flow.
        dag_args: Arguments of ``airflow.sdk.DAG``; they win over the ``airflow`` section of pipedag.yaml.

    Raises:
        FlowError: if a name cannot be an id in Airflow.
        ConfigError: if pipedag.yaml cannot be used.
    """
    plan = flow.plan()
    _check_ids(plan)
    folder = flow.file.parent if flow.file is not None else None
    settings = PipedagConfig.find(folder).airflow_settings(flow.name)
    reference = FlowReference(flow, settings.pop("instance", None))
    with DAG(**(_dag_arguments(flow, settings) | dict(dag_args))) as dag:
        if flow.file is not None:
            dag.fileloc = str(flow.file)
        _Compiler(flow, plan, reference, dag).compile()
    return dag


def _check_ids(plan: Plan) -> None:
    """Refuse names that Airflow would refuse with an error that says neither flow nor stage."""
    letters = "letters, digits, dashes and underscores"
    for stage in plan.stages:
        _check_id(plan, f"stage {stage.name!r}", stage.name, _GROUP_ID, f"{letters}, 200 at most")
    ids = [("flow", plan.flow), *((f"stage {node.stage!r}: task", node.id) for node in plan.nodes)]
    for what, name in ids:
        _check_id(plan, f"{what} {name!r}", name, _ID, f"{letters}, and dots, 250 at most")


def _check_id(plan: Plan, what: str, name: str, accepted: re.Pattern[str], rule: str) -> None:
    if accepted.fullmatch(name) is None:
        raise FlowError(
            f"Flow {plan.flow!r} cannot become a DAG: the {what} has a name that Airflow does not take. Use {rule}."
        )


def _dag_arguments(flow: Flow, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the DAG that pipedag.yaml and our defaults give."""
    default_args = dict(settings.pop("default_args", None) or {})
    for key in ("owner", "retries", "pool", "queue"):
        if settings.get(key) is not None:
            default_args[key] = settings[key]
        settings.pop(key, None)
    delay = settings.pop("retry_delay_seconds", None)
    if delay is not None:
        default_args["retry_delay"] = dt.timedelta(seconds=delay)
    arguments: dict[str, Any] = {
        "dag_id": flow.name,
        "schedule": None,
        "catchup": False,
        # Two runs of one flow would only wait for each other's stages; queued runs are visible in the UI.
        "max_active_runs": 1,
        "default_args": default_args,
    }
    arguments |= {key: value for key, value in settings.items() if value is not None}
    arguments["start_date"] = _start_date(flow, arguments.get("start_date"))
    arguments["tags"] = sorted({"pipedag", *arguments.get("tags", ())})
    return arguments


def _start_date(flow: Flow, value: Any) -> dt.datetime:
    if value is None:
        return _START
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError as error:
            raise ConfigError(f"airflow.start_date of flow {flow.name!r} is no date: {value!r}") from error
    if not isinstance(value, dt.datetime):
        return dt.datetime(value.year, value.month, value.day, tzinfo=dt.UTC)
    return value if value.tzinfo is not None else value.replace(tzinfo=dt.UTC)


@attrs.define
class _Compiler:
    flow: Flow
    plan: Plan
    reference: FlowReference
    dag: DAG
    operators: dict[str, BaseOperator] = attrs.field(factory=dict)
    groups: dict[str, TaskGroup] = attrs.field(factory=dict)

    def compile(self) -> None:
        for stage in self.plan.stages:
            self._add_stage(stage)
        for upstream, downstream in sorted(_reduced(stage_edges(self.plan), list(self.operators))):
            self.operators[upstream].set_downstream(self.operators[downstream])

    def _add_stage(self, stage: PlanStage) -> None:
        parent = self.groups.get(stage.parent) if stage.parent is not None else self.dag.task_group
        group = TaskGroup(stage.name, prefix_group_id=False, parent_group=parent, dag=self.dag)
        self.groups[stage.name] = group
        if not stage.tasks:
            return
        begin = f"{stage.name}.{BEGIN_TASK}"
        common: dict[str, Any] = {
            "reference": self.reference,
            "stage": stage.name,
            "task_group": group,
            "dag": self.dag,
        }
        self.operators[begin] = BeginTransactionOperator(task_id=begin, task_display_name=BEGIN_TASK, **common)
        for node in stage.tasks:
            task = self.flow.tasks[node]
            label = node.removeprefix(f"{stage.name}.")
            self.operators[node] = MaterializeOperator(
                task_id=node, task_display_name=label, doc_md=inspect.getdoc(task.unbound.fn), **common
            )
        self.operators[stage.commit] = CommitTransactionOperator(
            task_id=stage.commit, task_display_name=stage.commit.removeprefix(f"{stage.name}."), **common
        )


def stage_edges(plan: Plan) -> set[tuple[str, str]]:
    """Return the edges of the DAG, before redundant ones are left out."""
    edges: set[tuple[str, str]] = set()
    for stage in plan.stages:
        if not stage.tasks:
            continue
        begin = f"{stage.name}.{BEGIN_TASK}"
        edges.add((begin, stage.commit))
        edges |= {(outer, begin) for outer in _nearest_begin(plan, stage)}
        edges |= {(commit, stage.commit) for commit in _nested_commits(plan, stage)}
        for node in stage.tasks:
            edges |= {(begin, node), (node, stage.commit)}
            edges |= {_input_edge(plan, stage, node, source) for source in plan.node_by_id[node].inputs}
    return edges


def _input_edge(plan: Plan, stage: PlanStage, node: str, source: str) -> tuple[str, str]:
    """Return the edge that makes a task wait for an input."""
    begin = f"{stage.name}.{BEGIN_TASK}"
    producer = plan.stage_by_name[plan.node_by_id[source].stage]
    if producer.name == stage.name:
        return source, node
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


def _reduced(edges: set[tuple[str, str]], order: list[str]) -> set[tuple[str, str]]:
    """Leave out the edges that a longer way makes redundant: the scheduler walks every edge in every loop."""
    downstream: dict[str, set[str]] = {name: set() for name in order}
    for source, target in edges:
        downstream[source].add(target)
    bit = {name: 1 << index for index, name in enumerate(order)}
    reach: dict[str, int] = {}

    def reachable(name: str) -> int:
        # Iterative: a chain of tasks may be longer than Python's recursion limit.
        stack = [name]
        while stack:
            top = stack[-1]
            waiting = [target for target in downstream[top] if target not in reach]
            if waiting:
                stack += waiting
                continue
            stack.pop()
            mask = bit[top]
            for target in downstream[top]:
                mask |= reach[target]
            reach[top] = mask
        return reach[name]

    kept = set()
    for source in order:
        reachable(source)
        for target in downstream[source]:
            if not any(reachable(other) & bit[target] for other in downstream[source] if other != target):
                kept.add((source, target))
    return kept
