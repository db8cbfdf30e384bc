"""The rate governor against servers with limits, in virtual time."""

from __future__ import annotations

import contextlib
import math
import random
from random import Random

import anyio
import httpx
import pytest

import alloy
from alloy.errors import InvalidOptionError, ProviderError
from alloy.providers import ChatCompletions, Gemini, OpenAI, RateLimits, Retrying, governor
from alloy.testing import Recorder, Scripted, sweep
from alloy.testing.virtual import run_virtually
from tests.providers.limited_server import Limit, Server, adapter, ask, asked


async def crowd(server, *, agents=500, seconds=180.0, size=1000):
    """So many agents ask one key one question after the other, for so long."""
    random.seed(3)
    async with server.client() as client:
        provider = Retrying(adapter(client), max_retries=10)
        chance = Random(2)

        async def agent(name):
            while True:
                await ask(provider, asked(chance.randint(size // 2, size * 3 // 2), name))

        async with anyio.create_task_group() as group:
            for number in range(agents):
                group.start_soon(agent, f"agent {number}")
            await anyio.sleep(seconds)
            group.cancel_scope.cancel()


def share(server, seconds=180.0):
    """How much of the tightest limit was used."""
    return max(limit.granted / limit.possible(seconds) for limit in server.limits.values() if limit)


@pytest.mark.parametrize(
    ("style", "requests", "tokens", "fixed", "phase"),
    [
        ("openai", 600, None, False, 0.0),
        ("anthropic", 2000, 600_000, False, 0.0),
        ("minute", 600, None, True, 37.3),
        ("seconds", 2000, 600_000, True, 0.0),
    ],
)
def test_five_hundred_agents_use_the_whole_of_a_limit_and_hardly_ever_hit_it(style, requests, tokens, fixed, phase):
    limits = {"requests": requests, "tokens": tokens}
    server = Server(
        style=style, **{name: size and Limit(size, fixed=fixed, phase=phase) for name, size in limits.items()}
    )

    run_virtually(crowd(server))

    assert share(server) >= 0.95
    assert len(server.refused) <= 0.01 * len(server.seen)


def test_a_limit_that_the_server_lowers_is_kept_from_then_on():
    server = Server(requests=Limit(1200))

    async def lowered():
        async with anyio.create_task_group() as group:
            group.start_soon(crowd, server)
            await anyio.sleep(90)
            limit = server.limits["requests"]
            limit.size, limit.level, limit.granted = 300.0, min(limit.level, 300.0), 0.0

    run_virtually(lowered())

    assert server.limits["requests"].granted >= 0.95 * 300 * 90 / 60
    assert len(server.refused) <= 0.01 * len(server.seen)


def test_an_account_that_others_use_too_is_shared_with_them():
    server = Server(requests=Limit(600))

    async def others():
        async with server.client() as client, anyio.create_task_group() as group:
            provider = Retrying(adapter(client, rate_limits=None), max_retries=10)
            for _ in range(900):  # half of what comes back
                group.start_soon(ask, provider, asked())
                await anyio.sleep(0.2)

    async def both():
        async with anyio.create_task_group() as group:
            group.start_soon(crowd, server)
            group.start_soon(others)

    run_virtually(both())

    assert share(server) >= 0.95
    assert len(server.refused) <= 0.06 * len(server.seen)  # those others are as likely to hit it


# --- Who goes first --------------------------------------------------------------------------------------------------


def run_at(server, scenario, *, loop_seed=None, **options):
    """Runs a scenario that is given a provider whose account may send one request a second, none of them at once."""

    async def main():
        random.seed(3)
        async with server.client() as client, anyio.create_task_group() as group:
            provider = adapter(client, **options)
            if server.limits["requests"]:
                server.limits["requests"].level = 2.0
                await ask(provider, asked())
            await scenario(provider, group)

    run_virtually(main(), loop_seed)


def test_a_modest_caller_is_not_kept_waiting_by_a_greedy_one():
    server = Server(requests=Limit(60), latency=(0.1, 0.1))
    waits = []

    async def scenario(provider, group):
        for _ in range(100):
            group.start_soon(ask, provider, asked(caller="greedy"))
        for _ in range(5):
            await anyio.sleep(1)
            began = anyio.current_time()
            await ask(provider, asked(caller="modest"))
            waits.append(anyio.current_time() - began)

    run_at(server, scenario)

    assert server.granted == 106
    assert max(waits) < 4


def test_callers_take_turns_and_each_keeps_its_order():
    server = Server(requests=Limit(60), latency=(0.1, 0.1))

    async def scenario(provider, group):
        for tokens in (11, 12, 13, 21, 22, 31):
            group.start_soon(ask, provider, asked(tokens, caller=f"caller {tokens // 10}"))
            await anyio.lowlevel.checkpoint()

    run_at(server, scenario)

    assert [int(said) for _, said in server.seen[1:]] == [11, 21, 31, 12, 22, 13]


def test_interactive_requests_go_before_the_batch_which_does_not_starve():
    server = Server(requests=Limit(60), latency=(0.1, 0.1))

    async def scenario(provider, group):
        for _ in range(40):
            group.start_soon(ask, provider, asked(1, priority="batch"))
        await anyio.sleep(0.1)
        for _ in range(40):
            group.start_soon(ask, provider, asked(2))

    run_at(server, scenario)

    said = [said for _, said in server.seen[1:]]
    assert 3 <= said[:40].count("1") <= 6
    assert said[-30:] == ["1"] * 30


def test_nobody_waits_where_no_limit_is_known():
    server = Server(latency=(1.0, 1.0))
    waited = []

    async def scenario(provider, group):
        for number in range(1000):
            group.start_soon(ask, provider, asked(caller=str(number)))
        await anyio.sleep(1.5)
        waited.append(len(server.seen))

    run_at(server, scenario)

    assert waited == [1000]
    assert server.most == 1000


# --- What the server says --------------------------------------------------------------------------------------------

OK = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}]}


