"""The OpenAPI document of the service."""

from __future__ import annotations

from typing import Any

NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
VERSION = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
AFTER = {"name": "after", "in": "query", "schema": {"type": "string"}, "description": "X-Picture of the one before"}
ERROR = {
    "description": "what was wrong",
    "content": {
        "application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}},
    },
}
PREDICTION = {
    "type": "object",
    "description": "detections or classes, as `edgeinfer run --json` writes them; boxes in the picture's pixels",
    "properties": {
        "task": {"type": "string", "enum": ["detect", "classify"]},
        "height": {"type": "integer"},
        "width": {"type": "integer"},
        "detections": {"type": "array", "items": {"type": "object"}},
        "classes": {"type": "array", "items": {"type": "object"}},
        "timings_ms": {"type": "object"},
        "model": {"type": "string"},
        "model_version": {"type": "integer"},
    },
}


def document(version: str) -> dict[str, Any]:
    """OpenAPI 3.1."""
    paths = {
        "/v1/models": _get("the models that are served"),
        "/v1/models/{name}/predict": _predict(),
        "/v2": _get("server metadata"),
        "/v2/health/live": _get("whether no worker is stuck"),
        "/v2/health/ready": _get("whether models are served and passed their self-test"),
        "/v2/models/stats": _get("the statistics of all models"),
        **_of_a_model("/v2/models/{name}", NAME),
        **_of_a_model("/v2/models/{name}/versions/{version}", NAME, VERSION),
        "/v2/repository/index": _post("every model and its state (with --manage)"),
        "/v2/repository/models/{name}/load": _post("load the folder's present version (with --manage)", NAME),
        "/v2/repository/models/{name}/unload": _post("stop serving the model (with --manage)", NAME),
        "/v1/models/{name}/rollback": _post("go back to the version before (with --manage)", NAME),
        "/v1/cameras": _get("how every camera is, and how fresh what it shows"),
        "/v1/cameras/{name}": _get("how one camera is", NAME),
        "/v1/cameras/{name}/health": _get("503 while the camera does not show the present", NAME),
        "/v1/cameras/{name}/latest": _get("what is in the newest picture, with its age", NAME),
        "/v1/cameras/{name}/picture": _get("the newest picture with its boxes, a JPEG", NAME, AFTER),
        "/v1/cameras/{name}/live": _get("the camera's picture with its boxes, motion JPEG", NAME),
        "/v2/systemsharedmemory/status": _get("the regions of shared memory (with --shared-memory)"),
        "/v2/systemsharedmemory/unregister": _post("forget all of them (with --shared-memory)"),
        "/v2/systemsharedmemory/region/{name}/status": _get("one region (with --shared-memory)", NAME),
        "/v2/systemsharedmemory/region/{name}/register": _post("open a region (with --shared-memory)", NAME),
        "/v2/systemsharedmemory/region/{name}/unregister": _post("forget a region (with --shared-memory)", NAME),
        "/metrics": _get("Prometheus metrics"),
    }
    about = {"title": "edgeinfer", "version": version, "description": "The Open Inference Protocol, and pictures."}
    return {"openapi": "3.1.0", "info": about, "paths": paths}


def _of_a_model(path: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        path: _get("a model's inputs and outputs", *parameters),
        f"{path}/ready": _get("whether the model would answer", *parameters),
        f"{path}/config": _get("the model's configuration", *parameters),
        f"{path}/stats": _get("the model's statistics", *parameters),
        f"{path}/infer": _infer(*parameters),
    }


def _operation(told: str, parameters: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    answers = {"200": {"description": "done"}, "4XX": ERROR, "5XX": ERROR}
    return {"summary": told, "parameters": list(parameters), "responses": answers}


def _get(told: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    return {"get": _operation(told, parameters)}


def _post(told: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    return {"post": _operation(told, parameters)}


def _infer(*parameters: dict[str, Any]) -> dict[str, Any]:
    length = {"name": "Inference-Header-Content-Length", "in": "header", "schema": {"type": "integer"}}
    length["description"] = "how much of the body is JSON, where binary data follows"
    operation = _operation("an inference request of the Open Inference Protocol", (*parameters, length))
    kinds = ("application/json", "application/octet-stream")
    operation["requestBody"] = {"required": True, "content": {kind: {} for kind in kinds}}
    operation["responses"]["200"]["content"] = {kind: {} for kind in kinds}
    return {"post": operation}


def _predict() -> dict[str, Any]:
    annotate = {"name": "annotate", "in": "query", "schema": {"type": "boolean"}}
    operation = _operation("a picture file in the body or in a form", (NAME, annotate))
    binary = {"schema": {"type": "string", "format": "binary"}}
    form = {"schema": {"type": "object", "properties": {"file": binary["schema"]}}}
    operation["requestBody"] = {"content": {"image/*": binary, "multipart/form-data": form}}
    operation["responses"]["200"] = {
        "description": "what is in the picture, or the annotated picture",
        "content": {"application/json": {"schema": PREDICTION}, "image/jpeg": binary},
    }
    return {"post": operation}
