"""Secrets stay home: commands don't get them, and keys in use are in nothing that's recorded."""

import gc
import json
import logging
import os
import subprocess
import sys
import textwrap

import anyio
import anyio.lowlevel
import pytest

import alloy
from alloy import _secrets
from alloy._secrets import Secret, keys_in_use, looks_secret, without_keys
from alloy.providers import Anthropic, ChatCompletions, Scripted
from alloy.sessions import FileStore, Session
from alloy.testing import Recorder, calls, together
from alloy.tools import Bash, bash, grep, read
from alloy.tools.environment import clean_environment

pytestmark = pytest.mark.anyio

KEY = "plain-Canary-0001-of-a-provider"  # neither its name nor its look gives it away

NAMES = [
    "OPENAI_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "aws_access_key_id",
    "GITHUB_TOKEN",
    "GH_TOKEN",
    "DB_PASSWORD",
    "PGPASSWORD",
    "MYSQL_PWD",
    "SMTP_PASS",
    "PASSPHRASE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "apikey",
    "XAPIKEYX",
    "CLIENT_SECRET",
    "SESSION_COOKIE",
    "HTTP_AUTHORIZATION",
    "SSH_AUTH_SOCK",
    "SLACK_WEBHOOK",
    "SENTRY_DSN",
    "PRIVATE_THING",
]
VALUES = [
    "sk-proj-Canary0123456789abcd",
    "sk_live_Canary0123456789abcd",
    "ghp_Canary0123456789abcdefghij",
    "github_pat_Canary0123456789abcdefghij",
    "glpat-Canary0123456789abcd",
    "xoxb-1234567890-Canary",
    "AKIACANARY0123456789",
    "AIzaCanary0123456789abcdefghijklmnop",
    "xai-Canary0123456789abcdefghij",
    "gsk_Canary0123456789abcdefghij",
    "hf_Canary0123456789abcdefghij",
    "eyJhbGciOiJIUzI1NiJ9.eyJDYW5hcnkiOiIxIn0.abc",
    "postgres://user:Canary@host/db",
    "redis://:Canary@host:6379",
    "Server=x;User Id=y;Password=Canary;",
    "DefaultEndpointsProtocol=https;AccountKey=Canary==",
    "https://hooks.slack.com/services/T0/B0/Canary",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nCanary",
    "Zm9vCanaryYmFyQmF6MTIzNDU2Nzg5MGFiY2RlZg",
    f"Bearer {KEY}",
]
HARMLESS = {
    "PATH": "/usr/local/bin:/usr/bin",
    "HOME": "/home/user",
    "LANG": "C.UTF-8",
    "PWD": "/home/user",
    "GIT_AUTHOR_NAME": "Ada",
    "XKB_DEFAULT_KEYBOARD": "us",
    "GIT_COMMIT": "0123456789abcdef0123456789abcdef01234567",
    "PYTHONPATH": "/srv/app/src",
    "DATABASE_HOST": "localhost",
    "HTTPS_PROXY": "http://proxy:3128",
    "LS_COLORS": "di=01;34:ln=01;36",
}


# --- The environment of commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_variable_that_is_called_like_a_secret_is_left_out(name):
    assert clean_environment({}, source={name: "Canary"}) == {"TERM": "dumb"}


@pytest.mark.parametrize("value", VALUES)
def test_a_variable_that_looks_like_a_secret_or_holds_a_key_in_use_is_left_out(value):
    provider = ChatCompletions("m", api_key=KEY, base_url="http://127.0.0.1:1/v1")
    assert clean_environment({}, source={"PLAIN": value}) == {"TERM": "dumb"}
    del provider


def test_harmless_variables_are_passed_on():
    assert clean_environment({}, source=HARMLESS) == {**HARMLESS, "TERM": "dumb"}


def test_what_has_a_shell_do_more_than_it_is_told_is_left_out():
    startup = {"BASH_ENV": "/x", "ENV": "/x", "PROMPT_COMMAND": "x", "SHELLOPTS": "x", "BASH_FUNC_ls%%": "() { x; }"}
    assert clean_environment({}, source=startup) == {"TERM": "dumb"}


def test_what_is_asked_for_is_passed_on_whatever_it_looks_like():
    source = {"GH_TOKEN": "a", "OTHER_TOKEN": "b"}
    assert clean_environment({"MY_KEY": "c", "TERM": "xterm"}, ["GH_TOKEN", "NOT_THERE"], source=source) == {
        "GH_TOKEN": "a",
        "MY_KEY": "c",
        "TERM": "xterm",
    }


async def test_a_command_sees_none_of_it(user, monkeypatch):
    provider = Anthropic("m", api_key=KEY)
    for name in NAMES:
        monkeypatch.setenv(name, f"{name}-Canary")
    for number, value in enumerate(VALUES):
        monkeypatch.setenv(f"PLAIN_{number}", value)
    free = Bash(restricted=False, pass_env=["GH_TOKEN"], env={"MINE": "my-own"})

    for command in ("env", "export -p", "cat /proc/self/environ", "python3 -c 'import os; print(dict(os.environ))'"):
        text = await user.text(free, command=command)
        assert "GH_TOKEN-Canary" in text
        assert "my-own" in text
        rest = text.replace("GH_TOKEN-Canary", "")
        assert "Canary" not in rest
        assert "CANARY" not in rest
    assert "anary" not in await user.text(bash, command="env")
    del provider


# --- Keys in use -----------------------------------------------------------------------------------------------------


