"""How much memory a frame of 8 columns takes on its way: python bench/memory.py.

Written to PostgreSQL and read from it in a process of its own; the peak of resident memory above what the process had
before, in MB and as a multiple of the frame. What is read has to be there in the end, so that its multiple is above 1.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
from support.data import frame_of
from support.postgres import server

from pipedag_airflow.backend.table import SQLTableStore
from pipedag_airflow.backend.table.sql.facts import TableLocation
from pipedag_airflow.testing.store_fixtures import SCHEMA, read, write

ROWS = (1_000_000, 4_000_000)
TYPES: dict[str, Any] = {"polars": pl.DataFrame, "pandas": pd.DataFrame, "pandas arrow": (pd.DataFrame, "arrow")}


def memory(name: str) -> float:
    """Return a figure of the process in MB, as Linux calls it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1e3


def above(work: Any) -> float:
    """Return by how many MB the peak of memory during some work is above what there was before."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    result = work()
    del result
    return memory("VmHWM") - before


def one(url: str, kind: str, rows: int) -> None:
    """Print the size of the frame and the peaks; each is taken in a process of its own."""
    if os.fork() == 0:
        print(written(url, kind, rows), flush=True)
        return
    os.wait()
    print(got(url, kind))


def written(url: str, kind: str, rows: int) -> str:
    """Return the size of a frame, and the peak of writing it."""
    frame = frame_of(rows)
    size = frame.estimated_size() / 1e6
    given = frame if kind == "polars" else frame.to_pandas(use_pyarrow_extension_array=kind == "pandas arrow")
    del frame
    store = SQLTableStore(url.replace("+psycopg2", ""))
    write(store, frame_of(1), "small")  # what is imported on first use does not count
    return f"{size} {above(lambda: write(store, given, 'big'))}"


def got(url: str, kind: str) -> float:
    """Return the peak of reading it."""
    store = SQLTableStore(url.replace("+psycopg2", ""))
    with store.connection() as connection:
        columns = store.list_columns(connection, SCHEMA)
    small, big = (TableLocation("s", name, SCHEMA, name, columns[name]) for name in ("small", "big"))
    read(store, small, TYPES[kind])
    return above(lambda: read(store, big, TYPES[kind]))


def main() -> int:
    """Print the table."""
    print("                    rows   frame, MB   write, MB (x frame)   read, MB (x frame)")
    with server() as postgres:
        for kind in TYPES:
            for rows in ROWS:
                with postgres.database() as url:
                    command = [sys.executable, __file__, url, kind, str(rows)]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                size, up, down = map(float, done.stdout.split())
                print(
                    f"  {kind:12} {rows:10,} {size:11.0f} {up:11.0f} ({up / size:.2f}) {down:12.0f} ({down / size:.2f})"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main() if len(sys.argv) == 1 else one(sys.argv[1], sys.argv[2], int(sys.argv[3])))
