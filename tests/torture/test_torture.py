"""A short form of ``make torture``: each case for a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from products import product_named
from torture import CASES, Case, Torture

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

SECONDS = 1.0
SEED = 7


def cases(database: str) -> pytest.MarkDecorator:
    found = [case for case in CASES if database in case.databases]
    return pytest.mark.parametrize("case", found, ids=lambda case: case.name)


@pytest.fixture(scope="module")
def on_postgres(postgres: object) -> Iterator[Torture]:
    del postgres  # where it is missing there is no server of our own either
    with Torture(product_named("pipedag_airflow", None), "postgres", "schema_swap", SEED) as torture:
        yield torture


@pytest.fixture(scope="module")
def on_duckdb() -> Iterator[Torture]:
    with Torture(product_named("pipedag_airflow", None), "duckdb", "read_views", SEED) as torture:
        yield torture


@pytest.fixture(scope="module", params=["read_views", "available"])
def on_postgres_otherwise(postgres: object, request: pytest.FixtureRequest) -> Iterator[Torture]:
    """By views, and by tables without waiting for readers."""
    del postgres
    available = request.param == "available"
    product = product_named("pipedag_airflow", None, available=available)
    with Torture(product, "postgres", "schema_swap" if available else "read_views", SEED) as torture:
        yield torture


@pytest.mark.parametrize("name", ["one-statement", "long-readers", "crash-points"])
def test_on_postgres_it_is_the_same_however_stages_are_published(on_postgres_otherwise: Torture, name: str) -> None:
    play(on_postgres_otherwise, next(case for case in CASES if case.name == name))


@cases("postgres")
def test_on_postgres_readers_see_what_was_published_and_nothing_else(on_postgres: Torture, case: Case) -> None:
    play(on_postgres, case)


@cases("duckdb")
def test_on_duckdb_readers_see_what_was_published_and_nothing_else(on_duckdb: Torture, case: Case) -> None:
    play(on_duckdb, case)


def play(torture: Torture, case: Case) -> None:
    scene = torture.play(case, SECONDS)

    assert scene.anomalies == []
    assert scene.publishes > 1
    assert scene.reads > 0