def test_a_key_is_in_use_as_long_as_somebody_holds_it():
    secret = Secret("some-key-number-1")
    assert "some-key-number-1" in keys_in_use()
    held = len(_secrets._in_use)
    del secret
    gc.collect()
    assert "some-key-number-1" not in keys_in_use()
    assert len(_secrets._in_use) < held


def test_placeholders_are_no_keys_and_words_are_not_taken_out_of_texts():
    held = [Secret("ollama"), Secret("not-needed"), Secret("a-long-placeholder-without-digits"), Secret(KEY)]
    assert "ollama" not in keys_in_use()
    text = f"ollama not-needed a-long-placeholder-without-digits {KEY}{KEY}"
    assert without_keys(text) == "ollama not-needed a-long-placeholder-without-digits [key][key]"
    assert looks_secret("X", "not-needed")
    assert held


def test_keys_can_be_made_and_looked_for_in_many_threads_at_once():
    import threading  # noqa: PLC0415  this test alone

    failures = []

    def work():
        try:
            for number in range(300):
                Secret(f"key-{number:010}")
                keys_in_use()
        except RuntimeError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert failures == []


async def test_p8_a_key_that_a_tool_finds_is_in_nothing_that_is_recorded(user, caplog):
    """The key stands in files and in a program's output; the run is recorded in every way there is."""
    caplog.set_level(logging.DEBUG)
    provider = ChatCompletions("m", api_key=KEY, base_url="http://127.0.0.1:1/v1")
    (user.root / ".env").write_text(f"SOME_VALUE={KEY}\n")

    @alloy.tool
    def tells(context: alloy.ToolContext) -> str:
        """Tells."""
        context.report(f"found {KEY}")
        raise alloy.ToolError(f"can't use {KEY}")

    @alloy.tool
    def crashes() -> str:
        """Crashes."""
        raise ValueError(KEY)

    recorder = Recorder()
    script = [
        calls("read", path=".env"),
        calls("grep", pattern="SOME"),
        calls(
            "bash",
            command="cat .env; cat .env >&2; until [ -e seen ]; do cat .env; sleep 0.05; touch seen; done; sleep 0.2",
        ),
        calls("tells"),
        calls("crashes"),
        "Done.",
    ]
    result = await alloy.run(
        "Look.",
        provider=Scripted(script),
        tools=[read, grep, bash, tells, crashes],
        working_directory=user.root,
        on_event=recorder,
    )
    session = await FileStore(user.root.parent / "sessions").save(Session(id="desk", messages=result.messages))

    recorded = [
        *(envelope.to_json().decode() for envelope in recorder.envelopes),
        *(repr(envelope) for envelope in recorder.envelopes),
        *(path.read_text() for path in (user.root.parent / "sessions").rglob("*") if path.is_file()),
        repr(result),
        repr(session),
        alloy.messages_to_json(result.messages).decode(),
        caplog.text,
    ]
    assert "tool_progress" in recorder.events
    assert not [text for text in recorded if "Canary" in text]
    assert sum(text.count("[key]") for text in recorded) > 10
    del provider


async def test_p8_a_key_is_neither_in_an_approval_nor_in_the_session_that_waits_for_it(user):
    provider = ChatCompletions("m", api_key=KEY, base_url="http://127.0.0.1:1/v1")
    folder = user.root.parent / "sessions"
    recorder = Recorder()

    @alloy.tool
    async def look() -> dict[str, str]:
        """Looks."""
        return {"found": KEY}

    @alloy.tool
    async def use(context: alloy.ToolContext) -> str:
        """Uses."""
        return str(bool(await context.ask(f"use {KEY}?")))

    script = Scripted([calls("look"), together(calls("look"), calls("use")), "Done."])
    options = {"provider": script, "tools": [look, use], "store": FileStore(folder), "on_event": recorder}
    async with alloy.Agent(name="desk", **options) as agent:
        await agent.send_message("Go.", request_id="r1")
        with anyio.fail_after(5):
            while not agent.approvals():
                await anyio.lowlevel.checkpoint()
        assert agent.approvals()[0].reason == "use [key]?"

    saved = "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
    assert "suspended" in saved
    assert '"found":"[key]"' in saved.replace(" ", "")
    assert "Canary" not in saved + "".join(envelope.to_json().decode() for envelope in recorder.envelopes)
    del provider


def test_p8_not_even_the_environment_of_the_process_itself_gives_a_key_away(tmp_path):
    """On Linux any program of the same user can read it; a key in use is taken out of what it prints."""
    program = textwrap.dedent("""
        import asyncio, os, sys
        import alloy
        from alloy.providers import Scripted
        from alloy.testing import calls

        async def main():
            held = alloy.providers.Anthropic("claude-sonnet-4-5")
            commands = ["cat /proc/%d/environ" % os.getpid(), "tr '\\\\0' '\\\\n' < /proc/%d/environ" % os.getpid()]
            script = [*(calls("bash", command=command) for command in commands), "Done."]
            shell = alloy.tools.Bash(restricted=False)
            show = lambda envelope: print(envelope.to_json().decode())
            result = await alloy.run("Go.", provider=Scripted(script), tools=[shell], on_event=show)
            print(result)

        asyncio.run(main())
    """)
    env = {"PATH": os.environ["PATH"], "ANTHROPIC_API_KEY": KEY}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=env, cwd=tmp_path, timeout=30, check=True
    )
    assert "ANTHROPIC_API_KEY=[key]" in done.stdout
    assert "Canary" not in done.stdout + done.stderr
    for line in done.stdout.splitlines()[:-1]:
        json.loads(line)
