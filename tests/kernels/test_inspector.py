"""What is told of variables, and whether two are the same."""

from __future__ import annotations

import copy
import json
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jupyter_cr.kernels import inspector


def described(**variables: object) -> dict[str, dict[str, str]]:
    report = json.loads(inspector.report(variables))
    return {each["name"]: each for each in report["variables"]}


def digest(value: object) -> str:
    return described(value=value)["value"]["digest"]


def function(source: str, name: str = "f") -> Any:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(source, namespace)
    return namespace[name]


SHARED = ["shared"]
GRID = np.arange(12.0).reshape(3, 4)
TABLE = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
SAME = [
    (1, 1),
    ("text", "".join(["te", "xt"])),
    ([SHARED, SHARED], [["shared"], ["shared"]]),
    ({1, "a", (2, 3)}, {(2, 3), 1, "a"}),
    ({"a": [1.5, None]}, {"a": [1.5, None]}),
    (list(range(5000)), list(range(5000))),
    ([f"n{n}" for n in range(2000)], [f"n{n}" for n in range(2000)]),
    (GRID, np.ascontiguousarray(GRID.T).T),
    (TABLE, TABLE.copy()),
    (TABLE["b"], TABLE["b"].copy()),
    (function("def f(a=1): return a + 2"), function("\n\ndef f(a=1): return a + 2")),
    (function("class C:\n def m(self): return 1", "C"),) * 2,
]
DIFFERENT = [
    (1, 2),
    (1, 1.0),
    (1, True),
    ("a", b"a"),
    ([1, 2], (1, 2)),
    ([[1], [2]], [[1, 2], []]),
    (["ab", "c"] * 1000, ["a", "bc"] * 1000),
    ({"a": 1}, {"a": 2}),
    (GRID, GRID.astype("float32")),
    (GRID, GRID.reshape(4, 3)),
    (GRID, GRID + np.eye(3, 4)),
    (TABLE, TABLE.rename(columns={"a": "c"})),
    (TABLE, TABLE.assign(a=[1, 3])),
    (TABLE, TABLE.set_index("a")),
    (TABLE["a"], TABLE["a"].astype("float")),
    (function("def f(a=1): return a + 2"), function("def f(a=1): return a + 3")),
    (function("def f(a=1): return a + 2"), function("def f(a=2): return a + 2")),
    (
        function("class C:\n def m(self): return 1", "C"),
        function("class C:\n def m(self): return 2", "C"),
    ),
    (range(3), range(4)),
]


@pytest.mark.parametrize(("one", "two"), SAME)
def test_equal_values_are_the_same(one: object, two: object) -> None:
    assert digest(one) == digest(two) != ""


@pytest.mark.parametrize(("one", "two"), DIFFERENT)
def test_other_values_are_not(one: object, two: object) -> None:
    assert digest(one) != digest(two)
    assert digest(one)
    assert digest(two)


def test_of_some_nobody_can_tell() -> None:
    ring: list[Any] = []
    ring.append(ring)
    with open(__file__) as file:
        for value in ((n for n in [1]), ring, memoryview(b"a"), file):
            assert digest(value) == ""


class Slow:
    def __repr__(self) -> str:
        while True:
            pass

    def __reduce__(self) -> Any:
        while True:
            pass


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError

    def __getstate__(self) -> Any:
        raise SystemExit

    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise RuntimeError


def test_nobody_has_to_wait_for_long() -> None:
    began = time.monotonic()
    found = described(slow=Slow(), odd=Odd(), text="x" * 10**7, last=1)
    assert time.monotonic() - began < 15
    assert found["slow"]["type"].endswith("Slow")
    assert (found["slow"]["value"], found["slow"]["digest"]) == ("", "")
    assert found["odd"]["type"].endswith("Odd")
    assert len(found["text"]["value"]) <= inspector.TEXT
    assert found["last"]["value"] == "1"


def test_what_a_person_would_call_a_variable() -> None:
    assert list(described(a=1, _b=2, np=np, __c=3)) == ["a"]
    report = json.loads(inspector.report({"a": 1, "b": 2}, hidden={"a"}))
    assert [each["name"] for each in report["variables"]] == ["b"]
    many = {f"v{n}": n for n in range(inspector.VARIABLES + 5)}
    assert json.loads(inspector.report(many))["left_out"] == 5


def test_words_about_values() -> None:
    found = described(
        grid=np.zeros((100, 200)), table=TABLE, f=function("def f(a, b): 1"), l=[1] * 50
    )
    assert (found["grid"]["shape"], found["grid"]["value"][:7]) == ("100 x 200", "float64")
    assert (found["table"]["shape"], found["table"]["value"]) == ("2 x 2", "a, b")
    assert found["f"]["value"] == "f(a, b)"
    assert found["l"]["shape"] == "50"
    assert found["l"]["value"].endswith("...]")


def test_a_value_is_not_changed() -> None:
    before = {"a": [1, {2}], "b": GRID.copy()}
    after = copy.deepcopy(before)
    described(value=after)
    assert after["a"] == before["a"]
    assert (after["b"] == before["b"]).all()