def refused(**headers) -> httpx.Response:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(429, headers=headers, json={"error": {"message": "Too many requests"}})


def test_retry_after_holds_everybody_back_who_shares_the_account_and_they_do_not_rush():
    server = Server()
    server.answers = [refused(retry_after="20")]

    async def scenario(provider, group):
        again = Retrying(provider)
        group.start_soon(ask, again, asked(1, caller="first"))
        await anyio.sleep(1)
        for number in range(50):
            group.start_soon(ask, again, asked(caller=str(number)))
            group.start_soon(ask, adapter(provider._endpoint._client), asked(caller=str(number)))

    run_at(server, scenario)

    times = [at for at, _ in server.seen]
    assert len(times) == 102
    assert times[0] < 1
    assert 20 <= times[1] < 22
    assert [said for _, said in server.seen[:2]] == ["1", "1"]  # it has waited in the queue since then


def test_those_who_have_waited_do_not_all_rush_at_once():
    server = Server(requests=Limit(600), latency=(0.0, 0.0))

    async def scenario(provider, group):
        server.limits["requests"].level = 600.0
        spent = {"x_ratelimit_limit_requests": "600", "x_ratelimit_remaining_requests": "0"}
        server.answers = [refused(retry_after="20", **spent)]
        group.start_soon(ask, Retrying(provider), asked())
        await anyio.sleep(1)
        for _ in range(100):
            group.start_soon(ask, provider, asked())

    run_at(server, scenario)

    times = [at for at, _ in server.seen[2:]]
    assert len(times) == 101
    assert 2 < times[-1] - times[0] < 4


