"""The gateway in OpenAPI 3.1: every route, what it takes, and every error it answers with."""

from __future__ import annotations

from typing import Any

from ... import __version__
from ...runs.failures import STATUS, FailureType
from ...settings import Settings

_RUN_ERRORS: tuple[FailureType, ...] = (
    "papermill_execution_error",
    "missing_dependencies",
    "execution_timeout",
    "kernel_died",
    "kernel_startup",
    "invalid_kernel",
    "invalid_notebook",
    "invalid_parameters",
    "payload_too_large",
    "queue_full",
    "idempotency_key_reused",
    "cancelled",
    "internal",
)
_RESUME_ERRORS: tuple[FailureType, ...] = (
    *_RUN_ERRORS,
    "not_found",
    "not_resumable",
    "kernel_gone",
    "changed_before_failure",
)


def document(settings: Settings) -> dict[str, Any]:
    """The description, with the limits as they are set."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Notebook gateway",
            "version": __version__,
            "description": "Runs notebooks: each in a fresh kernel, under one time limit, results as JSON.",
        },
        "paths": _paths(settings),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _paths(settings: Settings) -> dict[str, Any]:
    run_id = {"name": "run_id", "in": "path", "required": True, "schema": {"type": "string"}}
    prefer = _header("Prefer", "`respond-async`: answer 202 at once; `Location` tells where to look.")
    key = _header("Idempotency-Key", "The same key and body give the same run, joined or replayed.")
    limit = {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 0, "maximum": 500}}
    last = _header("Last-Event-ID", "Go on after this event.")
    ended = {"200": _json("The results.", "Result"), "202": _json("Accepted.", "Accepted")}
    missing = _errors("not_found")
    return {
        "/": {"get": _open("What this is.")},
        "/health": {"get": _open("Whether it answers.")},
        "/openapi.json": {"get": _get("This document.")},
        "/metrics": {"get": _get("Figures: JSON, or Prometheus' text where `Accept` asks for `text/plain`.")},
        "/run": {
            "post": {
                "summary": f"Run a notebook: at most {settings.execution_timeout:g} s, "
                f"{settings.max_notebook_size_mb:g} MB.",
                "parameters": [prefer, key],
                "requestBody": _body("Payload", required=True),
                "responses": {**ended, **_errors(*_RUN_ERRORS)},
            }
        },
        "/runs": {"get": {**_get("The latest runs.", "Runs"), "parameters": [limit]}},
        "/runs/{run_id}": {
            "parameters": [run_id],
            "get": {"summary": "How it stands.", "responses": {"200": _json("The run.", "Run"), **missing}},
            "delete": {
                "summary": "End it and its kernel.",
                "responses": {"200": _json("The run.", "Run"), **missing},
            },
        },
        "/runs/{run_id}/notebook": {
            "parameters": [run_id],
            "get": {
                "summary": "The notebook as executed so far.",
                "responses": {"200": {"description": "A notebook file.", "content": {"application/x-ipynb+json": {}}}}
                | missing,
            },
        },
        "/runs/{run_id}/events": {
            "parameters": [run_id, last],
            "get": {
                "summary": "What happens to it, as server-sent events; ends with the run.",
                "responses": {"200": {"description": "Events.", "content": {"text/event-stream": {}}}, **missing},
            },
        },
        "/runs/{run_id}/resume": {
            "parameters": [run_id, prefer],
            "post": {
                "summary": "Go on from the cell that failed, in the kernel that was kept; a mended notebook may come.",
                "requestBody": _body("Resume", required=False),
                "responses": {**ended, **_errors(*_RESUME_ERRORS)},
            },
        },
    }


def _schemas() -> dict[str, Any]:
    notebook = {
        "type": "object",
        "required": ["cells"],
        "properties": {
            "cells": {"type": "array", "items": {"$ref": "#/components/schemas/Cell"}},
            "metadata": {"type": "object"},
        },
        "description": "nbformat 4; what is absent of format, ids, metadata and outputs is added.",
    }
    wrapped = {
        "type": "object",
        "required": ["notebook"],
        "properties": {"notebook": {"$ref": "#/components/schemas/Notebook"}, "parameters": {"type": "object"}},
    }
    about = {
        "run_id": {"type": "string"},
        "seconds": {"type": "number"},
        "warnings": {"type": "array", "items": {"type": "string"}},
    }
    when = {"type": ["number", "null"]}
    return {
        "Cell": {
            "type": "object",
            "properties": {
                "cell_type": {"enum": ["code", "markdown", "raw"]},
                "source": {"type": ["string", "array"], "items": {"type": "string"}},
                "metadata": {"type": "object", "properties": {"tags": {"type": "array", "items": {"type": "string"}}}},
            },
        },
        "Notebook": notebook,
        "Payload": {
            "anyOf": [
                wrapped,
                {"$ref": "#/components/schemas/Notebook"},
                {"type": "object", "description": "As n8n wraps it: `json` or `body` holds one of the others."},
                {"type": "array", "minItems": 1, "maxItems": 1, "items": {"type": "object"}},
            ]
        },
        "Resume": {"type": "object", "properties": {"notebook": {"$ref": "#/components/schemas/Notebook"}}},
        "Result": {
            "type": "object",
            "required": ["results", *about],
            "properties": {"results": {"type": "object"}, **about},
        },
        "Accepted": {
            "type": "object",
            "required": ["run_id", "status", "warnings"],
            "properties": {**about, "status": {"type": "string"}},
        },
        "Run": {
            "type": "object",
            "required": ["run_id", "status", "cells"],
            "properties": {
                **about,
                "status": {"enum": ["queued", "running", "done", "failed", "cancelled"]},
                "cells": {
                    "type": "object",
                    "properties": {"done": {"type": "integer"}, "total": {"type": "integer"}},
                },
                "attempt": {"type": "integer"},
                "kernel": {"type": "string"},
                "accepted_at": when,
                "started_at": when,
                "finished_at": when,
                "resumable_until": when,
                "results": {"type": "object"},
                "error_type": {"enum": sorted(STATUS)},
                "http_status": {"type": "integer"},
            },
        },
        "Runs": {
            "type": "object",
            "properties": {"runs": {"type": "array", "items": {"$ref": "#/components/schemas/Run"}}},
        },
        "Failure": {
            "type": "object",
            "required": ["error_type", "message"],
            "properties": {
                "error_type": {"enum": sorted(STATUS)},
                "message": {"type": "string"},
                "cell": {"type": ["integer", "null"], "description": "Index in the notebook as it was sent."},
                "ename": {"type": "string"},
                "evalue": {"type": "string"},
                "cell_source": {"type": "string"},
                "traceback": {"type": "array", "items": {"type": "string"}},
                "output_nb": {"type": "string"},
                "missing_modules": {"type": "array", "items": {"type": "string"}},
                "run_id": {"type": "string"},
            },
        },
    }


def _header(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}


def _body(schema: str, *, required: bool) -> dict[str, Any]:
    return {
        "required": required,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }


def _json(text: str, schema: str) -> dict[str, Any]:
    return {
        "description": text,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }


def _get(summary: str, schema: str | None = None) -> dict[str, Any]:
    answer = _json(summary, schema) if schema else {"description": summary}
    return {"summary": summary, "responses": {"200": answer}}


def _open(summary: str) -> dict[str, Any]:
    return {**_get(summary), "security": []}


def _errors(*types: FailureType) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for code in sorted({STATUS[each] for each in types}):
        names = ", ".join(each for each in types if STATUS[each] == code)
        found[str(code)] = _json(names, "Failure")
    return found
