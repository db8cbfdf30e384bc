"""A conversation that gets too long goes on with a shorter history."""

from __future__ import annotations

import dataclasses

import anyio
import pytest

import alloy
from alloy import Compaction
from alloy.errors import InvalidOptionError
from alloy.loop.shortening import CLEARED, LEFT_OUT, MARK
from alloy.messages import ImageBlock, TextBlock, ThinkingBlock, ToolUseBlock
from alloy.models.tokens import TokenCounter
from alloy.testing import Recorder, Reply, Scripted, calls
from alloy.usage import Usage

pytestmark = pytest.mark.anyio

WORDS = "The quick brown fox jumps over the lazy dog near the river bank. "  # 14 tokens
SUMMARY = "## Goal\nFind the fox.\n## Facts\nThe fox is called Reynard."


def talk(turns: int, words: int = 20) -> list[alloy.Message]:
    """A conversation of so many questions and answers, each of about 14 tokens times `words`."""
    messages = []
    for turn in range(turns):
        messages.append(alloy.Message("user", (TextBlock(f"Question {turn}. " + WORDS * words),)))
        messages.append(alloy.Message("assistant", (TextBlock(f"Answer {turn}. " + WORDS * words),)))
    return messages


def asked(prompt: str) -> list[alloy.Message]:
    """A question and its answer."""
    return [alloy.Message("user", (TextBlock(prompt),)), alloy.Message("assistant", (TextBlock("Noted."),))]


def is_summary_request(request) -> bool:
    return "hand-off" in (request.system or "")


class Model(Scripted):
    """Answers everything, and writes summaries; refuses what is longer than its window."""

    def __init__(self, summary=SUMMARY, answers=(), window: int | None = None) -> None:
        self.summaries: list = []
        self.others: list = []
        self._summary, self._answers = summary, list(answers)

        def answer(request):
            request = dataclasses.replace(request, messages=tuple(request.messages))
            if is_summary_request(request):
                self.summaries.append(request)
                return self._summary(request) if callable(self._summary) else self._summary
            self.others.append(request)
            characters = sum(len(str(block)) for message in request.messages for block in message.content)
            if window is not None and characters > window * 5:
                return alloy.ProviderError("prompt is too long", kind="context_overflow", status=400)
            given = self._answers.pop(0) if self._answers else Reply(text="Fine.")
            told = not isinstance(given, Reply) or given.usage.input_tokens > 10
            return given if told else dataclasses.replace(given, usage=Usage(requests=1))

        super().__init__([answer] * 200)


async def test_the_older_part_is_replaced_by_a_summary_and_the_recent_part_stays_word_for_word():
    model, recorder, history = Model(), Recorder(), talk(9)

    result = await alloy.run("Go on.", provider=model, messages=history, max_tokens=6_500, on_event=recorder)

    first, *recent = model.others[0].messages
    assert first.content[0] == history[0].content[0]
    assert first.content[1].text.startswith(f"{MARK}\n{SUMMARY}\n")
    assert "\n- Question 5. The quick" in first.content[1].text
    assert recent[:-1] == history[-len(recent[:-1]) :]
    assert recent[-1].text == "Go on."
    assert len(recent) >= 3
    assert len(model.summaries) == 1
    assert "Question 3" in model.summaries[0].messages[0].text
    assert result.text == "Fine."
    assert result.messages[0] == first
    alloy.check_history(result.messages)
    payload = recorder.named("compaction")[0].payload
    assert payload["methods"] == ["summary"]
    assert payload["before_messages"] == 19
    assert payload["after_tokens"] < 6_500 * 3 // 4 < payload["before_tokens"]
    assert payload["after_messages"] == len(recent) + 1


async def test_what_the_user_said_stays_even_where_nobody_summarises():
    history = [*talk(1), *asked("The port is 8080."), *talk(8), *asked("The key is K77."), *talk(9)]
    failing = Model(summary=Reply(stop_reason="refusal"))
    first = await alloy.run("Go on.", provider=failing, messages=history, max_tokens=6_500)
    assert "The port is 8080." in first.messages[0].text

    small = {"keep_user_tokens": 10}
    second = await alloy.run("More.", provider=Model(), messages=history, max_tokens=6_500, compaction=small)
    assert "The port is 8080." not in str(second.messages)

    third = await alloy.run("More.", provider=Model(), messages=[*first.messages, *talk(9)], max_tokens=6_500)
    assert "The port is 8080." in third.messages[0].text
    assert "The key is K77." in third.messages[0].text


