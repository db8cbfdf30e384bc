"""The command on a terminal: what a person sees, and a conversation."""

from __future__ import annotations

PROMPT = "> "
PASTE_ON, PASTE_OFF = "\x1b[?2004h", "\x1b[?2004l"  # asks the terminal to mark what is pasted


def test_a_terminal_gets_colours_and_a_spinner(terminal, model):
    shown = terminal("hi", model=model([("think", "Hm."), "Hello."]))

    assert shown.process.wait(20) == 0
    text = shown.wait_for("1 turn")
    assert "openai:test-model" in text  # the spinner says who is started, or waited for
    assert "\x1b[2mHm." in text
    assert "Hello.\r\n" in text


def test_no_color_is_respected(terminal, model):
    shown = terminal(
        "--tools=read", "hi", model=model([("think", "Hm."), {"read": {"path": "x"}}], ["Hi."]), NO_COLOR="1"
    )

    assert shown.process.wait(20) == 0
    text = shown.wait_for("1 tool call")
    assert "\x1b[2m" not in text
    assert "\x1b[3" not in text


def test_a_model_or_a_tool_can_not_drive_the_terminal(terminal, model):
    tricks = "\x1b]0;owned\x07 \x9b2J \x08 [bold]plain[/bold]\rforged"
    script = [("think", tricks), tricks, {"read\x1b[2J": {"path": "\x1b[2J"}}], ["done"]

    shown = terminal("--tools=read", "hi", model=model(*script))

    assert shown.process.wait(20) == 0
    text = shown.wait_for("1 tool call")
    for trick in ("\x1b]0;", "\x07", "\x9b", "\x08", "\x1b[2J", "\rforged"):
        assert trick not in text
    assert r"\x1b]0;owned\x07 \x9b2J \x08 [bold]plain[/bold]forged" in text


def test_a_conversation_remembers_what_was_said(terminal, model):
    answering = model(["Hello Ada."], ["You are Ada."])
    shown = terminal(model=answering)

    shown.wait_for(PROMPT)
    shown.type("I am Ada\r")
    shown.wait_for("Hello Ada.")
    shown.wait_for(PROMPT)
    shown.type("Who am I?\r")
    shown.wait_for("You are Ada.")
    shown.wait_for(PROMPT)
    shown.type("\x04")

    assert shown.end()[0] == 0
    assert [message["content"] for message in answering.requests[1]["messages"]] == [
        "I am Ada",
        "Hello Ada.",
        "Who am I?",
    ]


def test_ctrl_c_cancels_an_answer_and_keeps_the_conversation(terminal, model):
    answering = model(["Once upon a time", ...], ["The end."])
    shown = terminal(model=answering)

    shown.wait_for(PROMPT)
    shown.type("A story\r")
    shown.wait_for("Once upon a time")
    shown.type("\x03")
    shown.wait_for("cancelled")
    shown.wait_for(PROMPT)
    assert answering.abandoned.wait(20)
    shown.type("And?\r")
    shown.wait_for("The end.")
    shown.wait_for(PROMPT)
    shown.type("/exit\r")

    assert shown.end()[0] == 0
    said = [message["content"] for message in answering.requests[1]["messages"]]
    assert said == ["A story", "Once upon a time", "And?"]


def test_ctrl_c_at_the_prompt_leaves_the_terminal_as_it_was(terminal, model):
    shown = terminal(model=model())

    shown.wait_for(PROMPT)
    shown.type("half a quest")
    shown.wait_for("half a quest")
    assert shown.mode != shown.before
    shown.type("\x03")

    code, text = shown.end()
    assert code == 0
    assert PASTE_OFF in text
    assert shown.mode == shown.before


def test_an_error_in_a_conversation_does_not_end_it(terminal, model):
    shown = terminal(model=model([Exception(401)], ["Hello."]))

    shown.wait_for(PROMPT)
    shown.type("Hi\r")
    shown.wait_for("check the provider's API key")
    shown.wait_for(PROMPT)
    shown.type("Hi again\r")
    shown.wait_for("Hello.")


def test_pasted_lines_are_one_question(terminal, model):
    answering = model(["Two lines."])
    shown = terminal(model=answering)

    assert PASTE_ON in shown.wait_for(PROMPT)
    shown.type("\x1b[200~one\ntwo\x1b[201~\r")
    shown.wait_for("Two lines.")

    assert answering.requests[0]["messages"][0]["content"] == "one\ntwo"


def test_a_mistyped_command_is_not_sent(terminal, model):
    answering = model()
    shown = terminal(model=answering)

    shown.wait_for(PROMPT)
    shown.type("/quit\r")
    shown.wait_for("there is no command /quit")
    shown.wait_for(PROMPT)

    assert answering.requests == []


def test_sigterm_ends_a_conversation(terminal, model):
    shown = terminal(model=model())

    shown.wait_for(PROMPT)
    shown.process.terminate()

    assert shown.end()[0] == 143
    assert shown.mode == shown.before


ASK = "[e]dit: "
REQUEST = {"write": {"path": "note.txt", "content": "hi"}}


def test_a_call_that_needs_approval_waits_for_a_yes(terminal, model, tmp_path):
    answering = model([REQUEST], ["Written."])
    shown = terminal("--tools=write", "--ask=write", "-C", str(tmp_path), "hi", model=answering)

    assert '? write(path="note.txt", content="hi"): write needs approval' in shown.wait_for(ASK)
    assert not (tmp_path / "note.txt").exists()
    shown.type("y\r")

    assert shown.process.wait(20) == 0
    shown.wait_for("1 tool call")
    assert (tmp_path / "note.txt").read_text() == "hi"


def test_what_is_typed_instead_of_a_yes_is_a_no_or_other_arguments(terminal, model, tmp_path):
    answering = model([REQUEST], [REQUEST], ["Written."])
    shown = terminal("--tools=write", "--ask=*", "-C", str(tmp_path), "hi", model=answering)

    shown.wait_for(ASK)
    shown.type("what?\r")
    shown.wait_for(ASK)
    shown.type("n\r")
    shown.wait_for("somebody has denied it")
    shown.wait_for(ASK)
    shown.type("e\r")
    shown.wait_for("arguments: ")
    shown.type("[]\r")
    shown.wait_for("a JSON object")
    shown.wait_for(ASK)
    shown.type("e\r")
    shown.wait_for("arguments: ")
    shown.type('{"path": "other.txt", "content": "ho"}\r')

    assert shown.process.wait(20) == 0
    shown.wait_for("2 tool calls")
    assert [path.name for path in tmp_path.iterdir()] == ["other.txt"]


def test_ctrl_c_at_an_approval_cancels_the_answer_and_the_conversation_goes_on(terminal, model, tmp_path):
    answering = model([REQUEST], ["Hello."])
    shown = terminal("--tools=write", "--ask=write", "-C", str(tmp_path), model=answering)

    shown.wait_for(PROMPT)
    shown.type("write\r")
    shown.wait_for(ASK)
    shown.type("\x03")
    shown.wait_for("cancelled")
    shown.wait_for(PROMPT)
    shown.type("Hi\r")
    shown.wait_for("Hello.")

    assert list(tmp_path.iterdir()) == []


def test_where_nobody_is_at_a_terminal_a_call_that_needs_approval_is_denied(alloy, model, tmp_path):
    done = alloy("--tools=write", "--ask=write", "-C", str(tmp_path), "hi", model=model([REQUEST], ["No."]))

    assert done.exit_code == 0
    assert "nobody is at a terminal" in done.stderr
    assert list(tmp_path.iterdir()) == []
