"""The compiler from a plan to a DAG.

Per stage a TaskGroup: ``begin_transaction`` → tasks → ``commit_transaction``. Across stages the commit of the producer
comes before the begin of the consumer, so that begin knows all outside inputs. The begin of a nested stage follows the
begin of the stage around it and the tasks there that it reads; whoever reads nested results follows the nested commit.
A stage that runs as one operator, or has a DAG of its own, is one node, with the edges of all the nodes that it stands
for.

Compiling touches no database, no file but pipedag.yaml, and calls no function of the user's: every task's process
does it again.
"""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

import attrs
from airflow.sdk import DAG, BaseOperator, TaskGroup, get_parsing_context
from airflow.sdk.definitions.param import ParamsDict

from pipedag_airflow.core.plan import BEGIN_TASK, Plan, PlanGroup, PlanStage
from pipedag_airflow.errors import FlowError
from pipedag_airflow.provider.begin_operator import BeginTransactionOperator
from pipedag_airflow.provider.dag_runs import ReleaseStages, part_dag_id
from pipedag_airflow.provider.edges import contracted_edges, reduced_edges, stage_edges
from pipedag_airflow.provider.form import FLOW, STAGE, with_form
from pipedag_airflow.provider.granularity import Unit, units, warn_of_many
from pipedag_airflow.provider.operators import CommitTransactionOperator, MaterializeOperator, StageOperator
from pipedag_airflow.provider.reference import FlowReference
from pipedag_airflow.provider.run_operators import FlowRunOperator, StageRunOperator
from pipedag_airflow.provider.settings import Settings
from pipedag_airflow.provider.split import StageDagOperator, part_arguments, parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipedag_airflow.core.flow import Flow

__all__ = ["compile_dag", "compile_dags"]

# What Airflow takes as an id of DAGs and tasks, and, more strictly, of groups.
_ID = re.compile(r"[\w.-]{1,250}")
_GROUP_ID = re.compile(r"[\w-]{1,200}")
_LETTERS = "letters, digits, dashes and underscores"
_ID_RULE = f"{_LETTERS}, and dots, 250 at most"


def compile_dag(flow: Flow, dag_args: Mapping[str, Any]) -> DAG:
    """Compile a flow to a DAG of its name; see :func:`compile_dags`."""
    return compile_dags(flow, dag_args)[0]


def compile_dags(flow: Flow, dag_args: Mapping[str, Any]) -> tuple[DAG, ...]:
    """Compile a flow to a DAG of its name; if it is split, to a DAG for each stage as well, which follow.

    The process of a task of it goes without the DAGs of other stages.

    Args:
        flow: The flow.
        dag_args: Arguments of ``airflow.sdk.DAG``; they win over what the flow and pipedag.yaml say.

    Raises:
        FlowError: if a name cannot be an id in Airflow.
        ConfigError: if pipedag.yaml or another setting cannot be used, or a parameter has the name of one of ours.
    """
    plan = flow.plan()
    _check_ids(plan)
    settings = Settings.of(flow)
    arguments = settings.dag() | dict(dag_args)
    found = units(settings, plan)
    split = parts(settings, plan, found)
    dag = _dag(_Compiler(flow, plan, settings, FlowReference(flow, settings.instance), found, split), arguments)
    dags = [dag]
    for part in _wanted(split, dag.dag_id):
        reference = FlowReference(flow, settings.instance, part_of=dag.dag_id, part=part.id)
        of_part = part_arguments(arguments, dag.dag_id, part)
        _check_id(plan, f"DAG of the stage {part.id!r}", of_part["dag_id"], _ID, _ID_RULE)
        dags.append(_dag(_Compiler(flow, plan, settings, reference, found, part=part), of_part))
    return tuple(dags)


def _wanted(split: tuple[Unit, ...], dag_id: str) -> tuple[Unit, ...]:
    """Return the parts of a flow whose DAGs are of use to whoever parses the module."""
    # Airflow names the DAG of the task that a process is for, and leaves the name to whatever the task starts: there,
    # the name of another flow's DAG does not mean that these are of no use.
    wanted = get_parsing_context().dag_id
    known = {part_dag_id(dag_id, part.id): (part,) for part in split}
    return () if wanted == dag_id else known.get(wanted or "", split)