def test_a_retry_waits_in_the_queue_and_not_twice():
    server = Server(latency=(0.0, 0.0))
    server.answers = [refused(retry_after="20")]
    items = []

    async def scenario(provider, group):
        items.extend(await ask(Retrying(provider, chance=lambda: 1.0), asked()))

    run_at(server, scenario)

    assert [type(item).__name__ for item in items] == ["Retry", "Completion"]
    assert items[0].delay == 20
    assert [20 <= at <= 21.1 for at, _ in server.seen] == [False, True]


@pytest.mark.parametrize(
    ("status", "details"),
    [
        (429, [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}]),
        (503, [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}]),
    ],
)
def test_the_time_that_gemini_asks_for_in_an_errors_body_holds_everybody_back(status, details):
    server = Server()
    body = {"error": {"code": status, "message": "Quota exceeded", "status": "RESOURCE_EXHAUSTED", "details": details}}
    answer = {"candidates": [{"content": {"role": "model", "parts": [{"text": "Yes."}]}, "finishReason": "STOP"}]}
    times = []

    async def answered(request):
        times.append(anyio.current_time())
        return httpx.Response(status, json=body) if len(times) == 1 else httpx.Response(200, json=answer)

    async def scenario(provider, group):
        async with httpx.AsyncClient(transport=httpx.MockTransport(answered)) as client:
            gemini = Retrying(Gemini("gemini-3.8-flash", "key-0123456789", client=client, max_tokens=9))
            async with anyio.create_task_group() as both:
                both.start_soon(ask, gemini, asked(caller="first"))
                await anyio.sleep(1)
                both.start_soon(ask, gemini, asked(caller="second"))

    run_at(server, scenario)

    assert [34 <= at <= 36 for at in times] == [False, True, True]


def test_another_model_of_the_same_account_has_limits_of_its_own_and_another_api_of_it_has_not():
    assert adapter(None)._account.key != ChatCompletions("n", "key-0123456789", "http://limited.test/v1")._account.key
    assert adapter(None)._account.key != ChatCompletions("m", "key-9876543210", "http://limited.test/v1")._account.key
    assert adapter(None)._account.key == OpenAI("m", "key-0123456789", "http://limited.test/v1")._account.key
    one, two = (ChatCompletions(model, "key-0123456789", compat="moonshot") for model in ("kimi-k3", "kimi-k2.6"))
    assert one._account.key == two._account.key


def test_without_numbers_fewer_are_under_way_after_a_429_and_more_again_when_it_goes_well():
    server = Server(concurrency=20, style="none", latency=(1.0, 2.0))
    server.retry_after = False

    run_virtually(crowd(server, agents=100, seconds=600.0))
    settled = [at for at in server.refused if at > 60]

    assert server.granted >= 0.75 * 20 * 600 / 1.6
    assert len(settled) <= 0.05 * server.granted


def test_what_was_narrowed_is_lifted_when_as_many_as_before_go_well():
    server = Server(concurrency=20, style="none", latency=(1.0, 1.0))
    times = []

    async def scenario(provider, group):
        again = Retrying(provider)
        for _ in range(40):
            group.start_soon(ask, again, asked())
        await anyio.sleep(100)
        server.concurrency = math.inf
        for _ in range(30):
            async with anyio.create_task_group() as some:
                for _ in range(40):
                    some.start_soon(ask, again, asked())
        began = anyio.current_time()
        async with anyio.create_task_group() as many:
            for _ in range(500):
                many.start_soon(ask, again, asked())
        times.append(anyio.current_time() - began)

    run_at(server, scenario)

    assert times[0] < 2


