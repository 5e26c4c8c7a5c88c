"""DAG runs as those who hold stages: what they are called, whether one is over, and what a failed one gives back."""

from __future__ import annotations

import logging
import socket
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException, AirflowRuntimeError

from pipedag_airflow.backend.lock import Owner
from pipedag_airflow.backend.lock.lease import how_to_free
from pipedag_airflow.core.plan import COMMIT_TASK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pipedag_airflow.backend.lock import Lease
    from pipedag_airflow.core.flow import Flow
    from pipedag_airflow.provider.form import RunOptions
    from pipedag_airflow.provider.reference import FlowReference

__all__ = [
    "OVER",
    "OWNER_PREFIX",
    "UNDER_WAY",
    "ReleaseStages",
    "airflow_id",
    "is_not_found",
    "is_paused",
    "owner_id",
    "owner_of",
    "part_dag_id",
    "part_run_id",
    "parts_of",
    "run_is_over",
    "run_state",
    "stages_kept_to_the_end",
    "states_of_run",
]

log = logging.getLogger(__name__)

#: Before the id of the DAG and the id of its run: a run of Airflow's in the metadata, where those of other engines are.
OWNER_PREFIX = "airflow:"
#: The states of task instances that will not run any more.
OVER = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
#: The states of DAG runs that are not over.
UNDER_WAY = frozenset({"queued", "running"})
#: Hosts of addresses that mean another Airflow elsewhere.
_LOCAL = ("localhost", "127.0.0.1", "::1", "0.0.0.0")  # noqa: S104 - nothing is bound to it
#: Why nothing more is begun in a part of a run of the flow, by the state of that, and what to do.
_SAID_OF = {
    "failed": "has failed. Clear {reference.part} there, with all that follows.",
    "success": "has ended as a success. Clear {reference.part} there, with all that follows.",
    None: "was deleted. Trigger a run of the DAG {reference.part_of}; what this one has finished is kept for it.",
}


def owner_id(dag_id: str, run_id: str) -> str:
    """Return the id under which a DAG run holds stages."""
    return f"{OWNER_PREFIX}{dag_id}/{run_id}"


def airflow_id() -> str:
    """Return what tells this Airflow from others that share an instance, the same in all of its processes.

    Its address, if that is one for others; else this host and the port.
    """
    address: str = conf.get("api", "base_url", fallback="") or ""
    if address and urlsplit(address).hostname not in _LOCAL:
        return address.rstrip("/")
    return f"{socket.gethostname()}:{conf.get('api', 'port', fallback='')}"


def owner_of(reference: FlowReference, instance: Any, options: RunOptions) -> Owner:
    """Return who holds stages for a task instance: all DAGs of a flow that is split are one run of it.

    Args:
        reference: What the operator knows of its flow.
        instance: The task instance of Airflow's.
        options: What the run was asked for.

    Raises:
        AirflowFailException: if the run of the flow, of which this one is a part, is over, or was deleted.
    """
    if reference.part_of is None or options.run_of is None:
        return Owner.of_run(owner_id(instance.dag_id, instance.run_id), airflow_id())
    state = run_state(instance, reference.part_of, options.run_of)
    if state in _SAID_OF:
        raise AirflowFailException(
            f"{instance.task_id} was not begun: run {options.run_of} of the DAG {reference.part_of}, which this run is "
            f"a part of, {_SAID_OF[state].format(reference=reference)}"
        )
    return Owner.of_run(owner_id(reference.part_of, options.run_of), airflow_id())


def part_dag_id(dag_id: str, stage: str) -> str:
    """Return the id of the DAG of a stage, in a flow that is split.

    Args:
        dag_id: The id of the flow's DAG.
        stage: Name of the stage.
    """
    return f"{dag_id}.{stage}"


def part_run_id(run_id: str) -> str:
    """Return the id of the part of a run in the DAG of a stage.

    Not the same one: Airflow keeps the ids of scheduled runs and backfills for those, and 3.2 refuses them here.

    Args:
        run_id: The id of the run of the flow's DAG.
    """
    return f"part__{run_id}"


def run_is_over(lease: Lease, instance: Any, now: Callable[[], float]) -> bool:
    """Say whether the DAG run that holds a lease has ended.

    Its lease may be taken over even before it expired: the fence keeps what still runs of it from writing.

    Args:
        lease: The lease.
        instance: A task instance of Airflow's, or its class; it asks Airflow for the state of a DAG run.
        now: The clock of the leases.
    """
    if not lease.owner.run_id.startswith(OWNER_PREFIX):
        return False
    dag_id, _, run_id = lease.owner.run_id.removeprefix(OWNER_PREFIX).partition("/")
    try:
        state = instance.get_dagrun_state(dag_id, run_id)
    except Exception as error:
        if not is_not_found(error):
            log.warning("Airflow does not tell the state of DAG run %s/%s: %s; it is waited for", dag_id, run_id, error)
            return False
        # Deleted; or of another Airflow that shares the instance, and then it may only be between two steps.
        if lease.owner.pid_space == airflow_id():
            log.info("Airflow knows no DAG run %s/%s any more: it was deleted", dag_id, run_id)
            return lease.expires < now()
        log.info(
            "This Airflow (%s) knows no DAG run %s/%s, which began in %s. It is waited for until nothing was heard of "
            "it for sixty times lease_seconds. %s",
            airflow_id(),
            dag_id,
            run_id,
            lease.owner.pid_space or "an unknown one",
            how_to_free(lease.stage),
        )
        return lease.is_silent(now())
    # A member of an enumeration of strings: it equals its value, but str() of it does not.
    return state in ("success", "failed")


