"""pipedag.yaml and what a run reads from it: :class:`PipedagConfig` and :class:`ConfigContext`."""

from __future__ import annotations

from pipedag_airflow.config.basic import create_basic_pipedag_config
from pipedag_airflow.config.cache_validation import CacheValidationMode
from pipedag_airflow.config.config import PipedagConfig
from pipedag_airflow.config.context import ConfigContext, StageCommitTechnique

__all__ = [
    "CacheValidationMode",
    "ConfigContext",
    "PipedagConfig",
    "StageCommitTechnique",
    "create_basic_pipedag_config",
]
