"""A reader who knows nothing of us: python reader.py URL TABLE ...; each query is one of a new reader.

It prints when each of its queries began and how long it took, when its input ends.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time

from support.postgres import connect


def main(url: str, *tables: str) -> None:
    """Query one table after the other until the input ends."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    queries = []
    with connect(url) as connection:
        for table in itertools.cycle(tables):
            if ended.is_set():
                break
            begin = time.time()
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            queries.append((begin, time.time() - begin))
    print(json.dumps(queries))


if __name__ == "__main__":
    main(*sys.argv[1:])
