"""Prompts and resources that the conformance suite reads, as providers of the face's seams."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import mcp.types as t

from lap_mcp.errors import NotFound
from lap_mcp.mcp_server.providers import PromptProvider, Request, ResourceProvider
from tests.conformance import content

_TEMPLATE = re.compile(r"test://template/([^/]+)/data")


class ConformanceResources(ResourceProvider):
    async def resources(
        self, request: Request, cursor: str | None
    ) -> tuple[Sequence[t.Resource], str | None]:
        listed = [
            t.Resource(uri="test://static-text", name="static text", mime_type="text/plain"),
            t.Resource(uri="test://static-binary", name="static binary", mime_type="image/png"),
            t.Resource(uri="test://watched-resource", name="watched", mime_type="text/plain"),
        ]
        return listed, None

    def templates(self) -> Sequence[t.ResourceTemplate]:
        return [
            t.ResourceTemplate(
                uri_template="test://template/{id}/data", name="data", mime_type="application/json"
            )
        ]

    def owns(self, uri: str) -> bool:
        return uri.startswith("test:")

    async def read(self, request: Request, uri: str) -> t.ReadResourceResult:
        return t.ReadResourceResult(contents=[_contents(uri)])

    async def may_watch(self, request: Request, uri: str) -> bool:
        return True

    async def complete(
        self, request: Request, template: str, argument: str, value: str, known: Mapping[str, str]
    ) -> Sequence[str]:
        return ["123", "456"]


def _contents(uri: str) -> t.TextResourceContents | t.BlobResourceContents:
    match = _TEMPLATE.fullmatch(uri)
    if match is not None:
        text = json.dumps({"id": match[1], "templateTest": True, "data": f"Data for {match[1]}"})
        return t.TextResourceContents(uri=uri, mime_type="application/json", text=text)
    if uri == "test://static-binary":
        blob = content.base64_of(content.PNG)
        return t.BlobResourceContents(uri=uri, mime_type="image/png", blob=blob)
    if uri in ("test://static-text", "test://watched-resource"):
        text = "This is the content of the static text resource."
        return t.TextResourceContents(uri=uri, mime_type="text/plain", text=text)
    raise NotFound("There is no such resource.")


class ConformancePrompts(PromptProvider):
    async def prompts(self, request: Request) -> Sequence[t.Prompt]:
        def arguments(*names: str) -> list[t.PromptArgument]:
            return [t.PromptArgument(name=name, description=name, required=True) for name in names]

        return [
            t.Prompt(name="test_input_required_result_prompt", description="asks first"),
            t.Prompt(
                name="test_prompt_with_arguments",
                description="two arguments",
                arguments=arguments("arg1", "arg2"),
            ),
            t.Prompt(
                name="test_prompt_with_embedded_resource",
                description="a resource",
                arguments=arguments("resourceUri"),
            ),
            t.Prompt(name="test_prompt_with_image", description="an image"),
            t.Prompt(name="test_simple_prompt", description="a text"),
        ]

    async def get(
        self, request: Request, name: str, arguments: Mapping[str, str]
    ) -> t.GetPromptResult | t.InputRequiredResult | None:
        match name:
            case "test_simple_prompt":
                blocks: list[t.ContentBlock] = [t.TextContent(text="A simple prompt for testing.")]
            case "test_prompt_with_arguments":
                words = f"arg1='{arguments.get('arg1')}', arg2='{arguments.get('arg2')}'"
                blocks = [t.TextContent(text=f"Prompt with arguments: {words}")]
            case "test_prompt_with_embedded_resource":
                uri = arguments.get("resourceUri", "test://x")
                blocks = [
                    content.embedded(uri, "text/plain", "Embedded content"),
                    t.TextContent(text="Please process the resource above."),
                ]
            case "test_prompt_with_image":
                blocks = [content.IMAGE, t.TextContent(text="Please look at the image above.")]
            case "test_input_required_result_prompt":
                if "user_context" not in (request.input_responses or {}):
                    asked = {"user_context": content.ask_form("context")}
                    return t.InputRequiredResult(input_requests=dict(asked))
                words = content.words_of(request.input_responses or {})
                blocks = [t.TextContent(text=f"Use this context: {words}")]
            case _:
                return None
        messages = [t.PromptMessage(role="user", content=block) for block in blocks]
        return t.GetPromptResult(messages=messages)

    async def complete(
        self, request: Request, name: str, argument: str, value: str
    ) -> Sequence[str] | None:
        return ["paris", "park", "party"] if name.startswith("test_") else None
