"""Copies of tables as Parquet files: what is no whole copy of ours is never read, and nothing of others is removed."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipedag_airflow.backend.table.cache import ParquetTableCache
from pipedag_airflow.errors import ConfigError, StoreError
from pipedag_airflow.testing.table_cache_suite import TableCacheSuite, place

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipedag_airflow.backend.table.sql.facts import TableLocation

TABLE = pa.table({"a": range(1000), "b": [str(number) for number in range(1000)]})
DAY = 24 * 3600


class TestParquetTableCache(TableCacheSuite):
    @pytest.fixture
    def make_cache(self, tmp_path: Path) -> Callable[..., ParquetTableCache]:
        return functools.partial(ParquetTableCache, base_path=tmp_path / "cache")


@pytest.fixture
def cache(tmp_path: Path) -> ParquetTableCache:
    return ParquetTableCache(base_path=tmp_path / "cache")


def files(cache: ParquetTableCache) -> list[Path]:
    return sorted(path for path in cache.base_path.rglob("*") if path.is_file())


def written(cache: ParquetTableCache, location: TableLocation) -> Path:
    """Write a copy and return its file."""
    before = set(files(cache))
    cache.write(location, TABLE)
    (path,) = set(files(cache)) - before
    return path


def unused_for(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def fetched(cache: ParquetTableCache, location: TableLocation) -> str:
    """Ask for a table, and say from where it came."""
    found = cache.fetch(location, lambda: pa.table({"from": ["the database"]}), lambda: 0)
    return "the database" if found.column_names == ["from"] else "the copy"


def test_a_file_says_which_table_it_is_a_copy_of(cache: ParquetTableCache) -> None:
    location = place("orders", "raw")
    path = written(cache, location)
    assert path == cache.base_path / "raw" / f"orders.{location.id}.parquet"
    assert pl.read_parquet(path).equals(pl.DataFrame(TABLE))


@pytest.mark.parametrize("kept", [0, 1, 4, 100, -100, -9, -1])
def test_a_torn_file_is_a_miss_and_is_replaced(
    cache: ParquetTableCache, caplog: pytest.LogCaptureFixture, kept: int
) -> None:
    location = place()
    path = written(cache, location)
    path.write_bytes(path.read_bytes()[:kept])

    assert cache.find_lazy(location) is None
    assert fetched(cache, location) == "the database"
    assert "The local copy of table s.t is not used; it is read from the database: " in caplog.messages[0]
    assert fetched(cache, location) == "the database"  # as it was kept


def test_no_single_changed_byte_is_read_as_the_table(cache: ParquetTableCache) -> None:
    location = place()
    path = written(cache, location)
    whole = path.read_bytes()

    @given(st.integers(0, len(whole) - 1), st.integers(1, 255))
    @settings(max_examples=200, deadline=None)
    def damaged(position: int, change: int) -> None:
        data = bytearray(whole)
        data[position] ^= change
        path.write_bytes(data)
        try:
            found = cache.read(location)
        except Exception:  # whatever the library says; the cache makes a miss of it
            return
        assert found is None or found.equals(TABLE)

    damaged()


def test_a_file_of_somebody_else_is_a_miss(cache: ParquetTableCache, caplog: pytest.LogCaptureFixture) -> None:
    mine, another, strange = place(), place("u"), place()
    path, other = written(cache, mine), written(cache, another)
    path.write_bytes(other.read_bytes())
    pq.write_table(TABLE, path.with_name(path.name.replace(str(mine.id), str(strange.id))))

    for location in (mine, strange):
        assert cache.find_lazy(location) is None
        assert fetched(cache, location) == "the database"
    assert sum("is a file of somebody else" in message for message in caplog.messages) == 4


KILLED = """
import os, pathlib, signal
import pyarrow as pa
from pipedag_airflow.backend.table.cache import ParquetTableCache
from pipedag_airflow.backend.table.sql.facts import TableLocation

pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
location = TableLocation("s", "t", "", "", (), id={id!r})
ParquetTableCache(base_path={folder!r}).write(location, pa.table({{"a": range(1000)}}))
"""


def test_a_kill_between_the_file_and_its_name_is_a_miss_and_leaves_nothing_for_long(cache: ParquetTableCache) -> None:
    location = place()
    script = KILLED.format(id=location.id, folder=str(cache.base_path))
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = files(cache)

    assert (cache.read(location), cache.scan(location)) == (None, None)
    path = written(cache, location)
    assert files(cache) == sorted([left, path])  # another process might be at it still
    unused_for(left, 2 * DAY)
    written(cache, place())
    assert left not in files(cache)


@pytest.mark.parametrize(
    ("old", "new", "unused", "stays"),
    [
        ("orders", "orders", 0.9, True),
        ("orders", "orders", 1.1, False),
        ("orders", "people", 29, True),
        ("orders", "people", 31, False),
        (f"clean_{'a' * 20}_0000", f"clean_{'b' * 20}_0000", 1.1, False),
        (f"clean_{'a' * 20}_0000", f"clean_{'b' * 20}_0001", 1.1, True),
        (f"clean_{'a' * 20}_0000", f"mended_{'b' * 20}_0000", 1.1, True),
    ],
)
def test_a_write_removes_what_it_follows_and_what_nobody_reads(
    cache: ParquetTableCache, old: str, new: str, unused: float, stays: bool
) -> None:
    path = written(cache, place(old))
    unused_for(path, unused * DAY)
    written(cache, place(new))
    assert path.exists() == stays


def test_what_is_read_is_in_use(cache: ParquetTableCache) -> None:
    old = place()
    path = written(cache, old)
    for read in (cache.read, cache.scan):
        unused_for(path, 100 * DAY)
        assert read(old) is not None
        written(cache, place())
        assert path.exists()


def test_other_stages_are_left_alone(cache: ParquetTableCache) -> None:
    path = written(cache, place(stage="other"))
    unused_for(path, 100 * DAY)
    written(cache, place())
    assert path.exists()


@pytest.mark.parametrize("name", ["t.parquet", "notes.txt", ".hidden", ".x.tmp", "t.AAAAAAAAAAAAAAAAAAAA.parquet"])
def test_what_we_did_not_write_is_never_removed(cache: ParquetTableCache, name: str) -> None:
    folder = written(cache, place()).parent
    path = folder / name
    path.write_text("mine")
    unused_for(path, 1000 * DAY)
    written(cache, place())
    assert path.read_text() == "mine"


def test_a_lazy_frame_reads_the_file_that_it_was_made_for(cache: ParquetTableCache) -> None:
    location = place()
    written(cache, location)
    lazy = cache.scan(location)
    assert lazy is not None
    for _ in range(3):
        written(cache, place())
    assert lazy.filter(pl.col("a") == 7).collect().rows() == [(7, "7")]


@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.floats(),
            st.none() | st.text(st.characters(exclude_categories=["Cs"])),
            st.none() | st.lists(st.none() | st.binary(max_size=3), max_size=3),
        )
    )
)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_rows_come_back(cache: ParquetTableCache, rows: list[tuple[object, ...]]) -> None:
    schema = {"a": pl.Int64, "b": pl.Float64, "c": pl.String, "d": pl.List(pl.Binary)}
    frame = pl.DataFrame(rows, schema, orient="row")
    location = place()
    cache.write(location, frame.to_arrow())
    found, lazy = cache.read(location), cache.scan(location)
    assert found is not None
    assert lazy is not None
    assert pl.DataFrame(found).equals(frame)
    assert lazy.collect().equals(frame)


def test_a_folder_that_cannot_be_written_is_a_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    cache = ParquetTableCache(base_path=tmp_path / "cache")
    assert fetched(cache, place()) == "the database"
    assert "No local copy of table s.t is kept; it will be read again: " in caplog.messages[-1]
    with pytest.raises(StoreError, match=r"Copies of tables cannot be kept in .*/cache: .*Error.*base_path"):
        cache.check()


def test_a_type_that_no_file_has_is_a_line_in_the_log(
    cache: ParquetTableCache, caplog: pytest.LogCaptureFixture
) -> None:
    thousands = pa.table({"x": pa.array([1000], pa.decimal128(10, 0)).cast(pa.decimal128(10, -3))})
    assert cache.fetch(place(), lambda: thousands, lambda: 0) is thousands
    assert "No local copy of table s.t is kept" in caplog.text
    assert files(cache) == []


def test_what_fails_to_read_fails(cache: ParquetTableCache) -> None:
    def read() -> pa.Table:
        raise StoreError("the database is away")

    with pytest.raises(StoreError, match="away"):
        cache.fetch(place(), read, lambda: 0)


def test_a_check_leaves_no_folder(cache: ParquetTableCache) -> None:
    cache.check()
    assert list(cache.base_path.iterdir()) == []


@pytest.mark.parametrize("url", ["s3://bucket/cache", "gs://bucket"])
def test_a_folder_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"base_path is '.*://.*must be a folder of this machine"):
        ParquetTableCache(base_path=url)
