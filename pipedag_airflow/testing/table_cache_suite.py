"""What every local table cache must do.

class TestMyTableCache(TableCacheSuite):
@pytest.fixture
def make_cache(self, tmp_path):
return functools.partial(MyTableCache, tmp_path)
"""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl
import polars.testing
import pyarrow as pa
import pytest

from pipedag_airflow.backend.table.sql.facts import TableLocation
from pipedag_airflow.backend.table.sql.frames.arrow import from_database
from pipedag_airflow.core.fingerprint import random_fingerprint
from pipedag_airflow.testing.store_fixtures import HOSTILE_NAMES
from pipedag_airflow.testing.type_cases import CASES

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipedag_airflow.backend.table.cache import TableCache

__all__ = ["TableCacheSuite", "columns", "place", "write_again_and_again"]

_PATIENCE = 60.0  # seconds; only how long a broken cache takes to fail
#: How many rows the tables have that processes write, and how often they do.
_ROWS, _TIMES = 50_000, 20


def place(name: str = "t", stage: str = "s", **options: Any) -> TableLocation:
    """Return where a table is; each call means another storing of it."""
    return TableLocation(stage, name, "", "", (), **{"id": random_fingerprint()} | options)


def columns() -> dict[str, pa.Table]:
    """Return a table of a column of each type that comes out of a database."""
    found = {
        f"{dialect}: {name}": case.expected
        for dialect, cases in CASES.items()
        for name, case in cases.items()
        if not case.refused
    }
    tables = {name: from_database(frame.to_arrow()) for name, frame in found.items()}
    # What a driver may give, and no file of Parquet has.
    return tables | {
        "seconds": pa.table({"x": pa.array([1, None], pa.timestamp("s"))}),
        "strings of another layout": pa.table({"x": pa.array(["a", None], pa.string_view())}),
    }


def write_again_and_again(make_cache: Callable[[], TableCache], location: TableLocation, pipe: Any) -> None:
    """Write one copy many times, and read it after each, in another process.

    Args:
        make_cache: Makes the cache.
        location: Where the table is.
        pipe: Takes how often the copy was read whole.
    """
    cache, table = make_cache(), pa.table({"a": range(_ROWS)})
    pipe.send("ready")
    pipe.recv()
    whole = 0
    for _ in range(_TIMES):
        cache.write(location, table)
        found = cache.read(location)
        whole += found is not None and found.equals(table)
    pipe.send(whole)


