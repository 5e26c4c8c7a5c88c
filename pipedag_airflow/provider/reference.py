"""What the operators of a DAG know of their flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.provider.connections import read_config
from pipedag_airflow.provider.form import RUN_OF, RunOptions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipedag_airflow.config import ConfigContext
    from pipedag_airflow.core.flow import Flow

__all__ = ["FlowReference"]


@attrs.frozen
class FlowReference:
    """The flow of an operator and the instance that it runs in.

    Args:
        flow: The flow.
        instance: The instance; None for the common one.
        part_of: Id of the flow's DAG, in that of a stage of it.
        part: Name of that stage.
    """

    flow: Flow
    instance: str | None
    part_of: str | None = None
    part: str | None = None

    @property
    def folder(self) -> Path | None:
        """The folder from which pipedag.yaml is looked for."""
        return self.flow.file.parent if self.flow.file is not None else None

    def config(self) -> ConfigContext:
        """Return the configuration; secrets are read here, in the worker, and not when the file is parsed."""
        return read_config(self.folder, self.instance, self.flow.name)

    def options(self, context: Mapping[str, Any]) -> RunOptions:
        """Return the options of a run, by the context that Airflow gives a task or a callback of it."""
        options = RunOptions.of(context["params"])
        if self.part is None:
            return options
        # Params have it only with [core] dag_run_conf_overrides_params, which is about what people ask for.
        passed = context["dag_run"].conf or {}
        return attrs.evolve(options, run_of=passed.get(RUN_OF))

    def asked_for(self, options: RunOptions) -> RunOptions:
        """Return what a run is asked for; the DAG of a stage that is run by itself is of that stage alone."""
        if self.part is None or options.run_of is not None:
            return options
        lines = [options.select] if isinstance(options.select, str) else options.select
        own = f"stage:{self.part}"
        return attrs.evolve(options, select=[f"{word},{own}" for line in lines for word in line.split()] or [own])