NONSENSE = [
    {"x-ratelimit-limit-requests": "-1", "x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "0"},
    {"x-ratelimit-limit-requests": "0", "x-ratelimit-remaining-requests": "0"},
    {"x-ratelimit-limit-requests": "9" * 400, "x-ratelimit-remaining-requests": "0"},
    {"x-ratelimit-limit-requests": "many", "x-ratelimit-remaining-requests": "NaN", "x-ratelimit-reset-requests": "inf"},
    {"x-ratelimit-limit-requests": "10", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "48h0m0s"},
    {"x-ratelimit-limit-tokens": "10", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "9999999999999"},
    {"x-ratelimit-limit-requests-day": "1", "x-ratelimit-remaining-requests-day": "0", "x-ratelimit-reset-requests-day": "80000"},
    {"x-ratelimit-limit": "5", "x-ratelimit-remaining": "\u00b2", "x-ratelimit-reset": "\u0663"},
    {"anthropic-ratelimit-requests-limit": "5", "anthropic-ratelimit-requests-remaining": "7", "anthropic-ratelimit-requests-reset": "1999-13-45T99:00:00Z"},
    {"anthropic-ratelimit-tokens-limit": "50000", "anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": "0001-01-01T00:00:00+23:59"},
    {"ratelimit-limit": "10, 10;w=1", "ratelimit-remaining": "", "ratelimit-reset": "1" * 5000, "date": "yesterday"},
    {"retry-after": "-5", "retry-after-ms": "abc"},
    {"retry-after": "99999999999", "x-ratelimit-limit-requests": "1e999"},
    {"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"},
]  # fmt: skip


@pytest.mark.parametrize("headers", NONSENSE)
@pytest.mark.parametrize("status", [200, 429])
def test_headers_that_make_no_sense_neither_hang_nor_break_anything(headers, status):
    server = Server(latency=(0.1, 0.1))
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    server.answers = [httpx.Response(status, headers=raw, json=OK if status == 200 else {}) for _ in range(3)]
    ended = []

    async def scenario(provider, group):
        async def one():
            with contextlib.suppress(ProviderError):
                await ask(provider, asked())
            ended.append(anyio.current_time())

        for _ in range(3):
            group.start_soon(one)
        await anyio.sleep(5)
        for _ in range(10):
            group.start_soon(one)

    run_at(server, scenario)

    assert len(ended) == 13
    assert len(server.seen) == 13
    assert max(ended) < 130


def test_what_would_keep_everybody_waiting_for_hours_is_left_to_the_server_to_say():
    server = Server(latency=(0.0, 0.0))
    day = {"x-ratelimit-limit-requests-day": "100", "x-ratelimit-remaining-requests-day": "0", "x-ratelimit-reset-requests-day": "30000"}  # fmt: skip
    server.answers = [
        httpx.Response(200, headers=day, json=OK),
        refused(retry_after="30000"),
        refused(retry_after="30000"),
    ]
    errors = []

    async def scenario(provider, group):
        await ask(provider, asked())
        for _ in range(2):
            with pytest.raises(ProviderError) as caught:
                await ask(Retrying(provider), asked())
            errors.append(caught.value.retry_after)

    run_at(server, scenario)

    assert errors == [30000, 30000]
    assert max(at for at, _ in server.seen) < 1


# --- Waiting ---------------------------------------------------------------------------------------------------------


def test_a_wait_past_the_deadline_fails_at_once_and_takes_nothing():
    server = Server(requests=Limit(60), latency=(0.0, 0.0))
    failed = []

    async def scenario(provider, group):
        for _ in range(30):
            group.start_soon(ask, provider, asked())
        await anyio.sleep(0.5)
        began = anyio.current_time()
        with anyio.fail_after(10):
            with pytest.raises(ProviderError) as caught:
                await ask(provider, asked())
        failed.append((caught.value.kind, anyio.current_time() - began, round(caught.value.retry_after)))

    run_at(server, scenario)

    assert failed == [("rate_limited", 0.0, 30)]
    assert server.granted == 31


def test_those_who_wait_fail_at_once_when_the_gate_closes_past_their_deadline():
    server = Server(requests=Limit(60), latency=(0.0, 0.0))
    failed = []

    async def scenario(provider, group):
        async def hurried():
            with anyio.fail_after(30), pytest.raises(ProviderError) as caught:
                await ask(provider, asked(2))
            failed.append((caught.value.kind, anyio.current_time()))

        for _ in range(3):
            group.start_soon(ask, Retrying(provider), asked(1))
        group.start_soon(hurried)
        await anyio.sleep(0.01)
        server.answers = [refused(retry_after="60")]

    run_at(server, scenario)

    assert failed[0][0] == "rate_limited"
    assert failed[0][1] < 5


def test_what_would_wait_for_too_long_is_not_tried_again_but_elsewhere():
    server, spare = Server(requests=Limit(60), latency=(0.0, 0.0)), Scripted(["From the spare."])
    texts, times = [], []

    async def scenario(provider, group):
        for number in range(30):
            group.start_soon(ask, provider, asked(caller=str(number)))
        await anyio.sleep(0.5)
        limited = adapter(provider._endpoint._client, rate_limits=RateLimits(max_wait=10))
        began = anyio.current_time()
        result = await alloy.run("1", provider=limited, fallback_providers=[spare])
        texts.append(result.text)
        times.append(anyio.current_time() - began)

    run_at(server, scenario)

    assert (texts, times) == (["From the spare."], [0.0])


def test_no_wait_is_longer_than_max_wait():
    server = Server(requests=Limit(60), latency=(0.0, 0.0))
    ended = []

    async def scenario(provider, group):
        async def one():
            try:
                await ask(provider, asked())
            except ProviderError as error:
                ended.append((error.kind, anyio.current_time()))

        for _ in range(30):
            group.start_soon(one)

    run_at(server, scenario, rate_limits=RateLimits(max_wait=10))

    assert 18 <= len(ended) <= 22
    assert all(kind == "rate_limited" and at < 12 for kind, at in ended)
    assert server.granted + len(ended) == 31


def test_a_wait_that_lasts_is_told_of_in_the_stream_and_in_the_envelopes():
    server = Server(requests=Limit(60), latency=(0.0, 0.0))
    recorder = Recorder()

    async def scenario(provider, group):
        for number in range(5):
            group.start_soon(ask, provider, asked(caller=str(number)))
        await anyio.sleep(0.1)
        await alloy.run("6", provider=provider, on_event=recorder)

    run_at(server, scenario)

    told = recorder.named("runtime_event")
    assert [envelope.payload["kind"] for envelope in told] == ["rate_limited_wait"]
    assert told[0].payload["reason"] == "requests"
    assert told[0].payload["ahead"] in (4, 5)
    assert 3 < told[0].payload["delay_s"] < 8
    assert told[0].payload["waits_for"] == "chat_completions:m"


# --- Limits set by hand ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{"requests_per_minute": 60}, {"tokens_per_minute": 6000}])
def test_limits_set_by_hand_hold_from_the_first_request(limits):
    server = Server(latency=(0.1, 0.1))

    async def scenario(provider, group):
        for _ in range(120):
            group.start_soon(ask, provider, asked(100, estimated_tokens=100))

    run_at(server, scenario, rate_limits=RateLimits(**limits))

    times = [at for at, _ in server.seen]
    assert max(sum(start <= at < start + 60 for at in times) for start in times) <= 67
    assert times[-1] < 120


def test_concurrency_set_by_hand_is_never_exceeded():
    server = Server()

    async def scenario(provider, group):
        for _ in range(50):
            group.start_soon(ask, provider, asked())

    run_at(server, scenario, rate_limits=RateLimits(concurrency=3))

    assert (server.most, server.granted) == (3, 50)


def test_switched_off_nothing_waits():
    server = Server(requests=Limit(60), latency=(0.0, 0.0))

    async def scenario(provider, group):
        async def one():
            with contextlib.suppress(ProviderError):
                await ask(provider, asked())

        for _ in range(50):
            group.start_soon(one)

    run_at(server, scenario, rate_limits=None)

    assert len(server.seen) == 51
    assert max(at for at, _ in server.seen) < 0.1


@pytest.mark.parametrize(
    "wrong",
    [
        {"requests_per_minute": 0},
        {"tokens_per_minute": -1},
        {"concurrency": 0},
        {"concurrency": 1.5},
        {"max_wait": math.inf},
    ],
)
def test_limits_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InvalidOptionError, match=next(iter(wrong))):
        RateLimits(**wrong)


