"""The data of the benchmarks."""

from __future__ import annotations

import datetime as dt

import polars as pl

__all__ = ["frame_of"]


def frame_of(rows: int) -> pl.DataFrame:
    """Return a frame of eight columns of different types, one of them with nulls; the same in each process."""
    number = pl.int_range(rows, eager=True).alias("id")
    start = dt.datetime(2020, 1, 1)  # noqa: DTZ001 - a moment without a zone
    return number.to_frame().with_columns(
        small=(pl.col("id") % 1000).cast(pl.Int32),
        price=pl.col("id") * 0.37 + 0.1,
        flag=pl.col("id") % 3 == 0,
        name=pl.lit("customer ") + (pl.col("id") * 7919 % 100_000).cast(pl.String),
        comment=pl.when(pl.col("id") % 5 != 0).then(pl.lit("ordered by phone, ") + pl.col("id").cast(pl.String)),
        day=pl.lit(start.date()) + pl.duration(days=pl.col("id") % 2000),
        at=pl.lit(start) + pl.duration(seconds=pl.col("id")),
    )
