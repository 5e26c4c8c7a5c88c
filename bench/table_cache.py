"""How long a table of 1,000,000 rows and 8 columns takes from PostgreSQL, and from its local copy.

python bench/table_cache.py. The server is on the same machine, so what a network would take is left out, and the copy
is in the page cache. Both are read in turns in one process; best of several rounds, in seconds. A lazy frame is asked
for one column of the rows of a hundredth.
"""

from __future__ import annotations

import gc
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import attrs
import pandas as pd
import polars as pl
from support.data import frame_of
from support.postgres import server

from pipedag_airflow.backend.table import SQLTableStore
from pipedag_airflow.backend.table.cache import ParquetTableCache
from pipedag_airflow.core.fingerprint import random_fingerprint
from pipedag_airflow.testing.store_fixtures import location, read, write

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from pipedag_airflow.backend.table.sql.facts import TableLocation

ROWS, ROUNDS = 1_000_000, 3
TYPES: dict[str, Any] = {
    "polars": pl.DataFrame,
    "polars lazy": pl.LazyFrame,
    "pandas": pd.DataFrame,
    "pandas arrow": (pd.DataFrame, "arrow"),
}


def seconds(work: Callable[[], Any]) -> float:
    """Return how long some work takes."""
    gc.collect()
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def fetched(store: SQLTableStore, place: TableLocation) -> pa.Table:
    """Return the rows of a table."""
    with store.connection() as connection:
        return store.fetch_table(connection, place)


def used(store: SQLTableStore, place: TableLocation, input_type: Any) -> Any:
    """Read a table, and of a lazy frame what is asked of it."""
    frame = read(store, place, input_type)
    if isinstance(frame, pl.LazyFrame):
        return frame.filter(pl.col("id") < ROWS // 100).select("price").collect()
    return frame


def measured(url: str, folder: Path) -> dict[str, tuple[float, float]]:
    """Return the best seconds from the database and from the copy, by type."""
    store = SQLTableStore(url.replace("+psycopg2", ""))
    plain = location(write(store, frame_of(ROWS)))
    copied = attrs.evolve(plain, id=random_fingerprint())
    cache = ParquetTableCache(base_path=folder)
    print(f"keeping the copy: {seconds(partial(cache.keep, copied, fetched(store, plain))):.2f} s, once")
    store.local_table_cache = cache
    places = (plain, copied)
    best = dict.fromkeys(TYPES, (float("inf"), float("inf")))
    for _ in range(ROUNDS):
        for name, input_type in TYPES.items():
            took = [seconds(partial(used, store, place, input_type)) for place in places]
            best[name] = (min(best[name][0], took[0]), min(best[name][1], took[1]))
    store.dispose()
    return best


def main() -> None:
    """Print the table."""
    with server() as postgres, postgres.database() as url, TemporaryDirectory() as folder:
        results = measured(url, Path(folder))
    print("| | PostgreSQL | copy | PostgreSQL / copy |\n|---|---|---|---|")
    for name, (database, copy) in results.items():
        print(f"| {name} | {database:.2f} | {copy:.3f} | {database / copy:.1f} |")


if __name__ == "__main__":
    main()
