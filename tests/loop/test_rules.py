"""Rules: what they match, and what they don't."""

from __future__ import annotations

import json

import pytest

from alloy.errors import InvalidOptionError, UnknownOptionError
from alloy.loop.approval import Rule, rules_from_json, rules_to_json
from alloy.messages import ToolUseBlock


def matches(rule, tool="bash", *, folder=None, **arguments) -> bool:
    return rule.matches(ToolUseBlock("1", tool, arguments), folder)


# --- Data ------------------------------------------------------------------------------------------------------------


def test_rules_are_written_as_json_and_read_again():
    rules = (
        Rule("allow", tool="read"),
        Rule("ask", tool="bash", command="git push*"),
        Rule("deny", tool="write", path="/etc/**", reason="it's the system's"),
        Rule("ask"),
    )

    document = rules_to_json(rules)

    assert rules_from_json(document) == rules
    assert json.loads(document)[1] == {"action": "ask", "tool": "bash", "command": "git push*"}
    assert json.loads(document)[3] == {"action": "ask"}


def test_a_rule_does_not_change():
    with pytest.raises(AttributeError):
        Rule("allow").action = "deny"


@pytest.mark.parametrize(
    "attributes",
    [
        {"action": "maybe"},
        {"action": "allow", "tool": ""},
        {"action": "allow", "tool": None},
        {"action": "allow", "path": 3},
        {"action": "allow", "command": " "},
        {"action": "allow", "reason": None},
    ],
)
def test_p9_a_wrong_rule_is_refused_when_it_is_made(attributes):
    with pytest.raises(InvalidOptionError, match=r"rule\."):
        Rule(**attributes)


@pytest.mark.parametrize("document", ["", "{", "{}", '"allow"', '["allow"]', '[{"tool": "read"}]', '[{"action": 1}]'])
def test_p9_a_document_that_has_no_rules_is_refused(document):
    with pytest.raises(InvalidOptionError):
        rules_from_json(document)


def test_p9_a_key_that_no_rule_has_is_refused_with_the_nearest():
    with pytest.raises(UnknownOptionError, match="did you mean 'command'"):
        rules_from_json('[{"action": "allow", "comand": "ls"}]')


# --- Tools -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "tool", "expected"),
    [("*", "bash", True), ("mail_*", "mail_send", True), ("mail_*", "send_mail", False), ("bash", "Bash", False)],
)
def test_a_rule_is_about_tools_by_their_name(pattern, tool, expected):
    assert matches(Rule("allow", tool=pattern), tool) is expected


# --- Paths -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A working directory, beside one whose name begins the same, with links out of it and in it."""
    here = tmp_path / "work"
    (here / "src" / "deep").mkdir(parents=True)
    (tmp_path / "work-2").mkdir()
    (here / "out").symlink_to(tmp_path / "work-2")
    (here / "alias").symlink_to(here / "src")
    return here


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("src/**", "src/a.py", True),
        ("src/**", "src/deep/a.py", True),
        ("src/**", "src", True),
        ("src/**", "./src/../src/a.py", True),
        ("src/**", "src/../secret", False),
        ("src/**", "srcs/a.py", False),
        ("src/**", "alias/a.py", True),
        ("alias/**", "src/a.py", True),
        ("src/*", "src/deep/a.py", False),
        ("src/*.py", "src/a.py", True),
        ("**/*.py", "src/deep/a.py", True),
        ("**/*.py", "a.py", True),
        ("**/deep/**", "src/deep/a.py", True),
        ("**", "src/a.py", True),
        ("**", "../work-2/a.py", False),
        ("**", "out/a.py", False),
        ("../work-2/**", "out/a.py", True),
        ("src/a?.py", "src/ab.py", True),
    ],
)
def test_a_rule_is_about_where_a_path_really_leads(folder, pattern, path, expected):
    rule = Rule("allow", path=pattern)

    assert matches(rule, "write", folder=folder, path=path) is expected
    assert matches(rule, "write", folder=folder, path=str(folder / path)) is expected