def test_tokens_that_were_expected_and_not_used_are_given_back():
    server = Server(latency=(0.1, 0.1))
    times = []

    async def scenario(provider, group):
        for _ in range(10):
            await ask(provider, asked(100, estimated_tokens=6000))
        times.append(anyio.current_time())

    run_at(server, scenario, rate_limits=RateLimits(tokens_per_minute=60_000))

    assert times[0] < 2


# --- Nothing is lost -------------------------------------------------------------------------------------------------


def state(provider):
    (limiter,) = governor._limiters.get().values()
    return (
        limiter.idle,
        len(limiter._guessed),
        [round(taken - told) for taken, told in zip(limiter._taken, limiter._told, strict=True)],
    )


@pytest.mark.parametrize("seed", range(20))
def test_wherever_waiters_are_cancelled_their_places_go_to_others_and_every_request_is_sent_once(seed):
    server = Server(requests=Limit(60), latency=(0.0, 2.0), seed=seed)
    chance = Random(seed)
    ended, after = [], []

    async def scenario(provider, group):
        async def one(number):
            with anyio.CancelScope() as scope:
                if number % 2:
                    group.start_soon(cancel, scope)
                await ask(provider, asked(number, caller=str(number % 5)))
                ended.append(number)

        async def cancel(scope):
            await anyio.sleep(chance.uniform(0, 60))
            scope.cancel()

        async with anyio.create_task_group() as many:
            for number in range(1, 61):
                many.start_soon(one, number)
        after.append(state(provider))

    run_at(server, scenario, loop_seed=seed)

    assert after == [(True, 0, [0, 0, 0])]
    assert {number for number in range(1, 61) if not number % 2} <= set(ended)
    said = [said for _, said in server.seen]
    assert len(said) == len(set(said))
    assert server.refused == []


