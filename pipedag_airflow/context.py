"""The public place of the context classes, as in the API reference."""

from __future__ import annotations

from pipedag_airflow.config.cache_validation import CacheValidationMode
from pipedag_airflow.config.context import ConfigContext, StageCommitTechnique
from pipedag_airflow.run.lock_context import StageLockContext

__all__ = ["CacheValidationMode", "ConfigContext", "StageCommitTechnique", "StageLockContext"]