def _dag(compiler: _Compiler, arguments: Mapping[str, Any]) -> DAG:
    """Compile one of the DAGs of a flow; it registers itself with Airflow."""
    own = dict(arguments)
    own["on_failure_callback"] = [ReleaseStages(compiler.reference), *_callbacks(own.get("on_failure_callback"))]
    users_params = own.pop("params", None) or {}
    with DAG(**own) as dag:
        if compiler.flow.file is not None:
            dag.fileloc = str(compiler.flow.file)
        compiler.compile(dag)
        part = compiler.part is not None
        params = with_form(compiler.settings, users_params, compiler.granularities(), part=part)
        # After the operators, each of which would copy them all: a run takes them from the DAG as well.
        dag.params.update(ParamsDict(params))
    warn_of_many(dag.dag_id, len(dag.task_dict))
    return dag


def _callbacks(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]


def _check_ids(plan: Plan) -> None:
    """Refuse names that Airflow would refuse with an error that says neither flow nor stage."""
    for stage in plan.stages:
        _check_id(plan, f"stage {stage.name!r}", stage.name, _GROUP_ID, f"{_LETTERS}, 200 at most")
    ids = [("flow", plan.flow), *((f"stage {node.stage!r}: task", node.id) for node in plan.nodes)]
    for what, name in ids:
        _check_id(plan, f"{what} {name!r}", name, _ID, _ID_RULE)


def _check_id(plan: Plan, what: str, name: str, accepted: re.Pattern[str], rule: str) -> None:
    if accepted.fullmatch(name) is None:
        raise FlowError(
            f"Flow {plan.flow!r} cannot become a DAG: the {what} has a name that Airflow does not take. Use {rule}."
        )


