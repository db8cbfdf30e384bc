"""Asking again, and asking somebody else."""

from __future__ import annotations

import contextlib
import math

import anyio
import pytest

import alloy
from alloy.errors import InvalidOptionError
from alloy.providers import retry
from alloy.providers.base import Completion, Request
from alloy.providers.retry import Fallback, Retrying
from alloy.testing import Recorder, Reply, Scripted, check_envelopes, sweep

pytestmark = pytest.mark.anyio


def failure(kind="overloaded", **facts) -> alloy.ProviderError:
    return alloy.ProviderError("no", kind=kind, **facts)


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """How long was waited, without waiting."""
    waited: list[float] = []

    async def sleep(delay):
        waited.append(delay)
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(retry.anyio, "sleep", sleep)
    return waited


async def test_what_may_pass_is_asked_again_and_each_attempt_is_told(waits):
    recorder = Recorder()
    script = Scripted([failure(), failure("rate_limited"), "Fine."])

    result = await alloy.run("Hi.", provider=script, on_event=recorder)

    assert result.text == "Fine."
    assert [one.payload["attempt"] for one in recorder.named("retry")] == [1, 2]
    assert [one.payload["error"]["kind"] for one in recorder.named("retry")] == ["overloaded", "rate_limited"]
    assert [one.payload["delay_s"] for one in recorder.named("retry")] == waits
    check_envelopes(recorder.envelopes)


@pytest.mark.parametrize("kind", ["quota", "auth", "invalid_request", "context_overflow", "refused", "unknown"])
async def test_what_stays_is_not_asked_again(kind, waits):
    script = Scripted([failure(kind), "never"])

    with pytest.raises(alloy.RunError):
        await alloy.run("Hi.", provider=script)

    assert len(script.requests) == 1


async def test_an_attempt_that_failed_is_left_before_the_next_one_is_begun(waits):
    log: list[str] = []

    class Logged:
        name = model = "logged"

        @contextlib.asynccontextmanager
        async def stream(self, request):
            log.append("begun")
            try:
                yield self._items()
            except alloy.ProviderError:
                log.append("failed")
                raise
            finally:
                log.append("left")

        async def _items(self):
            if log.count("begun") < 3:
                raise failure()
            yield Completion(message=alloy.Message("assistant", (alloy.TextBlock("Fine."),)), stop_reason="end_turn")

    assert (await alloy.run("Hi.", provider=Logged())).text == "Fine."
    assert log == ["begun", "failed", "left"] * 2 + ["begun", "left"]
    assert len(waits) == 2


async def test_after_max_retries_the_last_error_is_raised(waits):
    errors = [failure() for _ in range(3)]

    with pytest.raises(alloy.RunError) as caught:
        await alloy.run("Hi.", provider=Scripted(errors), max_retries=2)

    assert caught.value.cause is errors[2]
    assert len(waits) == 2


async def test_waits_double_with_full_jitter_up_to_a_bound(waits):
    always = Retrying(Scripted([failure() for _ in range(9)]), max_retries=8, backoff=1.0, chance=lambda: 1.0)
    never = Retrying(Scripted([failure(), "."]), chance=lambda: 0.0)

    with pytest.raises(alloy.RunError):
        await alloy.run("Hi.", provider=always)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]

    waits.clear()
    await alloy.run("Hi.", provider=never)
    assert waits == [0]


async def test_the_wait_is_as_long_as_the_provider_asks(waits):
    await alloy.run("Hi.", provider=Scripted([failure("rate_limited", retry_after=17.5), "Fine."]))

    assert waits == [17.5]


async def test_a_wait_past_the_deadline_is_not_begun(waits):
    script = Scripted([failure("rate_limited", retry_after=60), "never"])

    with pytest.raises(alloy.RunError) as caught:
        await alloy.run("Hi.", provider=script, timeout=30)

    assert caught.value.cause.kind == "rate_limited"
    assert waits == []


@pytest.mark.parametrize("watched", [True, False])
async def test_p6_nothing_is_asked_again_once_something_came(watched, waits):
    script = Scripted([Reply(text="So far", error=failure()), "never"])
    options = {"on_event": Recorder()} if watched else {}

    if watched:
        with pytest.raises(alloy.RunError) as caught:
            await alloy.run("Hi.", provider=script, fallback_providers=[Scripted(["never"])], **options)
        assert len(script.requests) == 1
        assert caught.value.result.messages[-1].text == "So far"
    else:
        result = await alloy.run("Hi.", provider=script, **options)
        assert result.text == "never"


async def test_when_one_provider_fails_for_good_the_next_is_asked(waits):
    first, second = Scripted([failure("quota")], name="first"), Scripted(["From the second."], name="second")
    recorder = Recorder()

    result = await alloy.run("Hi.", provider=first, fallback_providers=[second], on_event=recorder)

    assert result.text == "From the second."
    assert result.messages[-1].provider == "second"
    assert recorder.named("retry")[0].payload["next"] == "second:script"


@pytest.mark.parametrize("kind", ["invalid_request", "refused"])
async def test_what_is_no_better_elsewhere_is_not_asked_elsewhere(kind, waits):
    second = Scripted(["never"])

    with pytest.raises(alloy.RunError):
        await alloy.run("Hi.", provider=Scripted([failure(kind)]), fallback_providers=[second])

    assert second.requests == []


class Held(Scripted):
    """Counts who holds it."""

    holders = 0
    most = 0

    async def __aenter__(self):
        self.holders += 1
        self.most = max(self.most, self.holders)
        return self

    async def __aexit__(self, *_):
        self.holders -= 1


async def test_a_fallback_is_only_held_while_it_is_asked(waits):
    first, second, third = Held(["one", failure("quota")]), Held(["two"]), Held([])
    provider = Fallback(first, second, third)

    await alloy.run("Hi.", provider=provider)
    assert (first.most, second.most) == (2, 0)
    await alloy.run("Hi.", provider=provider)

    assert second.most == 1
    assert (first.holders, second.holders, third.most) == (0, 0, 0)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_retries": -1}, "max_retries"),
        ({"retry_backoff": -1}, "retry_backoff"),
        ({"retry_backoff": math.inf}, "retry_backoff"),
        ({"fallback_providers": "local"}, "fallback_providers"),
        ({"fallback_providers": [3]}, "fallback_providers"),
    ],
)
async def test_p9_wrong_options_are_named(options, named):
    with pytest.raises(InvalidOptionError, match=named):
        await alloy.run("Hi.", provider=Scripted(["."]), **options)


def test_p9_wrappers_take_providers():
    for wrong in (lambda: Retrying("local"), lambda: Fallback(Scripted([])), lambda: Fallback(Scripted([]), 3)):
        with pytest.raises(InvalidOptionError):
            wrong()


async def test_a_wrapper_streams_by_itself():
    provider = Retrying(Scripted([failure(), "Fine."]), backoff=0)
    request = Request(messages=[alloy.Message("user", (alloy.TextBlock("Hi."),))])

    async with provider.stream(request) as items:
        kinds = [type(item).__name__ async for item in items]

    assert kinds == ["Retry", "TextDelta", "Completion"]


def test_p1_p2_p4_hold_wherever_an_attempt_is_cancelled():
    async def scenario(probe):
        provider = Held([failure(), failure("quota")])
        options = {"fallback_providers": [Held(["Fine now."])], "retry_backoff": 0.0}
        await alloy.run("Hi.", provider=provider, middleware=[probe], on_event=probe, **options)

    assert sweep(scenario) > 15
