"""What a restricted bash refuses, what it lets through, and what it can't see."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alloy.tools import bash
from alloy.tools.restrict import refused
from alloy.tools.shell import read_script

ENV = {"HOME": "/root", "PWD": "/nowhere", "EMPTY": "", "SLASH": "/", "ETC": "/etc"}

LEAVES = [
    "cat /etc/passwd",
    "cat < /etc/passwd",
    "cat </etc/passwd",
    "echo x > /etc/x",
    "echo x >/etc/x",
    "echo x >>/etc/x",
    "echo x 2>/etc/x",
    "echo x &> /etc/x",
    "ls /",
    "ls //",
    "ls /.",
    "ls /etc/../etc",
    "ls /*",
    "cat /e*/passwd",
    "cat /et[c]/passwd",
    "cat ../secret.txt",
    "cat src/../../secret.txt",
    "cd ..",
    "cd",
    "cd; ls",
    "true && cd",
    "cd ~",
    "cd -P /tmp",
    "pushd /tmp",
    "cat ~/.ssh/id_rsa",
    "cat ~root/.bashrc",
    "cat $HOME/.bashrc",
    'cat "$HOME/.bashrc"',
    "cat ${HOME}/.bashrc",
    "cat ${HOME:-x}/.bashrc",
    "cat ${MISSING:-/etc/passwd}",
    "cat ${MISSING-/etc}/passwd",
    "cat ${SLASH}etc/passwd",
    "cat $ETC/passwd",
    "X=/etc/passwd; cat $X",
    "export X=/etc",
    "cat --file=/etc/passwd",
    "gcc -I/etc/include x.c",
    "tar -C/etc -cf x.tar .",
    "git --git-dir=../other/.git log",
    "cat {/etc/passwd,x}",
    "scp host:/etc/passwd .",
    "cat '/etc/passwd'",
    'cat "/etc/passwd"',
    "cat /e't'c/pass\"wd\"",
    "cat \\/etc/passwd",
    "cat /et\\c/passwd",
    "cat /etc/pass\\\nwd",
    "cat $'/etc/passwd'",
    "cat $'\\x2fetc/passwd'",
    "cat $'\\057etc/passwd'",
    "cat $'\\u002fetc/passwd'",
    "echo $(cat /etc/passwd)",
    'echo "$(cat /etc/passwd)"',
    "echo `cat /etc/passwd`",
    'echo "`cat /etc/passwd`"',
    "echo $(echo $(cat /etc/passwd))",
    "echo $(echo ')'; cat /etc/passwd)",
    "cat <(cat /etc/passwd)",
    "(cat /etc/passwd)",
    "{ cat /etc/passwd; }",
    "if true; then cat /etc/passwd; fi",
    "for f in /etc/*; do cat $f; done",
    "f() { cat /etc/passwd; }; f",
    "true | cat /etc/passwd",
    "true & cat /etc/passwd",
    "true\ncat /etc/passwd",
    "bash -c 'cat /etc/passwd'",
    "bash -c 'bash -c \"cat /etc/passwd\"'",
    "sh -c 'cd / && ls'",
    "env bash -c 'cat /etc/passwd'",
    "eval cat /etc/passwd",
    "eval 'cat /etc/passwd'",
    "xargs sh -c 'cat /etc/passwd'",
    "trap 'cat /etc/passwd' EXIT",
    "bash <<EOF\ncat /etc/passwd\nEOF",
    "cat <<EOF\n$(cat /etc/passwd)\nEOF",
    "cat <<EOF\n`cat /etc/passwd`\nEOF",
    "cat <<'A' <<B\nx\nA\ny\nB\ncat /etc/passwd",
    "cat <<< /etc/passwd",
    "echo a#; cat /etc/passwd",
    "echo '#'; cat /etc/passwd",
    "echo \\#; cat /etc/passwd",
    "# comment\ncat /etc/passwd",
    "echo $'it\\'s'; cat /etc/passwd",
    "cat link/passwd",
    "cat link",
    "cat src/../link/passwd",
    "cat /proc/self/environ",
    "cat /proc/$PPID/environ",
    "cat /dev/sda",
    "../run.sh",
    "/tmp/run.sh",
    "/etc/../bin/ls ..",
    "/usr/bin/../../etc/x",
    "find / -name x",
    "find . -newer /etc/passwd",
    "ln -s / x",
    "ln -s ../.. x",
    "git -C /etc status",
    "PATH=/etc:$PATH x",
    "curl file:///etc/passwd",
]
RIGHTS = [
    "sudo ls",
    "/usr/bin/sudo ls",
    "su -c ls",
    "doas ls",
    "su\\do ls",
    "'sudo' ls",
    "su''do ls",
    "X=1 sudo ls",
    "env X=1 sudo ls",
    "timeout 5 sudo ls",
    "nice sudo ls",
    "command sudo ls",
    "exec sudo ls",
    "ls | xargs sudo rm",
    "find . -exec sudo ls {} \\;",
    "true && sudo ls",
    "! sudo ls",
    "while sudo ls; do true; done",
    "if sudo ls; then true; fi",
    "echo $(sudo ls)",
    "bash -c 'sudo ls'",
    "bash <<< 'sudo ls'",
    "chroot . ls",
    "mount x y",
    "mkfs.ext4 x",
    "reboot",
    "setsid sleep 1000",
    "crontab -l",
    "pkill python",
    "killall python",
]
UNREADABLE = ["echo 'x", 'echo "x', "echo `x", "echo $(x", "echo ${x", "echo $'x", 'echo "$(x"']
FINE = [
    "ls -la",
    "ls; pwd",
    "cat src/main.py",
    "cat ./src/../src/main.py",
    "cd src && ls ..src 2>/dev/null; true",
    "grep -rn '/api/v1' .",
    "sed -n '/foo/,/bar/p' src/main.py",
    "sed -e 's/a/b/g' src/main.py",
    "awk '/import/ {print $1}' src/main.py",
    "awk '$1 ~ /x/' src/main.py",
    "grep '~' src/main.py",
    'echo "~"',
    "echo ~~ a~b",
    "git log HEAD~2..main",
    "git diff main...feature",
    "git show HEAD:src/main.py",
    "git commit -m 'use sudo with care; see /etc/passwd'",
    'git commit -m "it\'s done"',
    "grep sudo src/main.py",
    "echo mount su at",
    "man sudo",
    "curl https://example.com/etc/x?a=b",
    "python -m http.server",
    "python3 -c 'print(1 / 2)'",
    "/usr/bin/env python3 --version",
    "/bin/ls",
    "ls > /dev/null 2>&1",
    "ls 2>/dev/null",
    "cat /dev/null",
    "echo $((1 + 2)) $(( (1 + 2) * 3 ))",
    "echo $(ls | wc -l) `pwd`",
    'for f in *.py; do echo "$f ${f%.py}"; done',
    "X=1; echo ${X:-2} ${#X} $X $? $$ $! $# $@",
    "case x in x) echo yes;; esac",
    "f() { ls; }; f",
    "[[ -f src/main.py && 1 -lt 2 ]] && echo yes",
    "cat > new.txt <<'EOF'\nit's \"here\": /etc/passwd, ../.. and $(sudo ls)\nEOF",
    "cat > new.txt <<-EOF\n\tone\n\tEOF\nls",
    "cat <<A <<B\none\nA\ntwo\nB\nls",
    "# don't say sudo\nls",
    "ls # it's fine, /etc/passwd",
    "echo a\\ b \\' \\\" \\\\",
    "echo 'a'\"'\"'b'",
    "make -j2 CFLAGS=-O2",
    "tr a-z A-Z < src/main.py",
    "cut -d/ -f1 src/main.py",
    "pytest -k 'not slow' --tb=short",
    "ls $EMPTY",
    "find . -name '*.py' -exec grep -n import {} +",
    "kill %1",
    "wait",
    "ls link-inside",
]
UNSEEN = [
    "python3 -c \"print(open('/etc/hostname').read())\"",
    "X=$(printf '\\057etc'); cat $X/hostname",
    "cat $(printf '/%s' etc)/hostname",
]


@pytest.fixture
def room(user):
    (user.root / "link").symlink_to("/etc")
    (user.root / "link-inside").symlink_to("src")
    return user


def why(user, command):
    return refused(command, (user.root, *user.allowed), {**ENV, "PWD": str(user.root)})


@pytest.mark.parametrize("command", LEAVES)
def test_a_command_that_plainly_leaves_the_folder_is_refused(room, command):
    assert why(room, command), command


@pytest.mark.parametrize("command", RIGHTS)
def test_a_command_that_asks_for_other_rights_is_refused(room, command):
    assert why(room, command), command


@pytest.mark.parametrize("command", UNREADABLE)
def test_a_command_that_can_not_be_read_is_refused(room, command):
    assert "can't be read" in why(room, command)


@pytest.mark.parametrize("command", FINE)
def test_a_command_that_stays_inside_is_let_through(room, command):
    assert why(room, command) is None


@pytest.mark.parametrize("command", UNSEEN)
def test_what_a_program_does_is_not_seen_which_is_why_this_is_no_sandbox(room, command):
    """If one of these gets refused some day, take it out; if the documentation stops saying so, put it back."""
    assert why(room, command) is None


def test_allowed_paths_can_be_named(room):
    room.allowed = (room.root.parent / "room-two",)
    assert why(room, f"cat {room.root.parent}/room-two/secret.txt ../room-two/secret.txt") is None
    assert why(room, f"cat {room.root.parent}/secret.txt")


def test_the_reason_names_the_word(room):
    assert why(room, "cat /etc/passwd") == "'/etc/passwd' leads out of the working directory"
    assert why(room, "cat ~/x") == "'~/x' is in a home folder"
    assert why(room, "sudo ls") == "'sudo' asks for another user's rights"
    assert len(why(room, "cat /etc/" + "x" * 5000)) < 200


@pytest.mark.anyio
async def test_a_refused_command_is_not_run_at_all(room):
    said = await room.refusal(bash, command="touch made; cat /etc/passwd")
    assert said.startswith("refused: '/etc/passwd' leads out of the working directory. Only what is inside")
    assert not (room.root / "made").exists()


def test_commands_in_commands_are_followed_only_so_far(room):
    assert "too many" in why(room, "echo " + "$(echo " * 50 + ")" * 50)
    assert why(room, "echo " + "$(" * 5000)


@pytest.mark.parametrize("command", LEAVES + RIGHTS + FINE)
def test_reading_agrees_with_itself_about_words(command):
    script = read_script(command, ENV)
    assert all(isinstance(word, str) for words in script.commands for word in words)


@given(st.text(st.sampled_from("ab /.~$`'\"\\(){}<>|&;#\n=:,x-E"), max_size=40))
def test_whatever_is_written_is_read_or_refused(tmp_path_factory, command):
    root = tmp_path_factory.getbasetemp()
    reason = refused(command, (root,), ENV)
    assert reason is None or isinstance(reason, str)