@attrs.define
class _Compiler:
    """Fills one DAG.

    Args:
        flow: The flow.
        plan: Its plan.
        settings: What is said of it.
        reference: What its operators know of it.
        units: What runs as one operator, by the names of the stages.
        split: The parts of the flow that have DAGs of their own, in that of the flow; each is one operator here.
        part: The part that the DAG is of; None for the flow's.
    """

    flow: Flow
    plan: Plan
    settings: Settings
    reference: FlowReference
    units: Mapping[str, Unit]
    split: tuple[Unit, ...] = ()
    part: Unit | None = None
    dag: DAG = attrs.field(init=False)
    operators: dict[str, BaseOperator] = attrs.field(factory=dict, init=False)
    groups: dict[str, TaskGroup] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self.units = {**self.units, **{stage.name: part for part in self.split for stage in part.stages}}

    def compile(self, dag: DAG) -> None:
        self.dag = dag
        for stage in self.plan.stages if self.part is None else self.part.stages:
            unit = self.units.get(stage.name)
            if unit is None:
                self._add_stage(stage)
            elif unit.stages[0] is stage and unit.has_tasks:
                self._add_unit(unit)
        for group in self.plan.groups:
            if self._has_group(group):
                self._group(group.id)
        edges = stage_edges(self.plan)
        if self.units:
            edges = contracted_edges(edges, self._node_of_units())
        if self.part is not None:
            edges = {edge for edge in edges if self.operators.keys() >= set(edge)}
        for upstream, downstream in reduced_edges(edges):
            # Not by set_downstream(), which looks at all operators of the DAG, twice for each edge.
            self.operators[upstream].downstream_task_ids.add(downstream)
            self.operators[downstream].upstream_task_ids.add(upstream)

    def granularities(self) -> list[str]:
        """Return what a run may ask begins to run by themselves; to be called after compiling."""
        begins = [operator for operator in self.operators.values() if isinstance(operator, BeginTransactionOperator)]
        first = [operator for operator in self.operators.values() if not operator.upstream_task_ids]
        if self.split:
            return [STAGE]  # for the begins in the DAGs of the stages
        if not begins:
            return []
        if self.part is not None or first != begins[:1]:
            return [STAGE]
        # It then tells of all that is published.
        first[0].outlets = [self.settings.alias(stage.name) for stage in self.plan.stages if stage.tasks]
        return [STAGE, FLOW]

    def _add_stage(self, stage: PlanStage) -> None:
        group = TaskGroup(
            stage.name,
            prefix_group_id=False,
            parent_group=self._home(stage.group, stage.parent),
            dag=self.dag,
            **self.settings.group(stage),
        )
        self.groups[stage.name] = group
        if not stage.tasks:
            return
        begin = f"{stage.name}.{BEGIN_TASK}"
        common = self.settings.operators(stage.name)
        ends = common | {"outlets": [self.settings.alias(stage.name)]}
        reads = [self.settings.asset(name) for name in stage.reads]
        within = [other.name for other in self.plan.stages if self.plan.is_inside(other.name, stage.name)]
        aliases = [self.settings.alias(name) for name in (stage.name, *within)]
        self._add(BeginTransactionOperator, begin, stage, group, **common, outlets=aliases, inlets=reads)
        for node in stage.tasks:
            documents = {"doc_md": inspect.getdoc(self.flow.tasks[node].unbound.fn)}
            home = self._home(self.plan.node_by_id[node].group, stage.name)
            self._add(MaterializeOperator, node, stage, home, **documents | self.settings.operator(node))
        self._add(CommitTransactionOperator, stage.commit, stage, group, **ends)

    def _add_unit(self, unit: Unit) -> None:
        first = unit.stages[0]
        home = self.dag.task_group if unit.whole_flow else self._home(first.group, first.parent)
        arguments = self.settings.unit(unit)
        outlets = [self.settings.alias(stage.name) for stage in unit.stages if stage.tasks]
        inlets = [self.settings.asset(name) for name in unit.reads]
        kind = StageDagOperator if unit in self.split else FlowRunOperator if unit.whole_flow else StageRunOperator
        self._add(kind, unit.id, first, home, **arguments, outlets=outlets, inlets=inlets)
        for name, colour in self.settings.colours(unit).items():
            setattr(self.operators[unit.id], name, colour)

    def _has_group(self, group: PlanGroup) -> bool:
        """Say whether a group of the user's is shown: what is in it has operators of its own in this DAG."""
        if any(unit.whole_flow for unit in self.units.values()) or group.stage in self.units:
            return False
        return self.part is None or group.stage in {stage.name for stage in self.part.stages}

    def _node_of_units(self) -> dict[str, str]:
        """Return the operators that stand for the nodes of others."""
        return {node: unit.id for name, unit in self.units.items() for node in _nodes(self.plan.stage_by_name[name])}

    def _add(
        self, kind: type[StageOperator], node: str, stage: PlanStage, group: TaskGroup | None, **arguments: Any
    ) -> None:
        label = {"task_display_name": node.removeprefix(f"{stage.name}.")}
        self.operators[node] = kind(
            task_id=node,
            reference=self.reference,
            stage=stage.name,
            dag=self.dag,
            task_group=group,
            **label | arguments,
        )

    def _home(self, group: str | None, stage: str | None) -> TaskGroup | None:
        """Return the group of Airflow's for what directly stands in a group of the user's, else in a stage, if any."""
        if group is not None and self._has_group(self.plan.group_by_id[group]):
            return self._group(group)
        return self.groups[stage] if stage is not None else self.dag.task_group

    def _group(self, group_id: str) -> TaskGroup:
        """Return the group of Airflow's that shows a group of the user's, made on first use."""
        if group_id not in self.groups:
            group = self.plan.group_by_id[group_id]
            parent = self._home(group.parent, group.stage)
            shown = group.label or "group"
            self.groups[group_id] = TaskGroup(
                group_id, group_display_name=shown, prefix_group_id=False, parent_group=parent, dag=self.dag
            )
        return self.groups[group_id]


def _nodes(stage: PlanStage) -> tuple[str, ...]:
    """Return all nodes of a stage that has operators of its own."""
    return (f"{stage.name}.{BEGIN_TASK}", *stage.tasks, stage.commit)