def test_a_pattern_may_be_absolute(folder):
    rule = Rule("deny", path=f"{folder.parent}/work-2/**")

    assert matches(rule, "write", folder=folder, path="../work-2/x")
    assert matches(rule, "write", folder=folder, path="out/x")
    assert not matches(rule, "write", folder=folder, path="x")


def test_the_name_of_the_working_directory_is_no_pattern(tmp_path):
    folder = tmp_path / "[ab]*"
    folder.mkdir()

    assert matches(Rule("allow", path="x"), "write", folder=folder, path="x")
    assert not matches(Rule("allow", path="x"), "write", folder=folder, path=f"{tmp_path}/a/x")


def test_a_call_without_a_path_is_not_allowed_by_one_but_may_be_denied_by_it(folder):
    assert not matches(Rule("allow", path="**"), "bash", folder=folder, command="rm -r .")
    assert matches(Rule("deny", path="**"), "list", folder=folder)
    assert matches(Rule("ask", path="**"), "read", folder=folder, path=["a", "b"])
    assert not matches(Rule("allow", path="**"), "read", folder=folder, path="a\0b")


# --- Commands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "git status",
        "git status --short",
        "  git status  ",
        "git status; git status",
        "git status && git status -s || git status",
        "git status\ngit status\n",
        "git status | git status &",
        "git status 'a;b' \"c|d\" e\\;f",
        "git status #comment",
    ],
)
def test_a_rule_allows_a_command_if_it_allows_each_of_its_parts(command):
    assert matches(Rule("allow", command="git status*"), command=command) is ("#" not in command)


@pytest.mark.parametrize(
    "command",
    [
        "git push",
        "git status; rm -rf /",
        "git status && rm -rf /",
        "git status || rm",
        "git status | sh",
        "git status & rm",
        "git status\nrm",
        "git status $(rm)",
        "git status `rm`",
        'git status "$(rm)"',
        'git status "`rm`"',
        "git status <(rm)",
        "git status > /etc/passwd",
        "git status < x",
        "(git status)",
        "{ git status; }",
        "git status 'unclosed",
        "git status # '\nrm -rf /\n# '",
        "git status ;# '\nrm -rf /\n# '",
        "git status $'\\'; rm -rf / #'",
        "git status \\\n; rm",
        "PATH=/tmp git status",
        "git status a\\\\; rm",
        "git status 'a\\'; rm '",
        'git status "a\\"; git status"; rm',
        "",
        ";",
    ],
)
def test_a_rule_does_not_allow_what_it_may_not_mean(command):
    assert not matches(Rule("allow", command="git status*"), command=command)


def test_a_rule_without_a_wildcard_allows_exactly_that_command():
    rule = Rule("allow", command="make > log.txt && cat log.txt")

    assert matches(rule, command="make > log.txt && cat log.txt")
    assert not matches(rule, command="make > log.txt && cat log.txt; rm log.txt")
    assert not matches(rule, command="make")


def test_a_rule_that_allows_everything_does():
    assert matches(Rule("allow", command="*"), command="(echo `date`) > x")


@pytest.mark.parametrize("action", ["ask", "deny"])
@pytest.mark.parametrize(
    "command",
    [
        "git push",
        "  git push origin",
        "git   push",
        "cd x && git push",
        "cd x;git push",
        "(git push)",
        "echo $(git push)",
        "echo `git push`",
        'echo "$(cd x; git push)"',
        "GIT_DIR=x git push",
        "'git' \"push\"",
        "g\\it push",
        "git push > log",
        "cat <<end\n$(git push)\nend",
        "git push; echo 'unclosed",
    ],
)
def test_a_rule_that_asks_or_denies_matches_what_it_may_mean(action, command):
    assert matches(Rule(action, command="git push*"), command=command)


def test_a_rule_that_denies_leaves_other_commands_alone():
    assert not matches(Rule("deny", command="git push*"), command="git status; echo 'git pushes'")


@pytest.mark.parametrize("command", [None, 3, ["git push"]])
def test_a_rule_about_commands_is_not_about_calls_that_have_none(command):
    assert not matches(Rule("deny", command="*"), command=command)


def test_a_path_that_ends_in_a_loop_of_links_is_no_crash(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")

    assert matches(Rule("deny", path="**"), "read", folder=tmp_path, path="a/x")
