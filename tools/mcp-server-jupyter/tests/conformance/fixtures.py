"""What the official suite expects to find on a server, by names and texts it fixes.

Registered on a server of ours with the SDK's own decorators, so that the suite meets our middleware and transports.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

import mcp.types as t
from mcp import MCPError
from mcp.server import MCPServer
from mcp.server.mcpserver import Context, Elicit, ElicitationResult, Resolve
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import Prompt, UserMessage
from pydantic import BaseModel, Field, create_model

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
WAV = base64.b64encode(
    b"RIFF\x26\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\2\0\0\0\0\0"
).decode()


def register(server: MCPServer[Any]) -> None:
    """Add every fixture of both eras."""
    for add in (_contents, _schemas, _streams, _client_requests, _input_required, _changes, _resources, _prompts):
        add(server)


# --------------------------------------------------------------------------- tools that only answer


def _text(text: str) -> t.TextContent:
    return t.TextContent(type="text", text=text)


def _image() -> t.ImageContent:
    return t.ImageContent(type="image", data=PNG, mime_type="image/png")


def _embedded(uri: str, mime_type: str, text: str) -> t.EmbeddedResource:
    return t.EmbeddedResource(type="resource", resource=t.TextResourceContents(uri=uri, mime_type=mime_type, text=text))


def _contents(server: MCPServer[Any]) -> None:
    answers: dict[str, list[t.ContentBlock]] = {
        "test_simple_text": [_text("This is a simple text response for testing.")],
        "test_image_content": [_image()],
        "test_audio_content": [t.AudioContent(type="audio", data=WAV, mime_type="audio/wav")],
        "test_embedded_resource": [
            _embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")
        ],
        "test_multiple_content_types": [
            _text("Multiple content types test:"),
            _image(),
            _embedded("test://mixed-content-resource", "application/json", '{"test": "data", "value": 123}'),
        ],
    }
    for name, blocks in answers.items():
        server.add_tool(_answering(blocks), name=name, description="A fixed answer.", structured_output=False)

    @server.tool(structured_output=False)
    async def test_error_handling() -> str:
        """Always fails."""
        raise ToolError("This tool intentionally returns an error for testing")


def _answering(blocks: list[t.ContentBlock]) -> Callable[[], Awaitable[t.CallToolResult]]:
    async def answer() -> t.CallToolResult:
        return t.CallToolResult(content=blocks)

    return answer


def _schemas(server: MCPServer[Any]) -> None:
    async def json_schema_2020_12_tool() -> str:
        """Has an input schema with the keywords of JSON Schema 2020-12."""
        return "ok"

    server.add_tool(json_schema_2020_12_tool, structured_output=False)
    # `MCPServer.add_tool` derives the schema from the signature and takes no other.
    server._tool_manager._tools["json_schema_2020_12_tool"].parameters = SCHEMA_2020_12

    @server.tool(structured_output=False)
    async def test_x_mcp_header(
        region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})] = "none",
    ) -> str:
        """Has an argument that is also an HTTP header."""
        return f"region={region}"


SCHEMA_2020_12: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


# --------------------------------------------------------------------------- tools that speak while they run


def _streams(server: MCPServer[Any]) -> None:
    @server.tool(structured_output=False)
    async def test_tool_with_logging(ctx: Context[Any]) -> str:
        """Logs three times."""
        for step in ("started", "processing data", "completed"):
            await ctx.info(f"Tool execution {step}")
        return "Logged three times."

    @server.tool(structured_output=False)
    async def test_logging_tool(ctx: Context[Any]) -> str:
        """Logs once."""
        await ctx.info("test_logging_tool ran")
        return "Logged once."

    @server.tool(structured_output=False)
    async def test_tool_with_progress(ctx: Context[Any]) -> str:
        """Reports 0, 50 and 100 of 100."""
        for done in (0, 50, 100):
            await ctx.report_progress(done, 100, f"{done} of 100")
        return "Reported three times."

    @server.tool(structured_output=False)
    async def test_reconnection(ctx: Context[Any]) -> str:
        """Closes the answer's stream before it answers, where the transport can replay."""
        await ctx.close_sse_stream()
        return "Answered on the next stream."


# --------------------------------------------------------------------------- tools that ask the client, 2025 style


class Response(BaseModel):
    response: str = Field(description="User's response")


def _enum(*values: str, **more: Any) -> dict[str, Any]:
    return {"enum": list(values), **more}


def _titled(**titles: str) -> list[dict[str, str]]:
    return [{"const": value, "title": title} for value, title in titles.items()]


Defaults = create_model(
    "Defaults",
    name=(str, Field(default="John Doe", description="User name")),
    age=(int, Field(default=30, description="User age")),
    score=(float, Field(default=95.5, description="User score")),
    status=(
        str,
        Field(default="active", description="User status", json_schema_extra=_enum("active", "inactive", "pending")),
    ),
    verified=(bool, Field(default=True, description="Verification status")),
)

_ENUMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "untitledSingle": (str, _enum("option1", "option2", "option3")),
    "titledSingle": (str, {"oneOf": _titled(value1="First Option", value2="Second Option", value3="Third Option")}),
    "legacyEnum": (str, _enum("opt1", "opt2", "opt3", enumNames=["Option One", "Option Two", "Option Three"])),
    "untitledMulti": (list[str], {"items": {"type": "string", **_enum("option1", "option2", "option3")}}),
    "titledMulti": (
        list[str],
        {"items": {"anyOf": _titled(value1="First Choice", value2="Second Choice", value3="Third Choice")}},
    ),
}
_ENUM_FIELDS: dict[str, Any] = {
    name: (kind, Field(description=name, json_schema_extra=schema)) for name, (kind, schema) in _ENUMS.items()
}
Enums = create_model("Enums", **_ENUM_FIELDS)


def _client_requests(server: MCPServer[Any]) -> None:
    @server.tool(structured_output=False)
    async def test_sampling(prompt: str, ctx: Context[Any]) -> str:
        """Asks the client's model."""
        result = await ctx.session.create_message(
            messages=[t.SamplingMessage(role="user", content=_text(prompt))],
            max_tokens=100,
            related_request_id=ctx.request_id,
        )
        return f"LLM response: {getattr(result.content, 'text', '')}"

    @server.tool(structured_output=False)
    async def test_elicitation(message: str, ctx: Context[Any]) -> str:
        """Asks the user for a word."""
        return f"User response: {await _elicited(ctx, message, Response)}"

    @server.tool(structured_output=False)
    async def test_elicitation_sep1034_defaults(ctx: Context[Any]) -> str:
        """Asks with a default for every primitive type."""
        return f"Elicitation completed: {await _elicited(ctx, 'Your details, please', Defaults)}"

    @server.tool(structured_output=False)
    async def test_elicitation_sep1330_enums(ctx: Context[Any]) -> str:
        """Asks with every kind of enumeration."""
        return f"Elicitation completed: {await _elicited(ctx, 'Your choices, please', Enums)}"


async def _elicited(ctx: Context[Any], message: str, schema: type[BaseModel]) -> str:
    result = await ctx.elicit(message=message, schema=schema)
    content = result.data.model_dump_json() if result.action == "accept" else "{}"
    return f"action={result.action}, content={content}"


# --------------------------------------------------------------------------- tools that ask the client, 2026 style

Responses = Mapping[str, Any]


def _ask(message: str, field: str, kind: str = "string") -> t.ElicitRequest:
    schema = {"type": "object", "properties": {field: {"type": kind}}, "required": [field]}
    return t.ElicitRequest(params=t.ElicitRequestFormParams(message=message, requested_schema=schema))


def _sample(prompt: str) -> t.CreateMessageRequest:
    messages = [t.SamplingMessage(role="user", content=_text(prompt))]
    return t.CreateMessageRequest(params=t.CreateMessageRequestParams(messages=messages, max_tokens=100))


def _given(responses: Responses, name: str, field: str) -> str:
    answer = responses.get(name)
    content = answer.content if isinstance(answer, t.ElicitResult) else None
    return str((content or {}).get(field, "?"))


def _one_round(requests: dict[str, t.InputRequest], state: str | None, answer: Callable[[Responses], str]) -> Any:
    """A tool that asks everything at once, and answers when all of it (and its state) came back."""

    async def tool(ctx: Context[Any]) -> str | t.InputRequiredResult:
        responses = ctx.input_responses or {}
        if requests.keys() <= responses.keys() and ctx.request_state == state:
            return answer(responses)
        return t.InputRequiredResult(input_requests=requests, request_state=state)

    return tool


def _input_required(server: MCPServer[Any]) -> None:
    name = _ask("What is your name?", "name")
    rounds: dict[str, tuple[dict[str, t.InputRequest], str | None, Callable[[Responses], str]]] = {
        "elicitation": ({"user_name": name}, None, lambda given: f"Hello, {_given(given, 'user_name', 'name')}!"),
        "sampling": (
            {"capital_question": _sample("What is the capital of France?")},
            None,
            lambda given: f"Model said: {getattr(given['capital_question'].content, 'text', '?')}",
        ),
        "list_roots": (
            {"client_roots": t.ListRootsRequest()},
            None,
            lambda given: f"Roots: {len(given['client_roots'].roots)}",
        ),
        "request_state": ({"confirm": _ask("Please confirm", "ok", "boolean")}, "nonce", lambda _: "state-ok"),
        "tampered_state": ({"confirm": _ask("Please confirm", "ok", "boolean")}, "untouched", lambda _: "state-ok"),
        "multiple_inputs": (
            {"user_name": name, "greeting": _sample("Generate a greeting"), "client_roots": t.ListRootsRequest()},
            "all three",
            lambda _: "All inputs received.",
        ),
    }
    for suffix, arguments in rounds.items():
        tool = _one_round(*arguments)
        title = f"Asks once: {suffix}."
        server.add_tool(tool, name=f"test_input_required_result_{suffix}", description=title, structured_output=False)
    server.add_tool(_two_rounds, name="test_input_required_result_multi_round", structured_output=False)
    server.add_tool(_what_the_client_can, name="test_input_required_result_capabilities", structured_output=False)
    server.add_tool(_needs_sampling, name="test_missing_capability", structured_output=False)
    server.add_tool(_asked_by_a_resolver, name="test_streaming_elicitation", structured_output=False)


