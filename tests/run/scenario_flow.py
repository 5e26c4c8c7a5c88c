"""The project of test_scenario.py: a shop of 42 tasks in seven stages, with something of every kind."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import attrs
import pandas as pd
import polars as pl
import sqlalchemy as sa

from pipedag_airflow import AUTO_VERSION, Blob, Flow, GroupNode, RawSql, Stage, Table, View, materialize

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Source", "shop"]


@attrs.frozen
class Source:
    """What is edited from run to run: each attribute stands in the code of the project, or in the world around it."""

    #: Number of customers; whoever changes it changes the version of the task.
    customers: int = 6
    #: A number in the query of clean.customers.
    groups: int = 2
    #: A literal argument.
    vat: int = 19
    #: What the cache function of raw.products says, and what is in the file.
    day: int = 1
    #: A number in the code of two tasks with AUTO_VERSION.
    bonus: int = 1
    #: A number in the query of features.by_product.
    discount: int = 5
    #: The version of model.train.
    model: str = "1"
    #: The name of a task of the mart.
    report: str = "report"
    #: Whether there are stores.
    stores: bool = True
    #: Whether model.train fails.
    broken: bool = False


def shop(source: Source, call: Callable[[str], None]) -> Flow:
    """Return the project's flow.

    Args:
        source: What stands in its code.
        call: Called with the name of each task with a version of its own, whenever its function is called.
    """

    def eager(version: str | None = "1", **options: Any) -> Any:
        """A task that notes that its function is called."""

        def decorate(function: Callable[..., Any]) -> Any:
            @functools.wraps(function)
            def noted(*arguments: Any) -> Any:
                call(options.get("name", function.__name__))
                return function(*arguments)

            return materialize(version=version, **options)(noted)

        return decorate

    with Flow("shop") as flow:
        raw = _raw(source, eager)
        clean = _clean(source, eager, raw)
        features = _features(source, eager, raw, clean)
        model = _model(source, eager, clean, features)
        _mart(source, eager, {**raw, **clean, **features, **model})
    return flow


def _raw(source: Source, eager: Any) -> dict[str, Any]:
    @eager(str(source.customers))
    def customers() -> Table[Any]:
        ids = range(1, source.customers + 1)
        return Table(pd.DataFrame({"id": ids, "group": [number % 3 for number in ids]}), "customers", primary_key="id")

    @eager(cache=lambda: source.day)
    def products() -> Table[Any]:
        ids = [1, 2, 3, 4]
        return Table(pl.DataFrame({"id": ids, "price": [10 * number + source.day for number in ids]}), "products")

    @eager()
    def stores() -> Table[Any]:
        return Table(pd.DataFrame({"id": [1, 2], "town": ["Bonn", None]}), "stores")

    @eager()
    def orders(month: int) -> Table[Any]:
        columns = {
            "id": [10 * month + number for number in range(6)],
            "customer": [1 + number for number in range(6)],
            "product": [1 + (number + month) % 4 for number in range(6)],
            "store": [1 + number % 2 for number in range(6)],
        }
        return Table(pd.DataFrame(columns), f"orders_{month}", indexes=[["customer"]])

    @materialize(lazy=True)
    def calendar() -> Table[Any]:
        return Table(sa.text("select 1 as month union all select 2 union all select 3 union all select 4"), "calendar")

    @eager()
    def settings() -> dict[str, Any]:
        return {"limits": (1, 100), "title": "Shop"}

    @eager()
    def vat(percent: int) -> float:
        return 1 + percent / 100

    @materialize(lazy=True)
    def script(stage: Stage) -> RawSql:
        return RawSql(f"create table {stage.current_name}.currencies as select 'EUR' as code union all select 'CHF'")

    with Stage("raw") as stage:
        made = {"customers": customers(), "products": products(), "settings": settings(), "vat": vat(source.vat)}
        if source.stores:
            made["stores"] = stores()
        # The last call is the first one again.
        made["orders"] = [orders(month) for month in (1, 2, 3, 4, 1)]
        return made | {"calendar": calendar(), "script": script(stage)}


def _clean(source: Source, eager: Any, raw: dict[str, Any]) -> dict[str, Any]:
    bonus = source.bonus

    @materialize(name="customers", lazy=True, input_type=sa.Table)
    def customers(table: Any) -> Table[Any]:
        return Table(sa.select(table.c.id).where(table.c.group < source.groups), "customers", primary_key="id")

    @materialize(name="products", version=AUTO_VERSION, input_type=pl.LazyFrame)
    def products(table: pl.LazyFrame) -> Table[Any]:
        return Table(table.with_columns(bonus=pl.col("price") * bonus), "products")

    @eager(name="stores", input_type=pl.DataFrame)
    def stores(table: pl.DataFrame) -> Table[Any]:
        return Table(table.drop_nulls(), "stores")

    @eager(name="orders", input_type=pd.DataFrame)
    def orders(table: pd.DataFrame, number: int) -> Table[Any]:
        return Table(table.assign(month=table["id"] // 10), f"orders_{number}")

    @materialize(lazy=True, input_type=sa.Table)
    def all_orders(tables: list[Any]) -> Table[Any]:
        return Table(sa.union_all(*(sa.select(table) for table in tables)), "orders")

    @eager(input_type=pl.DataFrame)
    def prices(products: pl.DataFrame, vat: float) -> Table[Any]:
        return Table(products.select("id", gross=pl.col("bonus") * vat), "prices")

    @eager(input_type=pd.DataFrame)
    def count_orders(table: pd.DataFrame) -> int:
        return len(table)

    @materialize(lazy=True, input_type=sa.Table)
    def gaps(orders: Any, calendar: Any) -> Table[Any]:
        found = sa.select(calendar.c.month).where(calendar.c.month.not_in(sa.select(orders.c.month)))
        return Table(found, "gaps")

    with Stage("clean"):
        made = {"clean_customers": customers(raw["customers"]), "clean_products": products(raw["products"])}
        if source.stores:
            made["clean_stores"] = stores(raw["stores"])
        single = [orders(table, number) for number, table in enumerate(raw["orders"][:4], start=1)]
        made["all_orders"] = all_orders(single)
        with Stage("checks"), GroupNode("checks"):
            made["count"] = count_orders(made["all_orders"])
            gaps(made["all_orders"], raw["calendar"])
        return made | {"prices": prices(made["clean_products"], raw["vat"])}


def _features(source: Source, eager: Any, raw: dict[str, Any], clean: dict[str, Any]) -> dict[str, Any]:
    @materialize(lazy=True, input_type=sa.Table)
    def by_customer(orders: Any, customers: Any) -> Table[Any]:
        query = sa.select(customers.c.id, sa.func.count().label("orders"))
        return Table(query.join(orders, orders.c.customer == customers.c.id).group_by(customers.c.id), "by_customer")

    @materialize(lazy=True, input_type=sa.Table)
    def by_product(orders: Any, prices: Any) -> Table[Any]:
        price = (prices.c.gross - source.discount).label("price")
        return Table(
            sa.select(orders.c.id, orders.c.customer, price).join(prices, prices.c.id == orders.c.product), "sales"
        )

    @eager(input_type=pd.DataFrame)
    def by_store(orders: pd.DataFrame, stores: pd.DataFrame) -> Table[Any]:
        return Table(orders[orders["store"].isin(stores["id"])].groupby("store", as_index=False).size(), "by_store")

    @materialize(lazy=True, input_type=sa.Table)
    def by_month(orders: Any, calendar: Any) -> Table[Any]:
        query = sa.select(calendar.c.month, sa.func.count(orders.c.id).label("orders"))
        return Table(query.outerjoin(orders, orders.c.month == calendar.c.month).group_by(calendar.c.month), "by_month")

    @eager(input_type=pl.DataFrame)
    def encoder(products: pl.DataFrame) -> Blob[Any]:
        return Blob({row["id"]: row["bonus"] for row in products.to_dicts()}, "encoder")

    @eager(input_type=pl.DataFrame)
    def scaled(sales: pl.DataFrame, encoder: dict[int, int]) -> Table[Any]:
        return Table(sales.with_columns(scaled=pl.col("price") / max(encoder.values())), "scaled")

    @eager()
    def limits(settings: dict[str, Any]) -> tuple[int, int]:
        return settings["limits"]

    with Stage("features"):
        orders = clean["all_orders"]
        with GroupNode("aggregates"):
            made = {"by_customer": by_customer(orders, clean["clean_customers"])}
            made["sales"] = by_product(orders, clean["prices"])
            if source.stores:
                by_store(orders, clean["clean_stores"])
            made["by_month"] = by_month(orders, raw["calendar"])
        made["scaled"] = scaled(made["sales"], encoder(clean["clean_products"]))
        return made | {"limits": limits(raw["settings"])}


def _model(source: Source, eager: Any, clean: dict[str, Any], features: dict[str, Any]) -> dict[str, Any]:
    bonus = source.bonus

    @materialize(lazy=True, input_type=sa.Table)
    def split(by_customer: Any) -> dict[str, Any]:
        even = Table(sa.select(by_customer).where(by_customer.c.id % 2 == 0), "even").materialize()
        return {"train": even, "test": Table(sa.select(by_customer).where(by_customer.c.id % 2 == 1), "odd")}

    @eager(source.model, input_type=pd.DataFrame)
    def train(table: pd.DataFrame) -> Blob[Any]:
        if source.broken:
            raise ZeroDivisionError("the data do not suffice")
        return Blob((source.model, float(table["orders"].mean())), "model")

    @eager(input_type=pd.DataFrame)
    def predict(test: pd.DataFrame, scaled: pd.DataFrame, model: tuple[str, float]) -> Table[Any]:
        joined = test.merge(scaled, left_on="id", right_on="customer", suffixes=("", "_order"))
        return Table(joined.assign(guess=joined["scaled"] * model[1], model=model[0]), "predicted")

    @eager(input_type=pd.DataFrame)
    def score(predicted: pd.DataFrame, limits: tuple[int, int]) -> float:
        return round(float(predicted["guess"].clip(*limits).sum()), 6)

    @materialize(version=AUTO_VERSION, input_type=pd.DataFrame)
    def importance(prices: pd.DataFrame) -> Table[Any]:
        return Table(prices.assign(weight=prices["gross"] * bonus), "importance")

    with Stage("model"):
        parts = split(features["by_customer"])
        predicted = predict(parts["test"], features["scaled"], train(parts["train"]))
        made = {"predicted": predicted, "score": score(predicted, features["limits"])}
        importance(clean["prices"])
        return made


def _mart(source: Source, eager: Any, made: dict[str, Any]) -> None:
    @eager(name=source.report, input_type=pd.DataFrame)
    def report(predicted: pd.DataFrame, count: int, settings: dict[str, Any]) -> Table[Any]:
        return Table(predicted[["id", "guess"]].assign(orders=count, title=settings["title"]), "report")

    @materialize(lazy=True, input_type=sa.Table)
    def loyal(by_customer: Any) -> View[Any]:
        return View(sa.select(by_customer.c.id).where(by_customer.c.orders > 3), "loyal")

    @materialize(lazy=True, input_type=sa.Table)
    def summary(by_month: Any) -> Table[Any]:
        return Table(sa.select(sa.func.max(by_month.c.orders).label("most")), "summary")

    @eager()
    def totals(score: float, count: int) -> dict[str, Any]:
        return {"score": score, "orders": count}

    @eager(input_type=pl.DataFrame)
    def currencies(script: RawSql) -> Table[Any]:
        return Table(script["currencies"].sort("code"), "currencies")

    @eager(None)
    def export(totals: dict[str, Any]) -> str:
        return f"sent {totals['orders']} orders"

    @eager(input_type=pl.DataFrame)
    def archive(report: pl.DataFrame) -> Table[Any]:
        return Table(report, "archive")

    with Stage("mart"):
        reported = report(made["predicted"], made["count"], made["settings"])
        loyal(made["by_customer"])
        summary(made["by_month"])
        currencies(made["script"])
        summed = totals(made["score"], made["count"])
        with GroupNode("to the outside", ordering_barrier=True):
            export(summed)
        with Stage("archive"):
            archive(reported)