async def test_what_a_summary_took_counts_to_the_run():
    model = Model(summary=Reply(text=SUMMARY, usage=Usage(input_tokens=700, output_tokens=70, requests=1)))
    result = await alloy.run("Go on.", provider=model, messages=talk(9), max_tokens=6_500)
    assert result.usage.requests == 2
    assert result.usage.input_tokens == 700
    assert result.turns == 1


async def test_a_later_compaction_updates_the_summary():
    model = Model()
    first = await alloy.run("Go on.", provider=model, messages=talk(9), max_tokens=6_500)

    second = await alloy.run("More.", provider=model, messages=[*first.messages, *talk(8)], max_tokens=6_500)

    asked = model.summaries[1].messages[0].text
    assert "<earlier_summary>" in asked
    assert "Reynard" in asked
    assert sum(MARK in block.text for block in second.messages[0].content) == 1
    assert second.messages[0].content[0] == talk(1)[0].content[0]


async def test_a_short_conversation_is_left_alone_and_nobody_asks_for_its_window():
    class Strict:
        def find(self, provider, model):
            raise AssertionError("asked")

    model = Model()
    await alloy.run("Go on.", provider=model, messages=talk(8), model_catalogue=Strict())
    assert len(model.others[0].messages) == 17
    assert not model.summaries


async def test_the_models_window_is_what_counts_where_nothing_is_said():
    model = Model()
    await alloy.run("Go on.", provider=model, messages=talk(20), model_metadata_overrides={"script": 8_000})
    assert model.summaries


async def test_without_compaction_everything_is_sent():
    model = Model()
    await alloy.run("Go on.", provider=model, messages=talk(20), max_tokens=1_000, compaction=None)
    assert len(model.others[0].messages) == 41


async def test_what_the_provider_said_a_history_has_goes_before_what_we_count():
    history = talk(5)
    history[-1] = dataclasses.replace(history[-1], usage=Usage(input_tokens=5_500, output_tokens=300, requests=1))
    model = Model()
    await alloy.run("Go on.", provider=model, messages=history, max_tokens=6_500)
    assert len(model.summaries) == 1
    assert len(model.others[0].messages) < 6


async def test_what_requests_really_had_corrects_what_is_counted():
    tellers = [Usage(input_tokens=7_500, output_tokens=10, requests=1)]
    model = Model(answers=[dataclasses.replace(calls("look", at="x"), usage=tellers[0]), "Done."])
    kept = []

    class Keeps(alloy.Middleware):
        async def before_completion(self, request, run):
            kept.append(run._loop._compactor.counter.correction)

    await alloy.run("Go.", provider=model, tools=[look], messages=talk(10), middleware=[Keeps()])
    assert kept[0] == 1.0
    assert 1.1 < kept[1] < 1.5


async def test_a_pause_is_not_compacted_into():
    turns = []

    class Turns(alloy.Middleware):
        async def compact(self, messages, run):
            turns.append(run.turn)

    model = Model(answers=[Reply(text="Wait.", stop_reason="pause_turn"), "Done."])
    await alloy.run("Go.", provider=model, middleware=[Turns()])
    assert turns == [1]


async def test_a_shorter_history_of_somebody_elses_must_end_with_the_user():
    class Wrong(alloy.Middleware):
        async def compact(self, messages, run):
            return messages[:2]

    with pytest.raises(alloy.RunError, match=r"middleware\.compact"):
        await alloy.run("Go.", provider=Model(), messages=talk(2), middleware=[Wrong()])


async def test_what_middleware_makes_shorter_is_not_made_shorter_once_more():
    class Last(alloy.Middleware):
        async def compact(self, messages, run):
            return messages[-1:]

    model, recorder = Model(), Recorder()
    await alloy.run("Go.", provider=model, messages=talk(9), max_tokens=6_500, middleware=[Last()], on_event=recorder)

    assert [one.text for one in model.others[0].messages] == ["Go."]
    assert model.summaries == []
    assert [one.payload["methods"] for one in recorder.named("compaction")] == [["middleware"]]


async def test_a_writer_with_a_small_window_gets_it_in_pieces():
    class Small(Model):
        context_window = 2_000

    writer = Small()
    await alloy.run("Go on.", provider=Model(), messages=talk(9), max_tokens=6_500, compaction={"provider": writer})
    assert len(writer.summaries) > 2


async def test_a_summary_goes_in_the_runs_own_queue():
    model = Model()
    await alloy.run("Go on.", provider=model, messages=talk(9), max_tokens=6_500, priority="batch")
    assert model.summaries[0].priority == "batch"
    assert model.summaries[0].caller == model.others[0].caller != ""


