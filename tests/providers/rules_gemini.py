"""What GenerateContent refuses, as a checker: Google's reference, its pages on function calling and thought signatures, and
the wording of its errors."""

from __future__ import annotations

from typing import Any

__all__ = ["check"]

_DATA = {
    "text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode", "codeExecutionResult",
    "toolCall", "toolResponse",
}  # fmt: skip
_BESIDE = {"thought", "thoughtSignature"}
_FIELDS = {
    "contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "safetySettings", "cachedContent",
}  # fmt: skip
_NESTED = {"image/png", "image/jpeg", "image/webp", "application/pdf", "text/plain"}
_KEYWORDS = {
    "$id", "$defs", "$ref", "$anchor", "type", "format", "title", "description", "enum", "items", "prefixItems",
    "minItems", "maxItems", "minimum", "maximum", "anyOf", "oneOf", "properties", "additionalProperties", "required",
    "propertyOrdering",
}  # fmt: skip


def check(body: dict[str, Any], *, multimodal_results: bool, signatures: set[str]) -> None:
    """Fails where the API would.

    Args:
        body: the request.
        multimodal_results: whether the model takes media inside a tool's result.
        signatures: the genuine ones, and the placeholder.
    """
    assert body.keys() <= _FIELDS
    contents = body["contents"]
    assert contents, "contents is not specified"
    assert [content["role"] for content in (contents[0], contents[-1])] == ["user", "user"]
    before: dict[str, Any] | None = None
    for content in contents:
        assert content.keys() == {"role", "parts"}
        assert content["parts"], "contents.parts must not be empty"
        for part in content["parts"]:
            _check_part(part, content["role"], signatures)
        _check_turn(content, before, multimodal_results=multimodal_results)
        before = content
    _check_tools(body)


def _check_part(part: dict[str, Any], role: str, signatures: set[str]) -> None:
    assert len(part.keys() & _DATA) == 1, "required oneof field 'data' must have one initialized field"
    assert part.keys() <= _DATA | _BESIDE
    assert role == "model" or not part.keys() & _BESIDE
    assert part.get("text") != "" or "thoughtSignature" in part
    if "thoughtSignature" in part:
        assert part["thoughtSignature"] in signatures, "Corrupted thought signature"
    if media := part.get("inlineData"):
        assert media["mimeType"]
        assert media["data"]
    if media := part.get("fileData"):
        assert media["fileUri"]


def _check_turn(content: dict[str, Any], before: dict[str, Any] | None, *, multimodal_results: bool) -> None:
    calls = [part["functionCall"] for part in (before or {"parts": []})["parts"] if "functionCall" in part]
    results = [part["functionResponse"] for part in content["parts"] if "functionResponse" in part]
    named = [(call["name"], call.get("id")) for call in calls]
    assert [(result["name"], result.get("id")) for result in results] == named, (
        "the number of function response parts must equal that of the function call parts"
    )
    if results:
        assert len(results) == len(content["parts"]), "function responses stand alone"
    if content["role"] == "model":
        assert before is None or before["role"] == "user", "a model turn comes after a user's"
        own = [part for part in content["parts"] if "functionCall" in part]
        for part in own:
            assert part["functionCall"]["name"]
            assert isinstance(part["functionCall"]["args"], dict)
        if own:
            assert "thoughtSignature" in own[0], "Function call is missing a thought_signature in functionCall parts"
    elif before and before["role"] == "user":
        assert not results
        assert any("functionResponse" in part for part in before["parts"]), "two user turns only behind results"
    for result in results:
        assert set(result["response"]) <= {"output", "error"}
        nested = result.get("parts", [])
        assert result["response"] or nested
        assert not nested or multimodal_results
        assert all(part["inlineData"]["mimeType"] in _NESTED for part in nested)


def _check_tools(body: dict[str, Any]) -> None:
    declared = [f for tool in body.get("tools", []) for f in tool.get("functionDeclarations", [])]
    if "functionCallingConfig" in body.get("toolConfig", {}):
        assert declared, "Function calling config is set without function_declarations"
    for function in declared:
        _check_schema(function["parametersJsonSchema"])


def _check_schema(schema: dict[str, Any]) -> None:
    assert schema.keys() <= _KEYWORDS
    if "$ref" in schema:
        assert all(name.startswith("$") for name in schema), "nothing may stand beside $ref"
    nested = [*schema.get("properties", {}).values(), *schema.get("anyOf", []), *schema.get("$defs", {}).values()]
    for inner in [*nested, schema.get("items"), schema.get("additionalProperties")]:
        if isinstance(inner, dict):
            _check_schema(inner)
