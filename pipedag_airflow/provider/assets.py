"""Stages and tables as assets: other DAGs are scheduled on them, and run after a publish that changed them.

The address of an asset follows from names alone, so it is known before anything ran. Its events come from the outbox
that the publish fills in its transaction. A step that takes messages out notes in them that it carries them; they count
as sent when Airflow shows that step as successful, because that is when Airflow stores its events. If the step died
before, the next begin of the stage sends them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import Asset, AssetAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow.sdk import Context

    from pipedag_airflow.backend.metadata.outbox import Message
    from pipedag_airflow.run.session import RunSession

__all__ = ["announce", "asset", "asset_uri", "stage_alias"]

log = logging.getLogger(__name__)

#: States in which the carrier of a message may still succeed.
_UNDER_WAY = frozenset({"scheduled", "queued", "running", "restarting", "deferred", "up_for_retry"})


def asset_uri(stage: str, table: str | None = None, *, name: str = "pipeline", instance: str | None = None) -> str:
    """Return the address of a stage or table as an asset.

    Args:
        stage: Name of the stage.
        table: Name of the table; None for the stage.
        name: The name that pipedag.yaml gives to the configuration.
        instance: The instance; None for the common one.
    """
    parts = [name, instance or "__any__", stage, *([table] if table is not None else [])]
    return "pipedag://" + "/".join(quote(part, safe="") for part in parts)


def asset(stage: str, table: str | None = None, *, name: str = "pipeline", instance: str | None = None) -> Asset:
    """Return a stage or table as an asset, for the schedule of another DAG; see :func:`asset_uri`.

    Example:
        ::

            with DAG("mail", schedule=[asset("mart", "large_orders", instance="prod")]): ...
    """
    return Asset(asset_uri(stage, table, name=name, instance=instance))


def stage_alias(stage: str, name: str) -> AssetAlias:
    """Return the outlet through which the steps of a stage tell of assets that depend on the run: on its instance.

    Args:
        stage: Name of the stage.
        name: The name that pipedag.yaml gives to the configuration.
    """
    return AssetAlias(f"pipedag {name} {stage}")


def announce(session: RunSession, stage: str, context: Context) -> None:
    """Tell Airflow of what was published of a stage and not told before; it hears of it when the step has succeeded.

    Args:
        session: The run.
        stage: Name of the stage.
        context: The context of the step, one of whose outlets is the alias of the stage.
    """
    instance: Any = context["ti"]
    own = {"dag_id": instance.dag_id, "run_id": instance.run_id, "task_id": instance.task_id}
    with session.store.transaction() as transaction:
        messages = transaction.metadata.outbox.pending(stage)
    states = {message.generation: _state(message, instance) for message in messages if message.carrier != own}
    sent = [message for message in messages if states.get(message.generation) == "success"]
    to_send = [message for message in messages if states.get(message.generation) not in _UNDER_WAY | {"success"}]
    if not sent and not to_send:
        return
    with session.store.transaction() as transaction:
        transaction.metadata.outbox.remove(sent)
        transaction.metadata.outbox.hand_over(to_send, own)
    _send(session, stage, to_send, context)


def _state(message: Message, instance: Any) -> str | None:
    """Return the state of the step that carries a message."""
    if message.carrier is None:
        return None
    dag_id, run_id, task_id = (message.carrier[key] for key in ("dag_id", "run_id", "task_id"))
    try:
        states = instance.get_task_states(dag_id, task_ids=[task_id], run_ids=[run_id])
    except Exception as error:
        # Deleted, or of another Airflow that shares the instance. Told twice is better than not at all.
        log.info("The state of %s in run %s of DAG %s is not known: %s", task_id, run_id, dag_id, error)
        return None
    state: str | None = states.get(run_id, {}).get(task_id)
    return state


def _send(session: RunSession, stage: str, messages: Iterable[Message], context: Context) -> None:
    place: dict[str, Any] = {"name": session.config.pipedag_name, "instance": session.config.instance_name}
    alias = stage_alias(stage, session.config.pipedag_name)
    for message in messages:
        event = context["outlet_events"][alias]
        told = message.payload
        of_all = {"generation": message.generation, "run": told["run_id"]}
        rows = {table: facts["rows"] for table, facts in told["changed"].items()}
        of_stage = {"rows": rows, "removed": told["removed"], "content": told["content"]}
        event.add(asset(stage, **place), of_all | of_stage)
        for table, facts in told["changed"].items():
            event.add(asset(stage, table, **place), of_all | facts)
        log.info("Stage %s: announced generation %s and %s tables", stage, message.generation, len(rows))
