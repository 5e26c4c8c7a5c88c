"""What one changed table costs among large ones that did not change: python bench/carry_over.py.

A stage of 19 tables with 1 GB in all and a small one, on PostgreSQL. The small one changes: seconds, bytes written to
the server's log, and bytes by which the database grows; beside it the same for a stage of the small table alone. By us,
with either technique, and by the reference. Medians of several changes.
"""

from __future__ import annotations

import sys

from support.carry_over_flow import CHANGES, TABLES
from support.postgres import server
from support.side import OURS, REFERENCE, measured

SIDES = ((OURS, "schema_swap"), (OURS, "read_views"), (REFERENCE, "schema_swap"))


def main() -> int:
    """Print the tables."""
    with server() as postgres:
        for side, technique in SIDES:
            found = []
            for tables in (TABLES, 0):
                with postgres.database() as url:
                    found.append(measured("carry_over_flow", side, url, technique, tables))
            among, alone = found
            print(f"{side}, {technique}: one small table changes among {TABLES} large ones ", end="")
            print(f"({among.pop('size') / 1e9:.2f} GB), median of {CHANGES}")
            print("              among      alone   among/alone")
            for what in among:
                # Whoever copies all may have no growth at all: it is what the copies before have left free.
                ratio = f"{among[what] / alone[what]:13.2f}" if alone[what] else "            -"
                print(f"  {what:9} {among[what]:10.2f} {alone[what]:10.2f} {ratio}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
