"""The processes that hold models: one for all who ask, none when nobody does. A script stands in for the model."""

from __future__ import annotations

import json
import os
import sys

import anyio
import pytest

from alloy.errors import ProviderError
from alloy.providers import local_process
from alloy.providers.http import lease_client
from alloy.providers.local_process import Launch, lease_server

pytestmark = pytest.mark.anyio

GREETS = "say(address='http://127.0.0.1:9')"
WAITS = "sys.stdin.read()"


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Has servers run a script, which is given its settings and can `say` a line; notes each start in a file."""

    def use(*lines):
        file = tmp_path / "server.py"
        head = [
            "import json, os, sys",
            f"open({str(tmp_path / 'starts')!r}, 'a').write(f'{{os.getpid()}}\\n')",
            "settings = json.loads(sys.stdin.readline())",
            "say = lambda **line: print(json.dumps(line), flush=True)",
        ]
        file.write_text("\n".join([*head, *lines]))
        monkeypatch.setattr(local_process, "_SCRIPT", file)

    return use


@pytest.fixture
def starts(tmp_path):
    """The process ids of the servers that were started."""
    return lambda: [int(line) for line in (tmp_path / "starts").read_text().split()]


LAUNCH = Launch("/models/tiny.gguf", "tiny", 4096)


def runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_all_who_ask_at_once_share_one_server_and_the_last_ends_it(script, starts):
    script(GREETS, WAITS)
    held, leave = [], anyio.Event()

    async def hold():
        async with lease_server(LAUNCH) as server:
            held.append(server)
            await leave.wait()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(hold)
            async with lease_server(LAUNCH):
                pass
            (pid,) = starts()
            assert runs(pid)
            leave.set()
    assert len(set(held)) == 1
    assert not runs(pid)


async def test_another_context_size_is_another_server(script, starts):
    script(GREETS, WAITS)
    with anyio.fail_after(20):
        async with lease_server(LAUNCH) as one, lease_server(Launch("/models/tiny.gguf", "tiny", 512)) as other:
            assert one.pid != other.pid
    assert not any(map(runs, starts()))


async def test_the_server_is_told_what_to_serve_and_no_secret_of_ours(script, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-ours")
    script("say(error=json.dumps([sys.argv, dict(os.environ), settings['key'] in str(sys.argv) + str(os.environ)]))")
    with anyio.fail_after(20), pytest.raises(ProviderError) as raised:
        async with lease_server(LAUNCH):
            pass
    argv, environ, exposed = json.loads(raised.value.message.partition("can't be served: ")[2])
    assert argv[1:] == []
    assert not any("KEY" in name for name in environ)
    assert not exposed


async def test_the_key_is_in_no_error(script):
    script("print(settings['key'], 'error', file=sys.stderr, flush=True)", "say(error='I know ' + settings['key'])")
    with anyio.fail_after(20), pytest.raises(ProviderError, match=r"I know \[key\]"):
        async with lease_server(LAUNCH):
            pass


async def test_the_key_is_in_no_representation(script):
    script("say(address='http://127.0.0.1:9')", WAITS)
    with anyio.fail_after(20):
        async with lease_server(LAUNCH) as server:
            key = next(iter(server.endpoint._headers.values())).reveal()
            assert len(key) >= 32
            assert key not in repr(server) + repr(server.endpoint) + repr(vars(server.endpoint))


@pytest.mark.parametrize(
    ("lines", "kind", "words"),
    [
        (["say(error='no such architecture')"], "invalid_request", "no such architecture"),
        (["print('E load: error: file is cut', file=sys.stderr)", "sys.exit(3)"], "server_error", "file is cut"),
        (["os.abort()"], "server_error", "ended with code -6"),
        (["print('[1]', flush=True)"], "server_error", "ended with code 0"),
        (["sys.stderr.write('E noise\\n' * 100_000)", "sys.exit(1)"], "server_error", "E noise"),
    ],
)
async def test_a_server_that_does_not_start_is_an_error_that_says_why(script, starts, lines, kind, words):
    script(*lines)
    with anyio.fail_after(20), pytest.raises(ProviderError, match=words) as raised:
        async with lease_server(LAUNCH):
            pass
    assert raised.value.kind == kind
    assert (raised.value.provider, raised.value.model) == ("local", "tiny")
    assert "/models/tiny.gguf" in raised.value.message
    assert not any(map(runs, starts()))


async def test_after_a_failed_start_the_next_one_begins_anew(script):
    script("say(error='busy')")
    with anyio.fail_after(20):
        with pytest.raises(ProviderError):
            async with lease_server(LAUNCH):
                pass
        script(GREETS, WAITS)
        async with lease_server(LAUNCH) as server:
            assert runs(server.pid)


async def test_a_model_that_takes_too_long_is_given_up(script, starts, monkeypatch):
    script(WAITS)
    monkeypatch.setattr(local_process, "START_TIMEOUT", 0.3)
    with anyio.fail_after(20), pytest.raises(ProviderError, match=r"0\.3 seconds") as raised:
        async with lease_server(LAUNCH):
            pass
    assert raised.value.kind == "timeout"
    assert not any(map(runs, starts() if (local_process._SCRIPT.parent / "starts").exists() else []))


async def test_a_cancelled_start_leaves_nothing_and_whoever_waits_with_it_starts_anew(script, starts, tmp_path):
    os.mkfifo(tmp_path / "loading")
    script(
        f"os.path.exists({str(tmp_path / 'loaded')!r}) or open({str(tmp_path / 'loading')!r}, 'w').close() or {WAITS}",
        GREETS,
        WAITS,
    )
    pids = []

    async def wait():
        async with lease_server(LAUNCH) as server:
            pids.append(server.pid)

    async def impatient(scope):
        with scope:
            async with lease_server(LAUNCH):
                pytest.fail("it can't have started")

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope()
            group.start_soon(impatient, scope)
            async with await anyio.open_file(tmp_path / "loading"):
                pass  # the first server is starting by now
            group.start_soon(wait)
            (tmp_path / "loaded").touch()
            scope.cancel()
    first, second = starts()
    assert pids == [second]
    assert not runs(first)
    assert not runs(second)


async def test_a_server_that_died_is_replaced(script, starts):
    script(GREETS, WAITS)
    with anyio.fail_after(20):
        async with lease_server(LAUNCH) as first:
            os.kill(first.pid, 9)
            assert await first.is_dying()
            async with lease_server(LAUNCH) as second:
                assert second.pid != first.pid
                assert runs(second.pid)
    assert not any(map(runs, starts()))


async def test_connections_stay_open_while_a_server_runs(script):
    script(GREETS, WAITS)
    with anyio.fail_after(20):
        async with lease_server(LAUNCH):
            async with lease_client() as client:
                pass
            assert not client.is_closed
        assert client.is_closed


async def test_a_server_that_lacks_its_library_says_so_in_its_answer():
    process = await anyio.open_process([sys.executable, "-I", str(local_process._SCRIPT)])
    with anyio.fail_after(20):
        async with process:
            settings = {"path": [], "model": "/nowhere", "alias": "a", "key": "k", "context_size": 512, "cores": 1}
            await process.stdin.send(json.dumps(settings).encode() + b"\n")
            assert "xllamacpp" in json.loads(await process.stdout.receive())["error"]
            assert await process.wait() == 1
