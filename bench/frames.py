"""How long a frame of 1,000,000 rows and 8 columns takes: python bench/frames.py.

Written and read by us, by the reference, and by the bare driver, which is the limit: ADBC, which makes a COPY BINARY
of the same Arrow data into a table that is there, and fetches as Arrow; and, for writing, a COPY BINARY of bytes that
are made before, so that only the server and the way to it are left. Best of several rounds that take turns, in seconds.
The time that a run of one row takes is taken off ours and the reference's: what is compared is the work on the data.
"""

from __future__ import annotations

import sys
import time

import psycopg
from adbc_driver_postgresql import dbapi
from support.data import frame_of
from support.frames_flow import ROWS
from support.postgres import server
from support.side import OURS, REFERENCE, measured

from pipedag_airflow.backend.table.sql.dialects.postgres.binary_copy import binary_copy

ROUNDS = 3
#: What our time is to be at most, as a part of the reference's.
WANTED = {"pandas write": 5.0, "polars write": 1.5, "pandas read": 1.0, "polars read": 1.0}


def limit(url: str) -> dict[str, float]:
    """Return the seconds that the bare drivers take."""
    arrow = frame_of(ROWS).to_arrow()
    pieces = [bytes(piece) for piece in binary_copy(arrow, "bare")]
    plain = url.replace("+psycopg2", "")
    with dbapi.connect(plain) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest("bare", arrow.slice(0, 0), mode="create")
        connection.commit()
        begin = time.perf_counter()
        cursor.adbc_ingest("bare", arrow, mode="append")
        connection.commit()
        stored = time.perf_counter()
        cursor.execute("SELECT * FROM bare")
        cursor.fetch_arrow_table()
        seconds = {"write": stored - begin, "read": time.perf_counter() - stored}
        cursor.execute("TRUNCATE bare")
        connection.commit()
    with psycopg.connect(plain) as loading, loading.cursor() as cursor:
        begin = time.perf_counter()
        with cursor.copy("COPY bare FROM STDIN (FORMAT BINARY)") as copy:
            for piece in pieces:
                copy.write(piece)
        loading.commit()
    return seconds | {"bytes": time.perf_counter() - begin}


def main() -> int:
    """Print the table."""
    rounds: dict[str, list[dict[str, float]]] = {OURS: [], REFERENCE: [], "limit": []}
    with server() as postgres:
        for _ in range(ROUNDS):
            for side, results in rounds.items():
                with postgres.database() as url:
                    results.append(limit(url) if side == "limit" else measured("frames_flow", side, url))
    best = {
        side: {what: min(result[what] for result in results) for what in results[0]} for side, results in rounds.items()
    }
    print(f"{ROWS:,} rows x 8 columns, best of {ROUNDS}")
    print("                     ours  reference      limit   reference/ours (wanted)   ours/limit")
    for what, wanted in WANTED.items():
        ours, reference, bare = best[OURS][what], best[REFERENCE][what], best["limit"][what.split()[1]]
        print(
            f"  {what:14} {ours:8.2f} {reference:10.2f} {bare:10.2f} {reference / ours:16.1f} ({wanted}) "
            f"{ours / bare:16.2f}"
        )
    ready = best["limit"]["bytes"]
    times = {"ADBC": best["limit"]["write"], "pandas": best[OURS]["pandas write"], "polars": best[OURS]["polars write"]}
    print(f"  COPY of bytes that are made before: {ready:.2f}; as multiples of it: ", end="")
    print(", ".join(f"{who} {seconds / ready:.2f}" for who, seconds in times.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
