"""The OpenAPI document: of every route, and true: schemathesis asks what it allows and forbids."""

import json

import pytest
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from outthink.serve.app import make_app
from outthink.serve.body import JsonRoute
from outthink.serve.config import ServeConfig
from outthink.serve.document import ANSWERS
from serve_world import served

load_all_checks()
RULES = ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"]
QUICK, LONG = 8, 400
SMALL = {"max_tokens": 600, "max_branches": 8, "deadline": 30.0}


@pytest.fixture(scope="module")
def fuzzed(model):
    with served(model, **SMALL) as client:
        document = client.get("/openapi.json").json
        schema = schemathesis.openapi.from_dict(document)
        schema.config.update(base_url=f"http://127.0.0.1:{client.port}")
        yield client, schema
        assert client.get("/api/status").json["requests_running"] == 0
    assert not model.thread.call(model.engine.scheduler.leases), "a request left pages behind"
    model.thread.call(model.engine.check_integrity)


def test_every_route_is_described_and_reads_its_body_strictly(model):
    app = make_app(model, ServeConfig()).app
    found = app.openapi()
    described = {(method.upper(), path) for path, each in found["paths"].items() for method in each}
    assert described == set(ANSWERS)
    routes = [route for route in _routes(app.routes) if isinstance(route, APIRoute) and route.include_in_schema]
    assert len(routes) == len(ANSWERS) and all(isinstance(route, JsonRoute) for route in routes)


def _routes(routes):
    for route in routes:
        inner = getattr(route, "original_router", None)
        yield from [route] if inner is None else _routes(inner.routes)


def test_bodies_take_no_field_that_is_not_named(model):
    found = make_app(model, ServeConfig()).app.openapi()
    for path, operations in found["paths"].items():
        for operation in operations.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                shape = found["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
                if not path.endswith("/files"):
                    assert shape["additionalProperties"] is False, path
                assert json.dumps(found).count("HTTPValidationError") == 0


def test_the_document_says_where_a_key_is_needed(model):
    found = make_app(model, ServeConfig(api_keys=("a-key-of-some-length",))).app.openapi()
    assert found["security"] == [{"key": []}] and found["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert "security" not in make_app(model, ServeConfig()).app.openapi()


@pytest.mark.parametrize(("method", "path"), sorted(ANSWERS))
def test_what_the_document_says_is_what_happens(fuzzed, method, path):
    ask(*fuzzed, method, path, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), sorted(ANSWERS))
def test_what_the_document_says_is_what_happens_at_length(fuzzed, method, path):
    ask(*fuzzed, method, path, LONG)


def ask(client, schema, method, path, count):
    """Send ``count`` requests that the document allows and, where it can be broken, ``count`` that it forbids."""
    operation = schema[path][method]
    body = bool(operation.definition.raw.get("requestBody"))
    asked = []
    run(operation, GenerationMode.POSITIVE, RULES, count, asked)
    if body and "multipart" not in str(operation.definition.raw["requestBody"]):
        run(operation, GenerationMode.NEGATIVE, [*RULES, "negative_data_rejection"], count, asked)
    assert asked


def run(operation, mode, rules, count, asked):
    @seed(7)
    @settings(
        max_examples=count, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=HealthCheck
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def one(case):
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            case.body.pop("model", None)  # else hardly any request would get past the name of the model
        answer = case.call(timeout=60)
        asked.append(answer.status_code)
        case.validate_response(answer, checks=CHECKS.get_by_names(rules))

    one()
