"""A flow as one DAG for each stage: what is in a stage has a DAG of its own, which the flow's DAG runs.

Airflow's scheduler looks at all operators of a run in each of its rounds, so a flow of thousands of tasks is quicker in
parts. The flow's DAG keeps one operator for each stage, with the edges between them; so what comes after what, the
colour of a run, clearing, and stages that fail are as in one DAG. All DAGs of a run are one run of the flow: they hold
stages under the name of the flow's.

The DAGs are not linked by their assets alone: an asset has an event when something changed, so a stage that reads two
others would wait for both when one of them changed; told to run after either, it would run twice after a stage that
both read, first with new and old data together.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DagRunTriggerException

from pipedag_airflow.errors import ConfigError
from pipedag_airflow.provider.assets import announce
from pipedag_airflow.provider.dag_runs import part_dag_id
from pipedag_airflow.provider.form import RUN_OF
from pipedag_airflow.provider.granularity import Unit
from pipedag_airflow.provider.links import RunLink
from pipedag_airflow.provider.run_operators import StageRunOperator
from pipedag_airflow.run.begin import begin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from pipedag_airflow.core.plan import Plan
    from pipedag_airflow.provider.settings import Settings
    from pipedag_airflow.run.session import RunSession

__all__ = ["StageDagOperator", "part_arguments", "parts"]

log = logging.getLogger(__name__)

_POLL = 2  # seconds


def parts(settings: Settings, plan: Plan, units: Mapping[str, Unit]) -> tuple[Unit, ...]:
    """Return the stages that have DAGs of their own, each with all that is nested in it.

    Args:
        settings: What is said of the flow.
        plan: Its plan.
        units: What runs as one operator, by the names of the stages: it needs no DAG.

    Raises:
        ConfigError: if the flow is to be split in another way, or is one operator.
    """
    said = settings.split
    if said is None:
        return ()
    if said != "stage":
        raise ConfigError(f"airflow.split of flow {plan.flow!r} is {said!r}, but can only be 'stage'.")
    if any(unit.whole_flow for unit in units.values()):
        raise ConfigError(
            f"airflow of flow {plan.flow!r} says both split: stage, a DAG for each stage, and granularity: flow, one "
            "operator for the whole flow. Take one of them away."
        )
    outer = (stage for stage in plan.stages if stage.parent is None and stage.name not in units)
    found = (Unit.of(plan, stage) for stage in outer)
    return tuple(part for part in found if part.has_tasks)


#: What is said of the flow, once, in its own DAG.
_OF_THE_FLOW = frozenset(
    {
        "catchup",
        "dag_display_name",
        "dagrun_timeout",
        "deadline",
        "description",
        "end_date",
        "max_consecutive_failed_dag_runs",
        "on_failure_callback",
        "on_success_callback",
    }
)


def part_arguments(arguments: Mapping[str, Any], dag_id: str, part: Unit) -> dict[str, Any]:
    """Return the arguments of the DAG of a stage: those of the flow's that concern tasks, and how it is run.

    Args:
        arguments: Those of the flow's DAG.
        dag_id: Its id.
        part: The stage.
    """
    own = {key: value for key, value in arguments.items() if key not in _OF_THE_FLOW}
    return own | {
        "dag_id": part_dag_id(dag_id, part.id),
        "schedule": None,
        # Paused, it would keep the flow's run waiting.
        "is_paused_upon_creation": False,
        "doc_md": f"The stage `{part.id}` of the flow `{dag_id}`, whose DAG runs it.",
    }


class StageDagOperator(StageRunOperator):
    """Has a stage run by the DAG of the stage, and waits for its end without a worker slot.

    It begins the stage itself: if all of it is valid, there is nothing to run.
    """

    custom_operator_name = "stage DAG"
    operator_extra_links = (RunLink(),)
    template_fields = ()

    def step(self, session: RunSession, context: Context) -> dict[str, Any]:
        """Begin the stage; raises Airflow's signal for "trigger a run" if there is anything to do."""
        from pipedag_airflow.provider.by_hand import refuse_marked

        selected = [stage.name for stage in self.stages(session.plan) if session.selection.of(stage)]
        if not selected:
            raise AirflowSkipException(f"{self.task_id}: nothing of it is selected in this run")
        refuse_marked(session, selected, self.dag)
        for name in selected:
            if name in self.over:
                continue
            self.awaited = name
            if not begin(session, name).closed:
                self._run_the_rest(context)
            self.over = [*self.over, name]
        for name in selected:
            announce(session, name, context)
        log.info("All of %s is valid: its DAG has nothing to do", self.task_id)
        return {"unchanged": list(selected)}

    def _run_the_rest(self, context: Context) -> None:
        instance: Any = context["ti"]
        dag_id = part_dag_id(instance.dag_id, self.task_id)
        log.info("Stage %s runs in the DAG %s, run %s", self.task_id, dag_id, instance.run_id)
        raise DagRunTriggerException(
            trigger_dag_id=dag_id,
            dag_run_id=instance.run_id,
            conf={**context["params"], RUN_OF: instance.run_id},
            # A further try, or a clear, goes on with the run that there is.
            reset_dag_run=True,
            skip_when_already_exists=False,
            wait_for_completion=True,
            allowed_states=["success"],
            failed_states=["failed"],
            poke_interval=_POLL,
            deferrable=True,
            note=f"A part of the run of {instance.dag_id}",
        )

    def execute_complete(self, context: Context, event: tuple[str, Mapping[str, Any]]) -> None:
        """Take the colour of the run that was waited for."""
        instance: Any = context["ti"]
        state = event[1].get(instance.run_id)
        if state != "success":
            dag_id = part_dag_id(instance.dag_id, self.task_id)
            raise AirflowFailException(
                f"Stage {self.task_id}: run {instance.run_id} of the DAG {dag_id} is {state}; see there what failed. "
                "Mend it and clear this task with all that follows: what was finished is kept."
            )
