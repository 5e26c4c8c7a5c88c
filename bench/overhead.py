"""How long a flow takes whose tasks do nothing: python bench/overhead.py.

200 tasks with literal outputs and 100 lazy tables, each of which reads the one before it, in 4 stages, on PostgreSQL: a
first run, and a run in which nothing has changed; by us and by the reference. Best of several rounds, in seconds.
"""

from __future__ import annotations

import sys

from support.overhead_flow import LAZY, LITERALS, STAGES
from support.postgres import server
from support.side import OURS, REFERENCE, measured

ROUNDS = 3


def main() -> int:
    """Print the table."""
    rounds: dict[str, list[dict[str, float]]] = {OURS: [], REFERENCE: []}
    with server() as postgres:
        for _ in range(ROUNDS):
            for side, results in rounds.items():
                with postgres.database() as url:
                    results.append(measured("overhead_flow", side, url))
    print(f"{STAGES * LITERALS} literals and {STAGES * LAZY} lazy tables in {STAGES} stages, best of {ROUNDS}")
    print("                ours  reference   reference/ours")
    for what in ("first", "unchanged"):
        ours, reference = (min(result[what] for result in rounds[side]) for side in rounds)
        print(f"  {what:10} {ours:8.2f} {reference:10.2f} {reference / ours:16.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
