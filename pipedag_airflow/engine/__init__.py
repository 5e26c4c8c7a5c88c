"""Engines: where and when the steps of a run happen."""

from __future__ import annotations

from pipedag_airflow.engine.base import OrchestrationEngine, Outcome
from pipedag_airflow.engine.sequential import SequentialEngine

__all__ = ["OrchestrationEngine", "Outcome", "SequentialEngine"]