async def test_what_no_cutting_makes_small_may_take_what_was_reserved():
    pictures = [ImageBlock("image/png", b"x" * 100)] * 3
    counter = TokenCounter("script")
    size = counter.message(alloy.Message("user", tuple(pictures)))
    model = Model()
    await alloy.run(pictures, provider=model, max_tokens=size * 4 // 3, compaction={"keep_recent_tokens": 1})
    assert len(model.others) == 1


@alloy.tool
async def look(at: str) -> str:
    """Looks at something."""
    return f"{at}: " + WORDS * 40


async def test_old_tool_results_are_cleared_first_and_no_summary_is_needed():
    model, recorder = Model(answers=[*(calls("look", at=f"place {n}") for n in range(9)), "Done."]), Recorder()

    result = await alloy.run(
        "Look everywhere.",
        provider=model,
        tools=[look],
        max_tokens=5_500,
        compaction={"keep_recent_tokens": 500, "reserve_tokens": 500, "keep_tool_results": 2},
        on_event=recorder,
    )

    assert result.text == "Done."
    assert not model.summaries
    assert [one.payload["methods"] for one in recorder.named("compaction")] == [["cleared"]] * len(
        recorder.named("compaction")
    )
    cleared = [m.tool_results[0].text == CLEARED for m in result.messages if m.tool_results]
    assert cleared[0]
    assert not any(cleared[-2:])
    assert len(result.tool_calls) == 9
    alloy.check_history(result.messages)


async def test_no_result_is_cleared_where_none_shall_be():
    model = Model(answers=[*(calls("look", at=f"place {n}") for n in range(9)), "Done."])
    settings = {"keep_tool_results": None}
    result = await alloy.run("Look.", provider=model, tools=[look], max_tokens=5_500, compaction=settings)
    assert model.summaries
    assert CLEARED not in str(result.messages)


async def test_where_clearing_results_is_not_enough_a_summary_is_made_of_them_as_they_were():
    script = Model(answers=[*(calls("look", at=f"place {n}") for n in range(3)), "Done."])
    looked = await alloy.run("Look.", provider=script, tools=[look], compaction=None)
    model, recorder = Model(), Recorder()
    history = [*looked.messages, *talk(9)]
    settings = {"keep_tool_results": 0}
    await alloy.run(
        "Go on.", provider=model, messages=history, max_tokens=6_500, compaction=settings, on_event=recorder
    )
    assert recorder.named("compaction")[0].payload["methods"] == ["summary"]
    assert "place 1: The quick" in model.summaries[0].messages[0].text


async def test_a_run_of_many_steps_stays_inside_its_window():
    model = Model(answers=[*(calls("look", at=f"place {n}") for n in range(60)), "Done."], window=6_000)

    result = await alloy.run("Look everywhere.", provider=model, tools=[look], max_tokens=6_000, max_turns=100)

    assert result.text == "Done."
    assert len(result.tool_calls) == 60
    assert result.messages[0].content[0].text == "Look everywhere."


@pytest.mark.parametrize(
    "summary",
    [
        alloy.ProviderError("no", kind="invalid_request"),
        Reply(text="", tool_calls=(ToolUseBlock("x", "look", {"at": "y"}),)),
        Reply(text="So.", tool_calls=(ToolUseBlock("x", "look", {"at": "y"}),), stop_reason="end_turn"),
        Reply(text="I can't.", stop_reason="refusal"),
        Reply(text=" "),
        WORDS * 1000,
    ],
    ids=["an error", "a tool call", "words and a tool call", "a refusal", "blank", "longer than what it replaces"],
)
async def test_a_summary_that_is_none_falls_back_to_leaving_the_older_part_out(summary):
    model, recorder = Model(summary=summary), Recorder()

    result = await alloy.run(
        "Go on.", provider=model, messages=talk(9), max_tokens=6_500, max_retries=0, on_event=recorder
    )

    assert result.text == "Fine."
    assert LEFT_OUT in model.others[0].messages[0].text
    assert recorder.named("compaction")[0].payload["methods"] == ["truncated"]
    assert [one.payload["kind"] for one in recorder.named("runtime_event")] == ["compaction_failed"]


async def test_an_earlier_summary_survives_when_the_next_one_fails():
    model = Model()
    first = await alloy.run("Go on.", provider=model, messages=talk(9), max_tokens=6_500)
    failing = Model(summary=alloy.ProviderError("no", kind="invalid_request"))

    second = await alloy.run("More.", provider=failing, messages=[*first.messages, *talk(8)], max_tokens=6_500)

    assert "Reynard" in second.messages[0].text
    assert LEFT_OUT in second.messages[0].text


async def test_a_summary_that_takes_too_long_is_given_up():
    model, recorder = Model(summary=Reply(text="So", hangs=True)), Recorder()
    with anyio.fail_after(10):
        await alloy.run(
            "Go on.",
            provider=model,
            messages=talk(10),
            max_tokens=5_000,
            compaction={"timeout": 0.01},
            on_event=recorder,
        )
    assert "no summary within 0.01 seconds" in recorder.named("runtime_event")[0].payload["reason"]


async def test_with_error_as_fallback_the_run_fails_with_its_history_as_it_was():
    model = Model(summary=alloy.ProviderError("no", kind="invalid_request"))
    history = talk(10)

    with pytest.raises(alloy.RunError, match="no summary") as caught:
        await alloy.run("Go on.", provider=model, messages=history, max_tokens=5_000, compaction={"fallback": "error"})

    assert caught.value.result.messages == tuple(history)
    assert not model.others


async def test_a_summary_is_retried_like_any_request():
    script = [alloy.ProviderError("busy", kind="overloaded"), SUMMARY]
    model, recorder = Model(summary=lambda request: script.pop(0)), Recorder()

    await alloy.run("Go on.", provider=model, messages=talk(9), max_tokens=6_500, retry_backoff=0.0, on_event=recorder)

    assert len(recorder.named("retry")) == 1
    assert recorder.named("compaction")[0].payload["methods"] == ["summary"]


async def test_somebody_else_can_write_the_summaries():
    writer, model = Scripted(["Short: Reynard."]), Model()
    await alloy.run("Go on.", provider=model, messages=talk(9), max_tokens=6_500, compaction={"provider": writer})
    assert len(writer.requests) == 1
    assert not model.summaries
    assert "Short: Reynard." in model.others[0].messages[0].text


async def test_a_long_older_part_is_summarised_piece_by_piece():
    model = Model()
    await alloy.run("Go on.", provider=model, messages=talk(60), max_tokens=4_000)
    assert len(model.summaries) > 1
    assert "<earlier_summary>" not in model.summaries[0].messages[0].text
    assert all("<earlier_summary>" in one.messages[0].text for one in model.summaries[1:])


async def test_what_is_taken_out_is_told_before_anything_is_lost():
    told, model, history = [], Model(), talk(10)

    async def keep(messages):
        await anyio.lowlevel.checkpoint()
        told.append(messages)

    result = await alloy.run(
        "Go on.",
        provider=model,
        messages=history,
        max_tokens=5_000,
        compaction=Compaction(on_compaction=keep, instructions="Be brief."),
    )

    assert model.summaries[0].messages[0].text.endswith("Be brief.")
    assert told[0][0] == history[1]
    kept = {block for message in result.messages for block in message.content}
    lost = {block for message in told[0] for block in message.content}
    assert {block for message in history for block in message.content} == lost | (
        kept & {block for message in history for block in message.content}
    )


async def test_what_on_compaction_raises_fails_the_run_and_loses_nothing():
    def refuse(messages):
        raise OSError("disk full")

    history = talk(10)
    with pytest.raises(alloy.RunError, match="disk full") as caught:
        await alloy.run(
            "Go on.",
            provider=Model(),
            messages=history,
            max_tokens=5_000,
            compaction=Compaction(on_compaction=refuse),
        )
    assert caught.value.result.messages == tuple(history)


async def test_a_provider_that_finds_it_too_long_gets_a_shorter_one_once():
    model, recorder = Model(window=2_500), Recorder()

    result = await alloy.run("Go on.", provider=model, messages=talk(10), on_event=recorder)

    assert result.text == "Fine."
    assert len(model.others) == 2
    assert len(recorder.named("compaction")) == 1


async def test_when_nothing_can_be_made_shorter_the_providers_own_error_is_told():
    model = Model(answers=[alloy.ProviderError("prompt is too long", kind="context_overflow")])
    with pytest.raises(alloy.RunError, match="prompt is too long"):
        await alloy.run("Hi.", provider=model)
    assert len(model.others) == 1


async def test_one_result_that_is_larger_than_the_window_is_cut_in_its_middle():
    @alloy.tool(max_result_bytes=10_000_000)
    async def flood() -> str:
        """Says a lot."""
        return "begin " + WORDS * 5_000 + " end"

    model, recorder = Model(answers=[calls("flood"), "Done."], window=6_000), Recorder()

    result = await alloy.run("Go.", provider=model, tools=[flood], max_tokens=6_000, on_event=recorder)

    assert result.text == "Done."
    text = result.messages[2].tool_results[0].text
    assert text.startswith("begin")
    assert text.endswith("end")
    assert "characters left out" in text
    assert recorder.named("compaction")[0].payload["methods"][-1] == "shrunk"


async def test_a_prompt_that_is_larger_than_the_window_is_cut_in_its_middle():
    model = Model(window=4_000)
    await alloy.run("Read this: " + WORDS * 2_000 + " What is it?", provider=model, max_tokens=4_000)
    assert model.others[0].messages[0].text.endswith("What is it?")


async def test_what_can_not_be_made_to_fit_is_never_sent():
    model = Model()
    pictures = [ImageBlock("image/png", b"x" * 100) for _ in range(200)]
    with pytest.raises(alloy.RunError, match="are all there is") as caught:
        await alloy.run(pictures, provider=model, max_tokens=2_000)
    assert isinstance(caught.value.result.error, alloy.ProviderError)
    assert caught.value.result.error.kind == "context_overflow"
    assert not model.others


async def test_a_server_that_leaves_out_the_beginning_is_noticed():
    usage = Usage(input_tokens=2_048, output_tokens=10, requests=1)
    model = Model(answers=[Reply(tool_calls=(ToolUseBlock("c", "look", {"at": "x"}),), usage=usage), "Done."])
    recorder = Recorder()

    await alloy.run("Go on.", provider=model, tools=[look], messages=talk(12), on_event=recorder)

    event = recorder.named("runtime_event")[0].payload
    assert event["kind"] == "context_truncated"
    assert event["reported_tokens"] == 2_048
    assert event["expected_tokens"] > 6_000
    assert model.summaries


class Signed(Model):
    """One whose thinking is signed for the messages before it."""

    binds_thinking = True


@pytest.mark.parametrize("fallbacks", [(), (Scripted([]),)], ids=["alone", "with a fallback"])
async def test_thinking_that_was_signed_for_the_longer_history_goes(fallbacks):
    history = [
        dataclasses.replace(message, content=(ThinkingBlock("Hm.", "signed"), *message.content))
        if message.role == "assistant"
        else message
        for message in talk(9)
    ]

    signed, free = Signed(), Model()
    await alloy.run("Go.", provider=signed, messages=history, max_tokens=6_500, fallback_providers=fallbacks)
    await alloy.run("Go.", provider=free, messages=history, max_tokens=6_500, fallback_providers=fallbacks)

    def thinks(model):
        return [any(isinstance(b, ThinkingBlock) for b in m.content) for m in model.others[0].messages]

    assert not any(thinks(signed))
    assert any(thinks(free))


async def test_a_window_that_the_provider_knows_itself_is_asked_of_nobody_else():
    class Small(Model):
        context_window = 6_500

    model = Small()
    await alloy.run("Go.", provider=model, messages=talk(9), model_metadata_overrides={"script": 1_000_000})
    assert len(model.summaries) == 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1_000, "compaction": {"reserve_tokens": 1_000}}, r"compaction\.reserve_tokens"),
        ({"max_tokens": 1_000, "compaction": {"reserve_tokens": 500, "keep_recent_tokens": 500}}, "keep_recent"),
        ({"compaction": {"reserve_tokens": -1}}, "reserve_tokens"),
        ({"compaction": {"reserve": 1}}, "reserve"),
        ({"compaction": {"fallback": "nothing"}}, "fallback"),
        ({"compaction": {"instructions": " "}}, "instructions"),
        ({"compaction": {"timeout": 0}}, "timeout"),
        ({"compaction": {"on_compaction": 5}}, "on_compaction"),
        ({"compaction": "yes"}, "compaction"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(options, named):
    with pytest.raises(InvalidOptionError, match=named):
        alloy.Config(provider=Scripted([]), **options)


def test_settings_can_be_given_in_every_way():
    assert alloy.Config().compaction == Compaction()
    assert alloy.Config(compaction=True).compaction == Compaction()
    assert alloy.Config(compaction=False).compaction is None
    assert alloy.Config(compaction={"keep_tool_results": 5}).compaction == Compaction(keep_tool_results=5)
    assert alloy.Config(compaction=None).with_options(max_turns=3).compaction is None