async def _two_rounds(ctx: Context[Any]) -> str | t.InputRequiredResult:
    """Asks a name, then a colour, carrying the name in the request's state."""
    responses, state = ctx.input_responses or {}, json.loads(ctx.request_state or "{}")
    if "step2" in responses and "name" in state:
        return f"{state['name']} likes {_given(responses, 'step2', 'color')}."
    if "step1" in responses and state.get("round") == 1:
        state = {"round": 2, "name": _given(responses, "step1", "name")}
        step = {"step2": _ask("What is your favorite color?", "color")}
        return t.InputRequiredResult(input_requests=step, request_state=json.dumps(state))
    step = {"step1": _ask("What is your name?", "name")}
    return t.InputRequiredResult(input_requests=step, request_state=json.dumps({"round": 1}))


async def _what_the_client_can(ctx: Context[Any]) -> t.InputRequiredResult:
    """Asks only what the client declared it can answer."""
    client, requests = ctx.client_capabilities, dict[str, t.InputRequest]()
    if client is None or client.sampling is not None:
        requests["sample"] = _sample("Say hello")
    if client is None or client.elicitation is not None:
        requests["ask"] = _ask("What is your name?", "name")
    return t.InputRequiredResult(input_requests=requests, request_state="asked")


async def _needs_sampling(ctx: Context[Any]) -> str:
    """Refuses a client without sampling."""
    client = ctx.session.client_capabilities
    if client is None or client.sampling is None:
        raise MCPError(
            code=t.MISSING_REQUIRED_CLIENT_CAPABILITY,
            message="This tool needs the client capability sampling.",
            data={"requiredCapabilities": {"sampling": {}}},
        )
    return "The client declared sampling."


def _question() -> Elicit[Response]:
    return Elicit("A word, please", Response)


async def _asked_by_a_resolver(answer: Annotated[ElicitationResult[Response], Resolve(_question)]) -> str:
    """Asks through a resolver, which suits both eras."""
    return f"elicitation {answer.action}"


# --------------------------------------------------------------------------- lists that change


def _changes(server: MCPServer[Any]) -> None:
    async def passing() -> str:
        """Comes and goes."""
        return "passing"

    @server.tool(structured_output=False)
    async def test_trigger_tool_change(ctx: Context[Any]) -> str:
        """Adds and removes a tool."""
        server.add_tool(passing, name="test_passing_tool")
        server.remove_tool("test_passing_tool")
        await ctx.notify_tools_changed()
        return "The tools changed."

    @server.tool(structured_output=False)
    async def test_trigger_prompt_change(ctx: Context[Any]) -> str:
        """Adds and removes a prompt."""
        server.add_prompt(Prompt.from_function(passing, name="test_passing_prompt", description="Comes and goes."))
        server.remove_prompt("test_passing_prompt")
        await ctx.notify_prompts_changed()
        return "The prompts changed."


# --------------------------------------------------------------------------- resources and prompts


def _resources(server: MCPServer[Any]) -> None:
    @server.resource("test://static-text", mime_type="text/plain")
    async def static_text() -> str:
        """A fixed text."""
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png")
    async def static_binary() -> bytes:
        """A fixed image."""
        return base64.b64decode(PNG)

    @server.resource("test://watched-resource", mime_type="text/plain")
    async def watched() -> str:
        """Something to subscribe to."""
        return "Watched."

    @server.resource("test://template/{id}/data", mime_type="application/json")
    async def template(id: str) -> str:
        """Filled in from its address."""
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


def _user(*blocks: Any) -> list[UserMessage]:
    return [UserMessage(role="user", content=block) for block in blocks]


def _prompts(server: MCPServer[Any]) -> None:
    @server.prompt()
    async def test_simple_prompt() -> list[UserMessage]:
        """Takes nothing."""
        return _user(_text("This is a simple prompt for testing."))

    @server.prompt()
    async def test_prompt_with_arguments(arg1: str, arg2: str) -> list[UserMessage]:
        """Takes two arguments."""
        return _user(_text(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"))

    @server.prompt()
    async def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
        """Carries a resource."""
        embedded = _embedded(resourceUri, "text/plain", "Embedded resource content for testing.")
        return _user(embedded, _text("Please process the embedded resource above."))

    @server.prompt()
    async def test_prompt_with_image() -> list[UserMessage]:
        """Carries an image."""
        return _user(_image(), _text("Please analyze the image above."))

    @server.prompt()
    async def test_input_required_result_prompt(ctx: Context[Any]) -> list[UserMessage] | t.InputRequiredResult:
        """Asks before it answers."""
        responses = ctx.input_responses or {}
        if "user_context" in responses:
            return _user(_text(f"Use this context: {_given(responses, 'user_context', 'context')}"))
        return t.InputRequiredResult(input_requests={"user_context": _ask("Which context?", "context")})
