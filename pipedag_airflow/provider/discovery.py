"""Finding flow modules that mention Airflow nowhere.

Airflow parses only files whose text contains both "airflow" and "dag". A module that imports from ``pipedag_airflow``
does. For others, set in airflow.cfg::

    [core]
    might_contain_dag_callable = pipedag_airflow.provider.discovery.might_contain_dag
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.utils.file import might_contain_dag_via_default_heuristic

if TYPE_CHECKING:
    import zipfile

__all__ = ["might_contain_dag"]

_IMPORT = re.compile(rb"^\s*(?:from|import)\s+\w*pipedag", re.MULTILINE)


def might_contain_dag(file_path: str, zip_file: zipfile.ZipFile | None = None) -> bool:
    """Say whether a file may hold a DAG: by Airflow's own rule, or because it imports a package of pipedag.

    Args:
        file_path: Path of the file, within the archive if there is one.
        zip_file: The archive.
    """
    if might_contain_dag_via_default_heuristic(file_path, zip_file):
        return True
    content = zip_file.read(file_path) if zip_file is not None else Path(file_path).read_bytes()
    return _IMPORT.search(content) is not None
