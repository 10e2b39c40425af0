"""The short way through the check of arguments never says other than the long one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from lap_mcp.mcp_server.arguments import Checker
from lap_mcp.mcp_server.code_tools import DEFINITION

NAMES = st.sampled_from(["a", "b", "c"])
PLAIN = st.sampled_from(
    [{"type": "string"}, {"type": "boolean", "description": "x"}, {"type": "number"}]
)
ODD = st.sampled_from(
    [
        {},
        True,
        False,
        {"type": "string", "maxLength": 1},
        {"type": ["string", "null"]},
        {"type": "string", "enum": ["x"]},
        {"type": "boolean", "const": True},
        {"type": "array", "items": {"type": "string"}},
        {"$ref": "#/properties/a"},
    ]
)
WHOLE = st.sampled_from(
    [
        {},
        {"additionalProperties": False},
        {"additionalProperties": {"type": "string"}},
        {"minProperties": 1},
        {"propertyNames": {"maxLength": 0}},
        {"not": {"required": ["a"]}},
        {"dependentRequired": {"a": ["b"]}},
        {"type": ["object", "null"]},
    ]
)
VALUES = st.one_of(
    st.sampled_from(["", "x", "xy", True, False, 0, 1, 1.5, None, [], ["x"], {}, {"a": "x"}])
)


@given(
    st.dictionaries(NAMES, st.one_of(PLAIN, ODD)),
    st.lists(NAMES, unique=True),
    WHOLE,
    st.dictionaries(NAMES, VALUES),
)
def test_both_ways_agree(
    properties: dict[str, Any], required: list[str], more: dict[str, Any], given: dict[str, Any]
) -> None:
    if properties.get("a") == {"$ref": "#/properties/a"}:
        return  # it refers to itself for ever
    schema = {"type": "object", "properties": properties, "required": required, **more}
    right = not list(Draft202012Validator(schema).iter_errors(given))

    assert (Checker(schema).problem(given) == "") == right


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"code": "1+1"}, ""),
        ({"code": "1+1", "sandbox": "sbx_1", "replay": True}, ""),
        ({"code": 1}, "`code` must be a string"),
        ({"code": "1+1", "replay": 1}, "`replay` must be a boolean"),
        ({"sandbox": "x"}, "`code` is missing"),
        ({"code": "1", "sandbx": "x"}, "Did you mean `sandbox`"),
        ({"code": "1", "timeout_s": float("nan")}, "is not a number that JSON has"),
    ],
)
def test_a_tool_of_ours(arguments: dict[str, Any], words: str) -> None:
    problem = Checker(DEFINITION.input_schema).problem(arguments)

    assert words in problem
    assert bool(words) == bool(problem)


def test_the_short_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    checker = Checker(DEFINITION.input_schema)
    monkeypatch.setattr(checker, "_validator", None)

    assert checker.problem({"code": "1+1", "sandbox": "sbx_1"}) == ""
    with pytest.raises(AttributeError):
        checker.problem({"code": "1+1", "timeout_s": 3.0})
