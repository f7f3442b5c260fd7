"""The description of the REST interface says what the code does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import yaml
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from jupyter_cr import bundles, comparing, errors, image, lessons, operations, store
from jupyter_cr.engine import describe
from jupyter_cr.kernels.inspection import Variable
from jupyter_cr.server import (
    answers,
    handlers,
    points,
    problems,
    requests,
    tasks,
    timeline,
)
from jupyter_cr.server import lessons as served
from jupyter_cr.tracer.capabilities import Capability

OPENAPI: dict[str, Any] = yaml.safe_load(handlers.openapi())
SCHEMAS: dict[str, Any] = OPENAPI["components"]["schemas"]

ANSWERS: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        Variable,
        comparing.CellDifference,
        comparing.Comparison,
        comparing.DocumentDifference,
        comparing.MemoryDifference,
        comparing.ProcessDifference,
        comparing.VariableDifference,
        comparing.VariablesDifference,
        Capability,
        bundles.ImportResult,
        describe.DescriptorDescription,
        describe.MemoryDescription,
        describe.ProcessDescription,
        describe.SharedMemoryDescription,
        describe.SnapshotDescription,
        image.CellFacts,
        image.Header,
        image.InputPrompt,
        image.KernelFacts,
        image.NotebookFacts,
        image.Outcome,
        image.RunningRequest,
        lessons.LessonDetails,
        lessons.LessonInfo,
        lessons.PublishResult,
        operations.SnapshotDetails,
        problems.Problem,
        answers.CheckpointAnswer,
        answers.ForkAnswer,
        answers.Page,
        answers.RestoreAnswer,
        answers.TwinsAnswer,
        points.Point,
        points.Run,
        served.KernelLesson,
        served.LessonsAnswer,
        store.Snapshot,
        timeline.TimelineAnswer,
        timeline.TravelAnswer,
        tasks.Task,
        tasks.TaskProgress,
    )
} | {"Capabilities": operations.CapabilitiesResult}

REQUESTS: dict[str, type[msgspec.Struct]] = {
    cls.__name__: cls
    for cls in (
        *requests.OPERATIONS.values(),
        requests.DiffSnapshotRequest,
        requests.ForkSnapshotRequest,
        requests.KeepRequest,
        requests.TimelineRequest,
        requests.TravelRequest,
        requests.UpdateRequest,
        served.PublishRequest,
        served.StartRequest,
    )
}


def field_names(cls: type) -> set[str]:
    fields = getattr(cls, "__struct_fields__", None) or cls.__dataclass_fields__
    return set(fields)


def iter_operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in OPENAPI["paths"].items():
        for verb in ("get", "post", "patch", "delete", "put"):
            if verb in item:
                yield path, verb, item[verb]


def test_it_is_openapi() -> None:
    validate(OPENAPI)


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_have_the_fields_of_their_classes(name: str) -> None:
    assert set(SCHEMAS[name]["properties"]) == field_names(ANSWERS[name])
    # All are always there.
    assert set(SCHEMAS[name]["required"]) == field_names(ANSWERS[name])


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_are_what_is_decoded(name: str) -> None:
    cls = REQUESTS[name]
    described = SCHEMAS[name]
    decoded = msgspec.json.schema_components([cls])[1][name]
    assert set(described["properties"]) == set(decoded["properties"])
    assert described.get("required", []) == decoded["required"]
    assert described["additionalProperties"] is False
    for field, schema in described["properties"].items():
        is_optional = "default" in decoded["properties"][field]
        assert schema.get("default") == decoded["properties"][field].get("default"), field
        assert ("default" in schema) == is_optional, field


def test_the_query_is_what_is_decoded() -> None:
    parameters = OPENAPI["paths"]["/jupyter-cr/snapshots"]["get"]["parameters"]
    described = {p["name"]: p["schema"]["default"] for p in parameters}
    assert described == msgspec.to_builtins(answers.Query())


def test_what_is_said_of_a_bundle_is_what_is_decoded() -> None:
    parameters = OPENAPI["paths"]["/jupyter-cr/import"]["post"]["parameters"]
    described = {p["name"]: p["schema"]["default"] for p in parameters}
    assert described == msgspec.to_builtins(requests.ImportRequest())


def test_all_errors_are_listed() -> None:
    listed = SCHEMAS["Problem"]["properties"]["error"]["enum"]
    assert set(listed) == set(errors.__all__) - {"printable"} | {"HTTPError"}


def test_every_address_is_described() -> None:
    described: dict[str, set[str]] = {}
    for path, verb, _ in iter_operations():
        described.setdefault(path, set()).add(verb)
    implemented: dict[str, set[str]] = {}
    for pattern, handler in handlers.HANDLERS:
        if handler is handlers.NothingHandler:
            continue
        path = re.sub(r"\(\?P<(\w+)>[^()]*\)", r"{\1}", pattern).replace("\\", "")
        verbs = {v for v in ("get", "post", "patch", "delete", "put") if v in vars(handler)}
        for operation in requests.OPERATIONS if "{operation}" in path else [""]:
            implemented[path.replace("{operation}", operation)] = verbs
    assert described == implemented


def test_every_operation_tells_of_all_errors() -> None:
    for path, verb, operation in iter_operations():
        responses = operation["responses"]
        assert {"403", "default"} <= set(responses), (path, verb)
        assert operation["operationId"]
        assert operation["summary"]


def iter_examples(node: object, schema: object = None) -> Iterator[tuple[Any, Any]]:
    """(schema, example) of all that have both."""
    if isinstance(node, dict):
        if "schema" in node:
            if "example" in node:
                yield node["schema"], node["example"]
            for example in node.get("examples", {}).values():
                yield node["schema"], example["value"]
        for child in node.values():
            yield from iter_examples(child)
    elif isinstance(node, list):
        for child in node:
            yield from iter_examples(child)


def test_examples_are_as_described() -> None:
    examples = list(iter_examples(OPENAPI))
    assert len(examples) > 20
    for schema, example in examples:
        root = {**schema, "components": OPENAPI["components"]}
        Draft202012Validator(root).validate(example)


def test_every_schema_is_used() -> None:
    text = handlers.openapi().decode()
    for kind in ("schemas", "responses", "parameters", "headers"):
        for name in OPENAPI["components"][kind]:
            assert f'#/components/{kind}/{name}"' in text, name