def run_state(instance: Any, dag_id: str, run_id: str) -> str | None:
    """Return the state of a DAG run; None if Airflow knows no such run.

    Args:
        instance: A task instance of Airflow's, or its class; it asks Airflow.
        dag_id: Id of the DAG.
        run_id: Id of the run.
    """
    try:
        state = instance.get_dagrun_state(dag_id, run_id)
    except Exception as error:
        if is_not_found(error):
            return None
        raise
    # A member of an enumeration of strings: str() of it is not its value.
    return str(getattr(state, "value", state))


def is_paused(instance: Any, dag_id: str) -> bool:
    """Say whether a DAG is paused, as far as Airflow tells.

    Args:
        instance: A task instance of Airflow's; it asks Airflow, which answers the processes of tasks only.
        dag_id: Id of the DAG.
    """
    try:
        return bool(instance.get_dag(dag_id).is_paused)
    except Exception as error:  # it only matters for what is said
        log.info("Airflow does not tell whether the DAG %s is paused: %s", dag_id, error)
        return False


def stages_kept_to_the_end(
    owner: str, parts: Iterable[str], nested: Mapping[str, Sequence[str]], instance: Any
) -> list[str]:
    """Return the names of stages that a run keeps until it is over, if it has them: their commit will not run.

    Args:
        owner: The id under which the run holds stages.
        parts: Names of the stages that have DAGs of their own.
        nested: Names of the stages that are nested in others, by the names of these.
        instance: A task instance of Airflow's, or its class; it asks Airflow for the states of tasks.
    """
    try:
        states = states_of_run(owner, parts, instance)
    except Exception as error:  # asked again while the run waits
        log.warning("Airflow does not tell the states of the tasks of %s: %s", owner, error)
        return []
    kept: set[str] = set()
    for node, state in states.items():
        stage, _, label = node.rpartition(".")
        if state not in ("failed", "upstream_failed"):
            continue
        if stage and label == COMMIT_TASK:
            kept.add(stage)
        elif not stage:  # an operator that runs a stage with all that is nested in it is called like the stage
            kept |= {node, *nested.get(node, ())}
    return sorted(kept)


def states_of_run(owner: str, parts: Iterable[str], instance: Any) -> dict[str, str | None]:
    """Return the states of the tasks of a run: those of its DAG, and of the DAGs of stages in which it is at work.

    A stage's DAG that has nothing left to do counts by its operator in the flow's DAG: after that was cleared, what is
    there is still of the try before.

    Args:
        owner: The id under which the run holds stages.
        parts: Names of the stages that have DAGs of their own.
        instance: A task instance of Airflow's, or its class; it asks Airflow for the states of tasks.
    """
    dag_id, _, run_id = owner.removeprefix(OWNER_PREFIX).partition("/")
    states = _task_states(dag_id, run_id, instance)
    for part in [part for part in parts if states.get(part) is not None]:
        of_part = _task_states(part_dag_id(dag_id, part), part_run_id(run_id), instance)
        if _at_work(of_part):
            states |= of_part
    return states


def parts_of(flow: Flow) -> tuple[str, ...]:
    """Return the names of the stages that have DAGs of their own, if a flow is split."""
    from pipedag_airflow.provider.granularity import units
    from pipedag_airflow.provider.settings import Settings
    from pipedag_airflow.provider.split import parts

    settings, plan = Settings.of(flow), flow.plan()
    return tuple(part.id for part in parts(settings, plan, units(settings, plan)))


def _at_work(states: Mapping[str, str | None]) -> list[str]:
    """Return the tasks that run, or will."""
    return [task for task, state in states.items() if state not in OVER]


def _task_states(dag_id: str, run_id: str, instance: Any) -> dict[str, str | None]:
    """Return the states of the tasks of a DAG run; none if there is no such run."""
    try:
        return dict(instance.get_task_states(dag_id, run_ids=[run_id]).get(run_id, {}))
    except Exception as error:
        if is_not_found(error):
            return {}
        raise


def is_not_found(error: Exception) -> bool:
    """Say whether an error of Airflow's means that it does not know a run: it was deleted, or never was."""
    return (
        isinstance(error, AirflowRuntimeError) and (error.error.detail or {}).get("status_code") == HTTPStatus.NOT_FOUND
    )


@attrs.frozen
class ReleaseStages:
    """The ``on_failure_callback`` of a DAG, called by Airflow's DAG processor.

    A run that succeeds has given back its stages by itself. What was made stays, for the next run or for this one if
    its tasks are cleared. The part of a run in the DAG of a stage leaves it to the flow's run, unless that is over.

    Args:
        reference: The flow.
    """

    reference: FlowReference

    def __call__(self, context: Mapping[str, Any]) -> None:
        """Release what the run holds, unless somebody has cleared tasks of it since."""
        dag_id, run_id = context["dag"].dag_id, context["run_id"]
        instance = context.get("ti")
        if instance is None:  # then Airflow tells nothing else, either
            log.info("Airflow does not say which task failed in %s; its stages wait for whoever wants them", run_id)
            return
        options = self.reference.options(context)
        parts: Sequence[str] = ()
        if self.reference.part_of is not None and options.run_of is not None:
            # Nobody else gives back what a part has begun after the flow's run was over.
            dag_id, run_id, parts = self.reference.part_of, options.run_of, parts_of(self.reference.flow)
        goes_on = _at_work(states_of_run(owner_id(dag_id, run_id), parts, instance))
        if goes_on:
            log.info("Run %s of %s goes on with %s: its stages are kept", run_id, dag_id, ", ".join(goes_on))
            return
        # The run's own instance is where it holds stages.
        config = attrs.evolve(self.reference, instance=options.instance).config()
        with config.create_lock_manager() as locks:
            released = locks.release_run(owner_id(dag_id, run_id))
        log.info("Run %s has failed; stages given back: %s", run_id, ", ".join(released) or "none")
