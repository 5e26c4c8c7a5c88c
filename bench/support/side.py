"""One flow, two packages: what a benchmark runs with pipedag_airflow and with the reference, in a process each.

A module of flows takes the package as an argument. It uses nothing but the documented API, which both have.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["OURS", "REFERENCE", "configuration", "measured", "package"]

OURS = "pipedag_airflow"
REFERENCE = "pydiverse.pipedag"
_FOLDER = Path(__file__).parent


def measured(module: str, side: str, *arguments: object) -> Any:
    """Run a module of this folder in a process of the side's environment, and return what it prints as JSON.

    Args:
        module: Name of the module.
        side: The package to run with.
        arguments: What else the module takes.

    Raises:
        RuntimeError: if it fails; the message is what it said.
    """
    from support.reference import python_of_the_reference

    python = sys.executable if side == OURS else str(python_of_the_reference())
    command = [python, str(_FOLDER / f"{module}.py"), side, *map(str, arguments)]
    root = str(_FOLDER.parents[1])
    environment = os.environ | {"PYTHONPATH": f"{_FOLDER.parent}{os.pathsep}{root}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def package(side: str) -> Any:
    """Return the package of a side, which logs nothing but errors."""
    if side == REFERENCE:
        structlog = importlib.import_module("structlog")
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    return importlib.import_module(side)


def configuration(side: str, url: str, technique: str = "schema_swap") -> Any:
    """Return a configuration that differs between the sides by the name of the package.

    Args:
        side: The package.
        url: The database.
        technique: How stages are published; by default as both packages do it on PostgreSQL if nothing is said.
    """
    folder = tempfile.mkdtemp(prefix="pipedag_bench_")
    settings = {
        "name": "bench",
        "instances": {
            "__any__": {
                "instance_id": "bench",
                "fail_fast": True,
                "stage_commit_technique": technique,
                "auto_table": ["pandas.DataFrame", "polars.DataFrame"],
                "table_store": {
                    "class": f"{side}.backend.table.SQLTableStore",
                    "args": {"url": url},
                },
                "blob_store": {
                    "class": f"{side}.backend.blob.FileBlobStore",
                    "args": {"base_path": f"{folder}/blobs"},
                },
                "lock_manager": {
                    "class": f"{side}.backend.lock.FileLockManager",
                    "args": {"base_path": f"{folder}/locks"},
                },
                "orchestration": {"class": f"{side}.engine.SequentialEngine"},
            }
        },
    }
    return package(side).PipedagConfig(settings).get()
