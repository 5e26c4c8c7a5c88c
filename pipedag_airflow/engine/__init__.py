"""Engines: where and when the steps of a run happen."""

from __future__ import annotations

from typing import Any

from pipedag_airflow.engine.base import OrchestrationEngine, Outcome
from pipedag_airflow.engine.dask import DaskEngine
from pipedag_airflow.engine.prefect import PrefectTwoEngine
from pipedag_airflow.engine.sequential import SequentialEngine

__all__ = [
    "DaskEngine",
    "OrchestrationEngine",
    "Outcome",
    "PrefectEngine",
    "PrefectTwoEngine",
    "SequentialEngine",
]

#: The engine for the Prefect that is current.
PrefectEngine = PrefectTwoEngine


def __getattr__(name: str) -> Any:
    if name == "PrefectOneEngine":
        raise AttributeError("There is no PrefectOneEngine: Prefect 1 is not maintained. Write PrefectTwoEngine.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
