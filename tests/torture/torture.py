"""Torture a package that publishes, and count what readers see that they must not see.

    python tests/torture/torture.py --minutes 10 --database postgres

It prints a line for each case, and fails if there is an anomaly. With ``--package`` and ``--python`` another package
with pipedag's API is tortured, in an environment of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import attrs
import killing
import reading
import rivals
from places import DuckDBPlace, PostgresPlace
from products import product_named
from scene import Scene
from writers import Writers

from pipedag_airflow.testing.postgres import own_postgres_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from places import Place
    from products import Product

__all__ = ["CASES", "Case", "Torture", "main"]

#: As many anomalies of a case are told.
_TOLD = 5


@attrs.frozen
class Case:
    """A case.

    Args:
        play: What happens in a scene; its docstring says what must not.
        databases: Where there is such a case.
        white_box: Whether the package must have places at which it can be told to die.
    """

    play: Callable[[Scene], None]
    databases: tuple[str, ...] = ("postgres", "duckdb")
    white_box: bool = False

    @property
    def name(self) -> str:
        """The name of the case."""
        return self.play.__name__.replace("_", "-")


_SERVER = ("postgres",)
CASES = (
    Case(reading.one_statement),
    Case(reading.read_committed, _SERVER),
    Case(reading.repeatable_read, _SERVER),
    Case(reading.metadata_join),
    Case(reading.granted_role, _SERVER),
    Case(reading.bi_view),
    Case(reading.long_readers, _SERVER),
    Case(killing.crash_points, white_box=True),
    Case(killing.random_kills),
    Case(killing.server_stops, _SERVER),
    Case(rivals.two_writers_paused),
    Case(rivals.three_writers_paused),
    Case(rivals.race_without_locks),
    Case(rivals.cut_sessions, _SERVER),
    Case(rivals.consumer),
)


class Torture:
    """Plays cases on one database server, with writers that are ready; a context manager.

    Args:
        product: What is tortured.
        database: ``postgres`` or ``duckdb``.
        technique: How stages are published, as pipedag.yaml says it.
        seed: Of what is left to chance.
    """

    def __init__(self, product: Product, database: str, technique: str, seed: int) -> None:
        self._product = product
        self._database = database
        self._technique = technique
        self._seed = seed
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="torture_")))
            if self._database == "postgres":
                self._server = stack.enter_context(own_postgres_server(durable=True))
            self._writers = stack.enter_context(Writers(self._product, self.folder / "writers.log"))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def cases(self) -> list[Case]:
        """The cases that there are of this product on this database."""
        able = bool(self._product.crash_points)
        return [case for case in CASES if self._database in case.databases and (able or not case.white_box)]

    def play(self, case: Case, seconds: float) -> Scene:
        """Play a case for that long, and return its scene."""
        with self._place(self.folder / case.name) as place:
            dice = random.Random(f"{self._seed} {case.name}")
            scene = Scene(self._product, place, self._writers, self._technique, seconds, dice)
            try:
                case.play(scene)
            finally:
                scene.close()
        return scene

    @contextlib.contextmanager
    def _place(self, folder: Path) -> Iterator[Place]:
        folder.mkdir()
        if self._database == "duckdb":
            yield DuckDBPlace(folder)
            return
        with self._server.database() as url:
            yield PostgresPlace(self._server, str(url.database), folder)


def report(case: Case, scene: Scene) -> str:
    """Return what a case has found: a line, and the first anomalies."""
    counts = f"{scene.publishes} publishes, {scene.reads} reads, {scene.kills} kills, {len(scene.anomalies)} anomalies"
    lines = [f"{scene.place.name:8} {case.name:20} {counts}"]
    lines += [f"    {anomaly.splitlines()[0]}" for anomaly in scene.anomalies[:_TOLD]]
    if len(scene.anomalies) > _TOLD:
        lines.append(f"    and {len(scene.anomalies) - _TOLD} more")
    return "\n".join(lines)


def main() -> int:
    """Play the cases that are asked for; return how many had anomalies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="for all cases of a database together")
    parser.add_argument("--database", choices=["postgres", "duckdb"], action="append", help="by default both")
    parser.add_argument("--technique", help="the stage_commit_technique; by default that of the database")
    parser.add_argument("--available", action="store_true", help="publish with commit_consistency: available")
    parser.add_argument("--case", choices=[case.name for case in CASES], action="append", help="by default all")
    parser.add_argument("--package", default="pipedag_airflow", help="the package that publishes")
    parser.add_argument("--python", help="the interpreter that has it; by default this one")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of what is left to chance")
    arguments = parser.parse_args()

    product = product_named(arguments.package, arguments.python, available=arguments.available)
    bad = 0
    for database in arguments.database or ["postgres", "duckdb"]:
        technique = arguments.technique or ("schema_swap" if database == "postgres" else "read_views")
        with Torture(product, database, technique, arguments.seed) as torture:
            print(f"# {product.package} on {database} by {technique}, seed {arguments.seed}", flush=True)
            cases = [case for case in torture.cases if not arguments.case or case.name in arguments.case]
            for case in cases:
                scene = torture.play(case, arguments.minutes * 60 / len(cases))
                print(report(case, scene), flush=True)
                bad += bool(scene.anomalies)
    return bad


if __name__ == "__main__":
    sys.exit(main())
