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

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowRuntimeError, AirflowSkipException
from airflow.sdk.execution_time.comms import TriggerDagRun

from pipedag_airflow.config.hiding import hidden_secrets
from pipedag_airflow.errors import ConfigError
from pipedag_airflow.provider.assets import announce
from pipedag_airflow.provider.dag_runs import UNDER_WAY, is_paused, part_dag_id, part_run_id, run_state
from pipedag_airflow.provider.form import RUN_OF
from pipedag_airflow.provider.granularity import Unit
from pipedag_airflow.provider.links import RunLink
from pipedag_airflow.provider.run_operators import StageRunOperator
from pipedag_airflow.provider.telling import shown_begin
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.release import FINISHED, states_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from pipedag_airflow.core.plan import Plan
    from pipedag_airflow.provider.settings import Settings
    from pipedag_airflow.run.session import RunSession

__all__ = ["StageDagOperator", "part_arguments", "parts"]

log = logging.getLogger(__name__)

#: So many runs of a part at once that none waits for another one: the flow's DAG says how many runs there are, and a
#: run of the part by itself must not keep theirs in the queue.
_ANY_NUMBER = 1_000_000


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
        "allowed_run_types",
        "catchup",
        "dag_display_name",
        "dagrun_timeout",
        "deadline",
        "description",
        "end_date",
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
        # Paused, it would keep the flow's run waiting, so Airflow is not to pause it after failures, either.
        "is_paused_upon_creation": False,
        "max_consecutive_failed_dag_runs": 0,
        "max_active_runs": _ANY_NUMBER,
        "doc_md": f"The stage `{part.id}` of the flow `{dag_id}`, whose DAG runs it.",
    }


class StageDagOperator(StageRunOperator):
    """Has a stage run by the DAG of the stage, and waits for its end without a worker slot.

    It begins the stage itself: if all of it is valid, there is nothing to run.
    """

    custom_operator_name = "stage DAG"
    operator_extra_links = (RunLink(),)
    template_fields = ()
    #: Whether the stage's own DAG has a part of this run.
    has_part = False

    def step(self, session: RunSession, context: Context) -> dict[str, Any]:
        """Begin the stage, and if there is anything to do, have it run."""
        from pipedag_airflow.provider.by_hand import refuse_marked

        selected = [stage.name for stage in self.stages(session.plan) if session.selection.of(stage)]
        if not selected:
            raise AirflowSkipException(f"{self.task_id}: nothing of it is selected in this run")
        refuse_marked(session, selected, self.dag)
        decided: dict[str, Any] = {}
        for name in selected:
            if name in self.over:
                continue
            self.awaited = name
            report = begin(session, name)
            decided[name] = shown_begin(report)
            context["ti"].xcom_push("decisions", decided)
            if not report.closed:
                self._run_part(context)
            self.over = [*self.over, name]
        for name in selected:
            announce(session, name, context)
        log.info("All of %s is valid: its DAG has nothing to do", self.task_id)
        return {"unchanged": list(selected)}

    def _run_part(self, context: Context) -> None:
        """Start the part of the run in the stage's own DAG, or take it up again, and wait for its end."""
        instance: Any = context["ti"]
        dag_id, run_id = part_dag_id(instance.dag_id, self.task_id), part_run_id(instance.run_id)
        if run_state(instance, dag_id, run_id) in UNDER_WAY:
            # Another try, or a clear. To start it anew would kill what is at work there.
            log.info("Stage %s is at work in the DAG %s, run %s; that is waited for", self.task_id, dag_id, run_id)
        else:
            log.info("Stage %s runs in the DAG %s, run %s", self.task_id, dag_id, run_id)
            self._start(dag_id, run_id, context)
        self._wait_for(instance, dag_id, run_id)

    def _wait_for(self, instance: Any, dag_id: str, run_id: str) -> None:
        """Wait for the end of the part, and say so if nothing of it can begin."""
        from pipedag_airflow.provider.triggers import PartRunTrigger, seconds_until_heard

        if is_paused(instance, dag_id):
            log.warning(
                "Stage %s waits for run %s of the DAG %s, which is paused: no task of it begins. Unpause it in the UI, "
                "or with `airflow dags unpause %s`; there is nothing to do here after that",
                self.task_id,
                run_id,
                dag_id,
                dag_id,
            )
        self.has_part = True
        trigger = PartRunTrigger(dag_id, run_id, after=seconds_until_heard())
        self.defer(trigger=trigger, method_name="execute_complete")

    def _start(self, dag_id: str, run_id: str, context: Context) -> None:
        # Not by DagRunTriggerException: Airflow would wait with a trigger that does not notice when the run is deleted.
        from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

        instance: Any = context["ti"]
        start = TriggerDagRun(
            dag_id=dag_id,
            run_id=run_id,
            conf={**context["params"], RUN_OF: instance.run_id},
            # One that is over is cleared: what was finished is found valid.
            reset_dag_run=True,
            note=f"A part of the run of {instance.dag_id}",
        )
        try:
            SUPERVISOR_COMMS.send(start)
        except AirflowRuntimeError as error:
            # Not final: the file may be parsed again before the next try.
            raise AirflowException(
                f"Stage {self.task_id}: Airflow did not start run {run_id} of the DAG {dag_id}: {error}. See whether "
                f"Airflow shows that DAG, and the file of {instance.dag_id} without an import error; then clear this "
                "task with all that follows."
            ) from error

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> None:
        """Take the colour of the run that was waited for, if the metadata say the same."""
        self.has_part = True
        instance: Any = context["ti"]
        dag_id, run_id = part_dag_id(instance.dag_id, self.task_id), part_run_id(instance.run_id)
        if event["state"] in UNDER_WAY:
            self._wait_for(instance, dag_id, run_id)
        its_run = f"Stage {self.task_id}: run {run_id} of the DAG {dag_id}"
        clear = "clear this task with all that follows: what was finished is kept."
        if event["state"] is None:
            self.has_part = False
            raise AirflowFailException(f"{its_run} was deleted while it was waited for. To start it anew, {clear}")
        if event["state"] != "success":
            raise AirflowFailException(f"{its_run} is {event['state']}; see there what failed. Mend it and {clear}")
        with hidden_secrets():
            unfinished = self._unfinished(self.session(context, self.asked_for(context)))
        if unfinished:
            raise AirflowFailException(
                f"{its_run} is shown as done, but has not published {', '.join(map(repr, unfinished))}: somebody has "
                f"marked it, or a task of it. Readers see there what they saw before. To go on with it, {clear}"
            )

    def _unfinished(self, session: RunSession) -> list[str]:
        """Return the names of the stages that the run was to publish, and is not over with."""
        states = states_in(session)
        ours = (stage.name for stage in self.stages(session.plan) if session.selection.of(stage))
        return [name for name in ours if name in session.selection.stages and states.get(name) not in FINISHED]
