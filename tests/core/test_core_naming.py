"""Rules 1.1.4 and 5.2.3: normal names, generated names, schemas of generations, and hashes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipedag_airflow.core.fingerprint import fingerprint, random_fingerprint
from pipedag_airflow.core.naming import generated_name, generation_schema, looks_like_generation, normalise


@pytest.mark.parametrize(
    ("name", "normal"), [("Clean", "clean"), (" a ", "a"), ("a/b", "a_b"), ("ß", "ss"), ("a b", "a b"), ("", "")]
)
def test_names_have_a_normal_form(name, normal):
    assert normalise(name) == normal


@given(st.text())
def test_a_normal_name_has_no_capitals_no_slash_and_no_space_around_it(name):
    normal = normalise(name)
    assert normal == normal.strip()
    assert "/" not in normal
    assert normalise(name.upper()) == normalise(name.upper().casefold())


@pytest.mark.parametrize(
    ("requested", "final"),
    [
        (None, "task_suffix"),
        ("%%", "suffix"),
        ("Flights_%%", "flights_suffix"),
        ("Flights", "flights"),
        ("a%%b", "a%%b"),
        ("a%", "a%"),
    ],
)
def test_a_name_is_generated_made_unique_or_taken_as_it_is(requested, final):
    assert generated_name(requested, "Task", "suffix") == final


def test_the_schema_of_a_generation_looks_like_one():
    assert generation_schema("clean", 12) == "clean__g12"
    assert looks_like_generation("clean__g12")
    assert not looks_like_generation("clean")


def test_a_hash_fits_an_identifier():
    assert fingerprint("clean", "1.0").isalnum()
    assert fingerprint("clean", "1.0").islower()
    assert len(fingerprint()) == len(fingerprint("x" * 10_000)) == 20


@given(st.lists(st.text(), max_size=3), st.lists(st.text(), max_size=3))
def test_different_parts_have_different_hashes(left, right):
    assert (fingerprint(*left) == fingerprint(*right)) == (left == right)


@pytest.mark.parametrize("others", [("a", "bc"), ("abc",), ("ab", "c", ""), ("1:a", "b")])
def test_the_border_between_parts_counts(others):
    assert fingerprint("ab", "c") != fingerprint(*others)


def test_a_lone_surrogate_has_a_hash():
    assert fingerprint("\ud800") != fingerprint("\ud801")


def test_a_hash_is_the_same_in_every_process():
    code = "from pipedag_airflow.core.fingerprint import fingerprint; print(fingerprint('clean', 'ü'))"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == fingerprint("clean", "ü")


def test_a_random_hash_never_comes_again():
    assert len({random_fingerprint() for _ in range(1000)}) == 1000