def test_one_that_is_cancelled_when_it_had_its_turn_already_gives_it_to_the_next():
    async def main():
        account = adapter(None, rate_limits=RateLimits(requests_per_minute=10))._account
        with account.enter(asked(), 100), account.enter(asked(), 100) as second:
            assert second.waiting
            await anyio.sleep(7)
            assert not second.waiting  # though it doesn't know yet
        with account.enter(asked(), 100) as third:
            return third.waiting

    assert run_virtually(main()) is False


def test_p1_p2_p3_p4_hold_wherever_a_run_that_waits_is_cancelled():
    left = []

    async def scenario(probe):
        server = Server(latency=(0.005, 0.005))
        async with server.client() as client:
            provider = adapter(client, rate_limits=RateLimits(concurrency=1))

            async def another():
                with contextlib.suppress(ProviderError):
                    await ask(provider, asked())

            async with anyio.create_task_group() as group:
                group.start_soon(another)
                await anyio.lowlevel.checkpoint()
                with contextlib.suppress(alloy.RunError):  # it has waited past its deadline
                    await alloy.run("7", provider=provider, middleware=[probe], on_event=probe)

    async def after(probe):
        left.append(state(None) if governor._limiters.get(None) else None)

    assert sweep(scenario, after=after) > 20
    assert set(map(str, left)) <= {"None", "(True, 0, [0, 0, 0])"}


def test_what_was_learned_of_an_account_is_forgotten_when_nobody_uses_it_for_long():
    server = Server(latency=(0.1, 0.1))
    known = []

    async def main():
        async with server.client() as client:
            for number in range(100):
                await ask(ChatCompletions(f"m{number}", "key-0123456789", "http://l.test", client=client), asked())
            await anyio.sleep(1000)
            for _ in range(100):
                await ask(adapter(client), asked())
            known.append(len(governor._limiters.get()))

    run_virtually(main())

    assert known == [1]
