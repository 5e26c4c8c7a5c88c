"""What pipedag.yaml, a flow, its stages and its tasks say about their places in the DAG, put together.

The nearer one wins: a task over its stage, a stage over the one around it, and all of them over the flow. Where two
speak of the same place, the module of the flow wins over pipedag.yaml. Arguments of ``flow.to_dag()`` win over what is
said of the flow.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import attrs
from airflow.sdk import Asset, TaskGroup

from pipedag_airflow.core.airflow_settings import DURATIONS, OPERATOR_KEYS
from pipedag_airflow.core.naming import normalise, suggest
from pipedag_airflow.errors import ConfigError
from pipedag_airflow.provider.assets import asset, stage_alias
from pipedag_airflow.provider.connections import find_config

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from airflow.sdk import AssetAlias
    from airflow.sdk.definitions.deadline import DeadlineAlert

    from pipedag_airflow.core.flow import Flow
    from pipedag_airflow.core.plan import PlanStage
    from pipedag_airflow.provider.granularity import Unit

__all__ = ["Settings"]

_START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)

#: Said of a flow, and no arguments of its DAG.
_OURS = frozenset({"granularity", "instance", "split"})

#: A DAG has these, too: said of a flow they are called once a run. ``default_args`` can give them to all tasks.
_OF_THE_DAG = frozenset({"on_failure_callback", "on_success_callback"})

_COLOURS = frozenset({"ui_color", "ui_fgcolor"})

# Not in all releases of Airflow that we work with.
_GROUPS_HAVE_DOCS = "doc_md" in attrs.fields_dict(TaskGroup)


@attrs.frozen
class Settings:
    """The settings of a flow, read once where its DAG is compiled.

    Args:
        flow: The flow.
        name: The name of the configuration.
        common: What is said of the flow.
        stages: What pipedag.yaml says of single stages, by their names.
        tasks: What it says of single tasks, by their ids.
        instances: The instances that it names for the flow.
        only_known_instances: Whether there are no others.
    """

    flow: Flow
    name: str
    common: Mapping[str, Any]
    stages: Mapping[str, Mapping[str, Any]]
    tasks: Mapping[str, Mapping[str, Any]]
    instances: tuple[str, ...]
    only_known_instances: bool
    _inherited: dict[str, dict[str, Any]] = attrs.field(factory=dict, init=False)

    @classmethod
    def of(cls, flow: Flow) -> Settings:
        """Read the settings of a flow.

        Raises:
            ConfigError: if pipedag.yaml cannot be used, or speaks of a stage or task that the flow does not have.
        """
        folder = flow.file.parent if flow.file is not None else None
        config = find_config(folder)
        section = config.airflow_settings(flow.name, flow.airflow.get("instance"))
        stages = {normalise(name): said for name, said in section.pop("stages", {}).items()}
        tasks = section.pop("tasks", {})
        _check_known(flow, "stages", stages, flow.stages)
        _check_known(flow, "tasks", tasks, flow.tasks)
        names = config.instance_names(flow.name)
        return cls(flow, config.name, section | flow.airflow, stages, tasks, names, config.strict_instance_lookup)

    @property
    def instance(self) -> str | None:
        """The instance that the DAG works on; None for the common one."""
        return self.common.get("instance")

    @property
    def split(self) -> str | None:
        """What is said about DAGs for parts of the flow."""
        return self.common.get("split")

    def dag(self) -> dict[str, Any]:
        """Return the arguments of the DAG that the settings and our defaults give."""
        said = {key: value for key, value in self.common.items() if key not in _OURS}
        of_tasks = OPERATOR_KEYS - _OF_THE_DAG
        arguments: dict[str, Any] = {
            "dag_id": self.flow.name,
            "schedule": None,
            "catchup": False,
            # Two runs of one flow would only wait for each other's stages; queued runs are visible in the UI.
            "max_active_runs": 1,
            "doc_md": self.flow.namespace.get("__doc__"),
        }
        arguments |= _timed({key: value for key, value in said.items() if key not in of_tasks})
        defaults = {key: value for key, value in said.items() if key in of_tasks}
        arguments["default_args"] = (arguments.get("default_args") or {}) | _timed(defaults)
        arguments["start_date"] = self._date("start_date", said.get("start_date")) or _START
        if "end_date" in said:
            arguments["end_date"] = self._date("end_date", said["end_date"])
        if isinstance(said.get("deadline"), dict):
            arguments["deadline"] = self._deadline(said["deadline"])
        schedule = arguments["schedule"]
        if isinstance(schedule, list) and all(isinstance(uri, str) for uri in schedule):
            arguments["schedule"] = [Asset(uri) for uri in schedule]
        arguments["tags"] = sorted({"pipedag", *(said.get("tags") or ())})
        return arguments

    def granularity(self, stage: str | None = None) -> str | None:
        """Return what is said of the flow, or of a stage itself, about what becomes one operator."""
        return self.common.get("granularity") if stage is None else self._of_stage(stage).get("granularity")

    def group(self, stage: PlanStage) -> dict[str, Any]:
        """Return the looks of the group of a stage."""
        looks = {"tooltip": _summary(len(stage.tasks), stage.reads)} | self._looks(stage.name)
        if not _GROUPS_HAVE_DOCS:
            looks.pop("doc_md", None)
        return looks

    def operators(self, stage: str) -> dict[str, Any]:
        """Return the arguments of all operators of a stage."""
        if stage not in self._inherited:
            parent = self.flow.stages[stage].parent
            around = self.operators(parent.name) if parent is not None else {}
            own = {key: value for key, value in self._of_stage(stage).items() if key in OPERATOR_KEYS}
            self._inherited[stage] = around | _timed(own)
        return self._inherited[stage]

    def unit(self, unit: Unit) -> dict[str, Any]:
        """Return the arguments of an operator that runs several steps; what is said of single ones has no meaning."""
        summary = _summary(len(unit.nodes), unit.reads)
        if unit.whole_flow:
            return {"doc_md": summary}
        looks = self._looks(unit.id)
        shown = looks.get("group_display_name", unit.id)
        told = looks.get("doc_md") or looks.get("tooltip") or summary
        return self.operators(unit.id) | {"task_display_name": shown, "doc_md": told}

    def colours(self, unit: Unit) -> dict[str, str]:
        """Return the colours of such an operator, as far as they are said."""
        looks = {} if unit.whole_flow else self._looks(unit.id)
        return {key: value for key, value in looks.items() if key in _COLOURS}

    def operator(self, node: str) -> dict[str, Any]:
        """Return the arguments of the operator of a task."""
        task = self.flow.tasks[node]
        inherited = self.operators(task.stage.name)
        if node not in self.tasks and not task.unbound.airflow:
            return inherited
        return inherited | _timed({**self.tasks.get(node, {}), **task.unbound.airflow})

    def asset(self, stage: str) -> Asset:
        """Return a stage as an asset, of the instance that the DAG works on unless a run is asked for another one."""
        return asset(stage, name=self.name, instance=self.instance)

    def alias(self, stage: str) -> AssetAlias:
        """Return the outlet through which the steps of a stage tell of what is published."""
        return stage_alias(stage, self.name)

    def _of_stage(self, stage: str) -> dict[str, Any]:
        return {**self.stages.get(stage, {}), **self.flow.stages[stage].airflow}

    def _looks(self, stage: str) -> dict[str, Any]:
        return {
            key: value for key, value in self._of_stage(stage).items() if key not in OPERATOR_KEYS | {"granularity"}
        }

    def _date(self, key: str, value: Any) -> dt.datetime | None:
        if isinstance(value, str):
            try:
                value = dt.datetime.fromisoformat(value)
            except ValueError as error:
                raise ConfigError(f"airflow.{key} of flow {self.flow.name!r} is no date: {value!r}") from error
        if value is not None and not isinstance(value, dt.datetime):
            return dt.datetime(value.year, value.month, value.day, tzinfo=dt.UTC)
        return value if value is None or value.tzinfo is not None else value.replace(tzinfo=dt.UTC)

    def _deadline(self, said: Mapping[str, Any]) -> DeadlineAlert:
        """Return the deadline that pipedag.yaml words: so many seconds after a run is queued, a callback is called."""
        if not {"interval", "callback"} <= said.keys():
            raise ConfigError(
                f"airflow.deadline of flow {self.flow.name!r} needs interval, in seconds, and callback, the dotted "
                "path of an async function."
            )
        from airflow.sdk.definitions.callback import AsyncCallback
        from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

        callback = AsyncCallback(said["callback"], said.get("kwargs"))
        interval = dt.timedelta(seconds=said["interval"])
        return DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, interval, callback)


def _summary(count: int, reads: Collection[str]) -> str:
    """Return what there is to say of a stage, or several."""
    read = f"; reads {', '.join(reads)}" if reads else ""
    return f"{count} {'task' if count == 1 else 'tasks'}, published together{read}" if count else ""


def _timed(said: Mapping[str, Any]) -> dict[str, Any]:
    """Make times of seconds."""
    return {
        key: dt.timedelta(seconds=value) if key in DURATIONS and isinstance(value, int | float) else value
        for key, value in said.items()
    }


def _check_known(flow: Flow, kind: str, named: Iterable[str], known: Iterable[str]) -> None:
    for name in named:
        if name not in known:
            raise ConfigError(
                f"airflow.{kind}.{name} of pipedag.yaml: flow {flow.name!r} has no {kind[:-1]} {name!r}; "
                f"{suggest(name, known)} What is said of single {kind} belongs into the section of their flow, "
                "flows.<name>.airflow."
            )
