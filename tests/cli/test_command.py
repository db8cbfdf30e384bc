"""What the command takes, asks, writes where, and ends with."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

OWN_TOOL = '''
import alloy

@alloy.tool
def weather(city: str) -> str:
    """Current weather."""
    print("looking out of the window")
    return f"sunny in {city}"

def plain(): ...
'''

STUBBORN_TOOL = '''
import sys
import alloy, anyio

@alloy.tool
async def stubborn() -> str:
    """Holds on."""
    try:
        print("holding", file=sys.stderr, flush=True)
        await anyio.sleep_forever()
    finally:
        print("cleaning", file=sys.stderr, flush=True)
        with anyio.CancelScope(shield=True):
            await anyio.sleep_forever()
'''


def envelopes(stdout):
    return [json.loads(line) for line in stdout.splitlines()]


def test_a_pipe_gets_the_answer_and_nothing_else(alloy, model):
    done = alloy("hi", model=model([("think", "Hm."), "It is ", "4."]))

    assert done.stdout == "It is 4.\n"
    assert done.exit_code == 0


def test_what_happens_besides_goes_to_standard_error_without_escape_codes(alloy, model, tmp_path):
    (tmp_path / "a.txt").write_text("first line\nsecond line\n")
    script = [("think", "A file."), "Let me look.", {"read": {"path": "a.txt"}}], ["It says first."]

    done = alloy("--tools", "read", "what is in a.txt?", model=model(*script))

    assert done.stdout == "Let me look.\nIt says first.\n"
    thinking, call, outcome, usage = done.stderr.splitlines()
    assert thinking == "A file."
    assert call == '→ read(path="a.txt")'
    assert outcome.startswith("← read ok in ")
    assert outcome.endswith("first line")
    assert usage.startswith("24 tokens in (8 cached), 6 out · 2 turns · 1 tool call · openai:test-model · ")
    assert "\x1b" not in done.stderr


def test_all_core_tools_can_be_given_by_name(alloy, model, tmp_path):
    script = [
        [{"write": {"path": "src/a.py", "content": "print(1)\n"}}],
        [{"edit": {"path": "src/a.py", "edits": [{"old": "1", "new": "2"}]}}],
        [{"read": {"path": "src/a.py"}}],
        [{"list": {}}],
        [{"find": {"pattern": "*.py"}}],
        [{"grep": {"pattern": "print"}}],
        [{"bash": {"command": "echo $((40 + 2))"}}],
        [{"bash": {"command": "cat /etc/passwd"}}],
        ["Done."],
    ]
    answering = model(*script)

    done = alloy("--tools", "read,write,edit", "-t", "bash,grep,find,list", "go", model=answering)

    outcomes = [line for line in done.stderr.splitlines() if line.startswith("← ")]
    assert [(line.split()[1], line.split()[2], line.rpartition(": ")[2][:30]) for line in outcomes] == [
        ("write", "ok", "wrote 9 bytes, 1 line, to 'src"),
        ("edit", "ok", "replaced 1 match, on line 1"),
        ("read", "ok", "1 print(2)"),
        ("list", "ok", "src/"),
        ("find", "ok", "src/a.py"),
        ("grep", "ok", "print(2)"),
        ("bash", "ok", "42"),
        ("bash", "error", "'/etc/passwd' leads out of the"),
    ]
    named = [tool["function"]["name"] for tool in answering.requests[0]["tools"]]
    assert named == ["read", "write", "edit", "bash", "grep", "find", "list"]
    assert (tmp_path / "src/a.py").read_text() == "print(2)\n"


def test_a_failed_tool_call_is_shown_as_one(alloy, model):
    done = alloy("--tools=read", "read it", model=model([{"read": {"path": "missing"}}], ["No."]))

    assert "← read error in " in done.stderr


def test_the_models_escape_codes_go_through_a_pipe_untouched(alloy, model):
    assert alloy("hi", model=model(["\x1b[31mred"])).stdout == "\x1b[31mred\n"


def test_what_a_model_costs_is_in_the_usage(alloy, model):
    done = alloy("-p", "openai-chat:gpt-4o", "hi", model=model(["hello"]))

    assert done.stderr.splitlines()[-1].endswith("· $0.0001")


def test_an_answer_that_was_cut_off_or_is_empty_is_said_to_be_so(alloy, model):
    answering = model([], ["Once upon", ("stop", "length")])

    assert "the model said nothing\n" in alloy("hi", model=answering).stderr
    assert "the answer was cut off: max_tokens\n" in alloy("hi", model=answering).stderr


def test_a_retry_is_shown(alloy, model):
    done = alloy("hi", model=model([Exception(503)], ["hello"]))

    assert done.stdout == "hello\n"
    assert "[overloaded, HTTP 503, test]; asking openai:test-model in " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "asked"),
    [
        (["two", "words"], "", "two words"),
        ([], "piped\n", "piped"),
        (["-"], "piped\n", "piped"),
        (["Summarise this."], "a text\n", "a text\n\nSummarise this."),
    ],
)
def test_the_question_is_what_is_piped_and_then_what_is_typed(alloy, model, arguments, stdin, asked):
    answering = model(["ok"])

    assert alloy(*arguments, model=answering, stdin=stdin).exit_code == 0

    assert [message["content"] for message in answering.requests[0]["messages"]] == [asked]


def test_options_reach_the_run(alloy, model):
    answering = model(["ok"])

    alloy("--system", "Be brief.", "hi", model=answering)

    assert answering.requests[0]["messages"][0]["content"] == "Be brief."


def test_a_tool_of_ones_own_is_loaded_from_the_current_folder_and_its_prints_stay_out_of_the_answer(
    alloy, model, tmp_path
):
    (tmp_path / "mytools.py").write_text(OWN_TOOL)
    answering = model([{"weather": {"city": "Oslo"}}], ["Sunny."])

    done = alloy("--tools", "read,mytools:weather", "coat?", model=answering)

    assert done.stdout == "Sunny.\n"
    assert "looking out of the window" in done.stderr
    assert "sunny in Oslo" in str(answering.requests[1]["messages"])
    assert [tool["function"]["name"] for tool in answering.requests[0]["tools"]] == ["read", "weather"]


def test_json_is_an_envelope_a_line_and_nothing_else(alloy, model):
    done = alloy("--json", "--tools=read", "hi", model=model([{"read": {"path": "x"}}], ["C1 \x85 and DEL \x7f"]))

    told = envelopes(done.stdout)
    assert [told[0]["event"], told[-1]["event"]] == ["run_start", "response"]
    assert told[-1]["payload"]["text"] == "C1 \x85 and DEL \x7f"
    assert "\x7f" not in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--tools", "raed", "hi"],
            "takes bash, edit, find, grep, list, read, write, or your own as module:attribute, not str 'raed'",
        ),
        (["--tools", "nowhere:tool", "hi"], "tool 'nowhere:tool' can't be loaded: ModuleNotFoundError"),
        (["--tools", "mytools:missing", "hi"], "AttributeError"),
        (["--tools", "mytools:plain", "hi"], "put @alloy.tool on 'plain' in 'mytools'"),
        (["--provider", "opnai:gpt", "hi"], "did you mean 'openai'"),
        (["--provider", "anthropic:claude", "hi"], "set ANTHROPIC_API_KEY"),
        (["--timeout", "0", "hi"], "'timeout' takes a number of seconds above 0"),
        (["-"], "nothing to ask"),
        (["--json"], "nothing to ask"),
    ],
)
def test_what_can_not_be_is_one_line_and_code_2(alloy, model, tmp_path, arguments, said):
    (tmp_path / "mytools.py").write_text(OWN_TOOL)

    done = alloy(*arguments, model=model(), ANTHROPIC_API_KEY="")

    assert done.exit_code == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("alloy: ")
    assert said in line


def test_a_failed_run_says_the_kind_and_what_to_do_in_one_line_and_is_code_1(alloy, model):
    done = alloy("hi", model=model([Exception(401)]))

    assert done.exit_code == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("alloy: openai:test-model: status 401 was asked for [auth, HTTP 401")
    assert line.endswith("check the provider's API key")


def test_a_run_that_takes_too_long_is_code_1(alloy, model):
    done = alloy("--timeout", "0.1", "hi", model=model([...]))

    assert done.exit_code == 1
    assert "--timeout allows more" in done.stderr


def test_too_many_turns_are_code_3(alloy, model):
    done = alloy("--max-turns", "1", "--tools=read", "hi", model=model([{"read": {"path": "x"}}]))

    assert done.exit_code == 3
    assert done.stderr.splitlines()[-1] == "alloy: stopped after 1 turns; --max-turns allows more"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_cancels_the_run_and_its_request(started, model, number, code):
    answering = model(["Once upon", ...])
    with started("--json", "a story", model=answering) as process:
        while b"text_delta" not in (line := process.stdout.readline()):
            assert line
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=20)

    assert process.returncode == code
    assert stderr == b"alloy: cancelled\n"
    assert envelopes(stdout)[-1]["payload"]["status"] == "cancelled"
    assert answering.abandoned.wait(20)


def test_a_second_signal_does_not_wait_for_the_cleaning_up(started, model, tmp_path):
    (tmp_path / "mytools.py").write_text(STUBBORN_TOOL)
    with started("--tools=mytools:stubborn", "go", model=model([{"stubborn": {}}])) as process:
        while b"holding" not in (line := process.stderr.readline()):
            assert line
        process.send_signal(signal.SIGINT)
        while b"cleaning" not in (line := process.stderr.readline()):
            assert line
        process.send_signal(signal.SIGINT)

        assert process.wait(20) == -signal.SIGINT


def test_an_ignored_signal_stays_ignored(started, model):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with started("--json", "a story", model=model(["Once", ...])) as process:
            while b"text_delta" not in (line := process.stdout.readline()):
                assert line
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_reader_that_goes_away_ends_the_run_quietly(started, model):
    with started("a story", model=model(["word\n"] * 100_000)) as process:
        assert process.stdout.readline() == b"word\n"
        process.stdout.close()
        stderr = process.stderr.read()
        code = process.wait(20)

    assert code == 141
    assert stderr == b""


def test_output_that_can_not_be_written_is_an_error(started, model):
    with Path("/dev/full").open("wb") as full, started("hi", model=model(["hello"]), stdout=full) as process:
        _, stderr = process.communicate(timeout=20)

    assert process.returncode == 1
    assert b"No space left on device" in stderr


def test_somebody_who_waits_for_input_says_so(started, model):
    with started("hi", model=model(["hello"]), stdin=subprocess.PIPE) as process:
        assert b"reading standard input to its end" in process.stderr.readline()
        stdout, _ = process.communicate(timeout=20)

    assert stdout == b"hello\n"


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_next_to_nothing(option):
    program = f"import sys\ntry:\n    from alloy.__main__ import main\n    sys.argv = ['alloy', '{option}']\n    main()\nfinally:\n    print(*sys.modules, file=sys.stderr)"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)

    assert not {"httpx", "pydantic", "pydantic_core", "anyio", "asyncio", "rich.console"} & set(done.stderr.split())
    assert ("Exit codes:" if option == "--help" else "alloy 0") in done.stdout


def test_without_the_extra_it_says_how_to_install_it(monkeypatch):
    main = importlib.import_module("alloy.__main__")
    monkeypatch.setitem(sys.modules, "rich", None)

    with pytest.raises(SystemExit, match=r"install it with: pip install 'alloy-harness\[cli\]'"):
        main.main()


@pytest.mark.embedded
def test_the_embedded_model_answers_without_anything_being_set(alloy):
    done = alloy("What is the capital of France?", ALLOY_PROVIDER="")

    assert "Paris" in done.stdout
    assert done.exit_code == 0
