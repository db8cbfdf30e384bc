"""What servers answer, in Alloy's words, and what Alloy's tools give, in the protocol's."""

from __future__ import annotations

import base64

import pytest
from mcp import types
from pydantic import BaseModel

from alloy.mcp.results import call_result, tool_output
from alloy.messages import AudioBlock, DocumentBlock, ImageBlock, TextBlock, VideoBlock
from alloy.result import ToolCall


def base(data):
    return base64.b64encode(data).decode()


def blob(kind, uri="file:///x/a%20b.bin", data=b"data"):
    return types.EmbeddedResource(resource=types.BlobResourceContents(uri=uri, mime_type=kind, blob=base(data)))


def output(*content, **rest):
    return tool_output(types.CallToolResult(content=list(content), **rest))


@pytest.mark.parametrize(
    ("part", "text"),
    [
        (types.TextContent(text="words"), "words"),
        (
            types.ResourceLink(
                name="n", title="Notes", uri="file:///n.txt", mime_type="text/plain", description="Mine"
            ),
            "[resource file:///n.txt: Notes, text/plain, Mine]",
        ),
        (
            types.EmbeddedResource(resource=types.TextResourceContents(uri="file:///n.txt", text="words")),
            "[resource file:///n.txt]\nwords",
        ),
        (
            blob("application/zip"),
            "[resource file:///x/a%20b.bin, of type application/zip, 4 bytes; it can't be shown]",
        ),
        (
            types.ImageContent(data="%%%", mime_type="image/png"),
            "[an image of type image/png; it can't be read, since it isn't base64]",
        ),
    ],
)
def test_what_can_be_told_is_text(part, text):
    assert (output(part).text, output(part).media) == (text, ())


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (types.ImageContent(data=base(b"data"), mime_type="image/png"), ImageBlock("image/png", b"data")),
        (types.AudioContent(data=base(b"data"), mime_type="audio/wav"), AudioBlock("audio/wav", b"data")),
        (blob("image/gif"), ImageBlock("image/gif", b"data")),
        (blob("audio/mpeg"), AudioBlock("audio/mpeg", b"data")),
        (blob("video/mp4"), VideoBlock("video/mp4", b"data")),
        (blob("application/pdf"), DocumentBlock("application/pdf", b"data", name="a b.bin")),
    ],
)
def test_what_can_be_shown_is_media(part, block):
    assert (output(part).text, output(part).media) == ("", (block,))


def test_structured_content_is_data_and_the_text_where_there_is_no_other():
    both = output(types.TextContent(text="warm"), structured_content={"degrees": 21})
    alone = output(structured_content={"degrees": 21})

    assert (both.text, both.data) == ("warm", {"degrees": 21})
    assert (alone.text, alone.data) == ('{"degrees":21}', {"degrees": 21})


def test_several_texts_are_lines_and_an_error_stays_one():
    failed = output(types.TextContent(text="no"), types.TextContent(text="luck"), is_error=True)

    assert (failed.text, failed.is_error) == ("no\nluck", True)


def record(*content, **rest):
    return ToolCall(
        id="1",
        name="t",
        arguments={},
        content=content,
        turn=1,
        duration_ms=0,
        **{"is_error": False, "data": None} | rest,
    )


def test_a_record_with_everything_becomes_a_result_with_everything():
    result = call_result(
        record(
            TextBlock("words"),
            ImageBlock("image/png", b"data"),
            AudioBlock("audio/wav", b"data"),
            VideoBlock("video/mp4", b"data"),
            DocumentBlock("application/pdf", b"data", name="a.pdf"),
            ImageBlock("image/png", url="https://example.org/a.png"),
            is_error=True,
        )
    )

    assert [part.type for part in result.content] == ["text", "image", "audio", "resource", "resource", "resource_link"]
    assert result.content[4].resource.uri == "attachment:///a.pdf"
    assert result.content[5].uri == "https://example.org/a.png"
    assert result.is_error


class Weather(BaseModel):
    degrees: int


@pytest.mark.parametrize(
    ("data", "structured"),
    [
        (Weather(degrees=21), {"degrees": 21}),
        ({"degrees": 21}, {"degrees": 21}),
        ([1, 2], None),
        ("text", None),
        (None, None),
        (object(), None),
    ],
)
def test_a_value_that_is_an_object_in_json_is_structured_content(data, structured):
    assert call_result(record(TextBlock("x"), data=data)).structured_content == structured


def test_what_goes_out_and_comes_back_is_the_same():
    there = call_result(record(TextBlock("words"), ImageBlock("image/png", b"data"), data={"a": 1}))
    back = tool_output(types.CallToolResult.model_validate(there.model_dump(by_alias=True), by_name=False))

    assert (back.text, back.media, back.data) == ("words", (ImageBlock("image/png", b"data"),), {"a": 1})