class TableCacheSuite:
    """Tests of one local table cache."""

    separate_processes: ClassVar[bool] = True
    """Whether ``make_cache`` can be pickled and gives caches of the same copies in other processes."""

    @pytest.fixture
    def make_cache(self) -> Callable[..., TableCache]:
        """Give a callable that takes the options of a cache and makes one; all of a test share their copies.

        To be overridden.
        """
        raise NotImplementedError

    @pytest.fixture
    def cache(self, make_cache: Callable[..., TableCache]) -> TableCache:
        """A cache."""
        return make_cache()

    @pytest.mark.parametrize("rows", [True, False], ids=["rows", "empty"])
    @pytest.mark.parametrize("name", columns())
    def test_what_was_written_is_read(self, make_cache: Callable[..., TableCache], name: str, rows: bool) -> None:
        """Same types and same values, by another cache object, at once and later."""
        location, table = place(), columns()[name]
        table = table if rows else table.slice(0, 0)
        make_cache().write(location, table)
        found = make_cache().read(location)
        assert found is not None
        assert found.schema.equals(table.schema, check_metadata=True)
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        polars.testing.assert_frame_equal(pl.DataFrame(found), frame, check_exact=True)
        lazy = make_cache().scan(location)
        if lazy is not None:
            assert lazy.collect_schema() == frame.schema
            polars.testing.assert_frame_equal(lazy.collect(), frame, check_exact=True)

    def test_what_was_not_written_is_not_there(self, cache: TableCache) -> None:
        """Neither before anything was written, nor if another storing, table or stage was."""
        one = place()
        assert (cache.read(one), cache.scan(one)) == (None, None)
        cache.write(one, pa.table({"a": [1]}))
        for other in (place(), place("u", id=one.id), place(stage="r", id=one.id)):
            assert cache.read(other) is None

    def test_each_storing_of_a_table_has_a_copy_of_its_own(self, cache: TableCache) -> None:
        """Those who read the old one are not disturbed by the new one."""
        old, new = place(), place()
        cache.write(old, pa.table({"a": ["old"]}))
        cache.write(new, pa.table({"a": ["new"]}))
        read = [cache.read(location) for location in (old, new)]
        assert [table and table.column("a").to_pylist() for table in read] == [["old"], ["new"]]

    @pytest.mark.parametrize(
        "name", [*HOSTILE_NAMES, "..", ".", "a/b", "a*b", "x" * 300, "T", "t.aaaaaaaaaaaaaaaaaaaa"]
    )
    def test_a_table_and_a_stage_may_have_any_name(self, cache: TableCache, name: str) -> None:
        """And none of them is taken for another, though all have one id."""
        names, one = ("t", name), random_fingerprint()
        locations = [place(table, stage, id=one) for stage in names for table in names]
        for location in locations:
            cache.write(location, pa.table({"a": [f"{location.stage} {location.name}"]}))
        for location in locations:
            found, lazy = cache.read(location), cache.scan(location)
            assert found is not None
            assert found.column("a").to_pylist() == [f"{location.stage} {location.name}"]
            assert lazy is None or lazy.collect()["a"].to_list() == found.column("a").to_pylist()

    def test_columns_may_have_any_names(self, cache: TableCache) -> None:
        """As they may in a database."""
        location, table = place(), pa.table({name: [1] for name in HOSTILE_NAMES})
        cache.write(location, table)
        found = cache.read(location)
        assert found is not None
        assert found.equals(table)

    def test_a_lazy_frame_finds_what_is_asked_of_it(self, cache: TableCache) -> None:
        """NaN is larger than every number to polars; what a file says of its largest value must not hide it."""
        location, numbers = place(), [1.0, float("nan"), None, -1.0]
        cache.write(location, pa.table({"a": pa.array(numbers, from_pandas=False)}))
        lazy = cache.scan(location)
        if lazy is not None:
            assert lazy.filter(pl.col("a") > 5).collect().height == 1

    def test_copies_are_not_read_if_they_are_not_to_be_used(self, make_cache: Callable[..., TableCache]) -> None:
        """They are kept all the same, for others."""
        location, table = place(), pa.table({"a": [1]})
        cache = make_cache(use_stored_input_as_cache=False)
        reads = 0

        def read() -> pa.Table:
            nonlocal reads
            reads += 1
            return table

        for _ in range(2):
            assert cache.fetch(location, read, lambda: 0).equals(table)
        assert (reads, cache.find_lazy(location)) == (2, None)
        assert make_cache().fetch(location, read, lambda: 0).equals(table)
        assert reads == 2

    @pytest.mark.parametrize(
        ("configured", "asked", "kept"),
        [(True, None, True), (False, None, False), (True, False, False), (False, True, True)],
    )
    def test_what_is_read_is_kept_if_it_is_wanted(
        self, make_cache: Callable[..., TableCache], configured: bool, asked: bool | None, kept: bool
    ) -> None:
        """The reader's word goes before the configuration's."""
        location = place(keep_copy=asked)
        cache = make_cache(store_input=configured)
        cache.fetch(location, lambda: pa.table({"a": [1]}), lambda: 0)
        assert (cache.read(location) is not None) == kept

    @pytest.mark.parametrize("seen", [[None, None], [1, 2], [1, None], [None, 1]])
    def test_what_was_moved_while_it_was_read_is_not_kept(self, cache: TableCache, seen: list[int | None]) -> None:
        """It may be another table's rows."""
        location, looks = place(), iter(seen)
        cache.fetch(location, lambda: pa.table({"a": [1]}), lambda: next(looks))
        assert cache.read(location) is None

    @pytest.mark.parametrize(("rows", "kept"), [(None, True), (1, True), (0, False), (2, False)])
    def test_what_has_other_rows_than_were_stored_is_not_kept(
        self, cache: TableCache, rows: int | None, kept: bool
    ) -> None:
        """Somebody has changed the table, or a crash has emptied it."""
        location = place(rows=rows)
        cache.fetch(location, lambda: pa.table({"a": [1]}), lambda: 0)
        assert (cache.read(location) is not None) == kept

    def test_a_table_without_an_id_is_not_kept(self, cache: TableCache) -> None:
        """It may have other rows tomorrow."""
        location, rows = place(id=None, keep_copy=True), iter([[1], [2]])
        for expected in ([1], [2]):
            found = cache.fetch(location, lambda: pa.table({"a": next(rows)}), lambda: 0)
            assert found.column("a").to_pylist() == expected

    def test_processes_may_write_one_copy_at_a_time(
        self, make_cache: Callable[..., TableCache], cache: TableCache
    ) -> None:
        """Whoever reads it, reads it whole."""
        if not self.separate_processes:
            pytest.skip("the cache says that its copies live in one process")
        location = place()
        context = multiprocessing.get_context("spawn")
        pipes, processes = [], []
        for _ in range(2):
            ours, theirs = context.Pipe()
            pipes.append(ours)
            processes.append(context.Process(target=write_again_and_again, args=(make_cache, location, theirs)))
            processes[-1].start()
        for pipe in pipes:
            assert pipe.poll(_PATIENCE), "the other process does not start"
            pipe.recv()
        for pipe in pipes:
            pipe.send("go")
        for pipe in pipes:
            assert pipe.poll(_PATIENCE), "the other process does not answer"
            assert pipe.recv() == _TIMES
        for process in processes:
            process.join(_PATIENCE)
        found = cache.read(location)
        assert found is not None
        assert found.num_rows == _ROWS

    def test_a_try_leaves_nothing_behind(self, cache: TableCache) -> None:
        """And says what was tried."""
        assert cache.check() == f"{cache!r}: a copy was written, read and removed"
