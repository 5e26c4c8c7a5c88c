"""What leaves the process of a task tells no secret."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING

import pytest

from pipedag_airflow.config.hiding import hidden_secrets
from pipedag_airflow.config.known_secrets import known_secrets
from pipedag_airflow.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = "hunter22"


class StubbornError(Exception):
    def __str__(self) -> str:
        return f"always {PASSWORD}"


@pytest.fixture(autouse=True)
def _known() -> None:
    known_secrets.learn([PASSWORD])


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    text = io.StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(text)])
    return text


def _chained() -> None:
    try:
        raise KeyError(PASSWORD)
    except KeyError as error:
        error.add_note(f"noted: {PASSWORD}")
        raise ValueError(f"no login with {PASSWORD}", 3) from error


def _grouped() -> None:
    raise ExceptionGroup("both", [ValueError(PASSWORD), KeyError(f"no {PASSWORD}")])


def _with_fields() -> None:
    raise FileNotFoundError(2, "no such file", f"/share/{PASSWORD}")


def _unexchangeable() -> None:
    try:
        raise StubbornError
    except StubbornError as error:
        raise ValueError("could not log in") from error


@pytest.mark.parametrize(
    ("step", "raised", "texts"),
    [
        (_chained, ValueError, ["no login with ***", "KeyError: '***'", "noted: ***"]),
        (_grouped, ExceptionGroup, ["ValueError: ***", "KeyError: 'no ***'"]),
        (_with_fields, RunError, ["FileNotFoundError: ", "'/share/***'"]),
        (_unexchangeable, RunError, ["always ***", "could not log in"]),
    ],
)
def test_an_error_keeps_its_kind_where_that_is_possible_and_tells_no_secret(step, raised, texts):
    with pytest.raises(raised) as caught, hidden_secrets():
        step()
    assert type(caught.value) is raised
    shown = "".join(traceback.format_exception(caught.value))
    assert all(text in shown for text in texts)
    assert PASSWORD not in shown
    assert step.__name__ in shown


def test_an_error_that_tells_nothing_passes_as_it_is():
    error = ValueError("no file", {"a": 1})
    with pytest.raises(ValueError, match="no file") as caught, hidden_secrets():
        raise error
    assert caught.value is error
    assert error.args == ("no file", {"a": 1})


def test_what_is_logged_tells_no_secret(log: io.StringIO) -> None:
    with hidden_secrets():
        logging.getLogger("mine").warning("%s and %d", {"password": PASSWORD}, 3)
        try:
            raise ValueError(PASSWORD)
        except ValueError:
            logging.getLogger("mine").exception("it failed")
    logging.getLogger("mine").warning("after it: %s", PASSWORD)
    text = log.getvalue()
    assert text.startswith("{'password': '***'} and 3\nit failed\n")
    assert text.endswith(f"ValueError: ***\nafter it: {PASSWORD}\n")
    assert text.count(PASSWORD) == 1


def test_what_is_printed_tells_no_secret(capfd: pytest.CaptureFixture[str]) -> None:
    with hidden_secrets():
        print("it is", PASSWORD)
        sys.stdout.writelines([f"{PASSWORD}, ", f"{PASSWORD}\n"])
        sys.stderr.write(f"no login with {PASSWORD}\n")
        subprocess.run(["echo", "from a program"], stdout=sys.stdout, check=True)
    print("after it", PASSWORD)
    assert capfd.readouterr() == (f"it is ***\n***, ***\nfrom a program\nafter it {PASSWORD}\n", "no login with ***\n")
