"""Local table caches: copies of stored tables near to the tasks that read them."""

from __future__ import annotations

from pipedag_airflow.backend.table.cache.base import TableCache
from pipedag_airflow.backend.table.cache.parquet import ParquetTableCache

__all__ = ["ParquetTableCache", "TableCache"]
