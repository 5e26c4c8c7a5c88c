"""What is tortured: a package with pipedag's public API, in an environment of its own."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LEASE_SECONDS", "Product", "product_named"]

#: How long a run may be silent before another host may take its stage.
LEASE_SECONDS = 1


@attrs.frozen
class Product:
    """A package that publishes, and what has to be known of it from outside.

    Args:
        package: Its name for ``import``.
        python: The interpreter that has it.
        metadata: A query for rows, least and greatest version of the numbered tasks, as its metadata have them. It may
            have the generation that is live as a fourth column.
        settings: What its configuration has besides what all have.
        modules: What its processes import before they are forked, so that it is not done each time.
        crash_points: The places at which it can be told to die.
        waits: Whether a publish waits for those who read, so that a statement sees one generation.
    """

    package: str
    python: str
    metadata: str
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    modules: tuple[str, ...] = ()
    crash_points: tuple[str, ...] = ()
    waits: bool = True

    def config(self, url: str, folder: str, technique: str, locks: str) -> dict[str, Any]:
        """Return the content of its configuration file."""
        backend = f"{self.package}.backend"
        return {
            "instances": {
                "__any__": {
                    "instance_id": "torture",
                    "fail_fast": True,
                    "strict_result_get_locking": False,
                    "network_interface": "127.0.0.1",
                    "stage_commit_technique": technique,
                    "auto_table": ["pandas.DataFrame"],
                    "table_store": {"class": f"{backend}.table.SQLTableStore", "args": {"url": url}},
                    "blob_store": {
                        "class": f"{backend}.blob.FileBlobStore",
                        "args": {"base_path": f"{folder}/blobs"},
                    },
                    "lock_manager": {
                        "class": f"{backend}.lock.{locks}",
                        "args": {"base_path": f"{folder}/locks"} if locks == "FileLockManager" else {},
                    },
                    "orchestration": {"class": f"{self.package}.engine.SequentialEngine"},
                    **self.settings,
                }
            }
        }


_OURS = """
    select count(*), min(cast(version as integer)), max(cast(version as integer)), max(live)
    from pipedag_metadata.task join pipedag_metadata.stage using (stage)
    where stage = 'numbers' and generation = live and name in ('one', 'two')
"""
_OUR_MODULES = (
    "pipedag_airflow.testing.crash_points",  # its presence is what lets PIPEDAG_CRASH_POINT kill a process
    "pipedag_airflow.run.launch",
    "pipedag_airflow.backend.lock.database",
    "pipedag_airflow.backend.table.sql.dialects",
    "pipedag_airflow.backend.table.sql.frames.pandas",
    "duckdb_sqlalchemy",
    "psycopg",
)
_REFERENCE = """
    select count(*), min(cast(version as integer)), max(cast(version as integer)), cast(null as bigint)
    from pipedag_metadata.tasks where stage = 'numbers' and not in_transaction_schema and name in ('one', 'two')
"""


def product_named(package: str, python: str | None, *, available: bool = False) -> Product:
    """Return what is known of a package.

    Args:
        package: ``pipedag_airflow``, or another one with the API and the metadata of pydiverse.pipedag.
        python: The interpreter that has it; by default this one.
        available: Whether a publish goes on at once where readers hold what it replaces.
    """
    python = python or sys.executable
    if package != "pipedag_airflow":
        return Product(package, python, _REFERENCE)
    from pipedag_airflow.run.publish import STEPS

    settings: dict[str, Any] = {"lease_seconds": LEASE_SECONDS, "generations_to_keep": 3}
    if available:
        settings |= {"commit_consistency": "available", "commit_wait_seconds": 0}
    steps = (f"publish.{step.__name__}" for step in STEPS)
    crash_points = ("begin.opened", "begin.decided", "execute.materialized", "execute.before_store", "execute.stored")
    crash_points = (*crash_points, *steps, "publish.committed")
    return Product(package, python, _OURS, settings, _OUR_MODULES, crash_points, waits=not available)
