"""Starting under other memory settings, in real processes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from fluxseg.launch import (
    COMPUTING,
    SETTINGS,
    asks_for_help,
    is_computing,
    plain_environment,
    tuned_environment,
)

SCRIPT = """
import json, os, subprocess, sys, threading
from fluxseg.launch import tune_allocator
began_with = dict(os.environ)
tune_allocator()
def own(environment):
    names = ("GLIBC_TUNABLES", "FLUXSEG_ALLOCATOR", "OTHER")
    return {name: environment[name] for name in names if name in environment}
code = "import os, json; print(json.dumps(dict(os.environ)))"
child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
print(json.dumps({
    "pid": os.getpid(), "arguments": sys.argv[1:], "warnings": sys.warnoptions,
    "stdin": sys.stdin.read(), "now": own(os.environ), "child": own(json.loads(child.stdout)),
    "began_with": own(began_with),
}))
sys.exit(7)
"""
# Every start of an interpreter leaves a line.
STARTS = """
import os, pathlib
with pathlib.Path(os.environ["STARTS"]).open("a") as file:
    file.write(os.environ.get("GLIBC_TUNABLES", "plain") + "\\n")
"""

on_glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux")
    or "CS_GNU_LIBC_VERSION" not in os.confstr_names
    or not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"),
    reason="the settings are those of glibc",
)


def environment(**changes):
    """The environment of this process without settings of the allocator."""
    left_out = ("GLIBC_TUNABLES", "FLUXSEG_ALLOCATOR", "LD_PRELOAD")
    plain = {
        name: value
        for name, value in os.environ.items()
        if name not in left_out and not name.startswith("MALLOC_")
    }
    return plain | changes


def test_the_settings_are_added_once_and_taken_out_again():
    before = {"PATH": "/bin", "OTHER": "1"}
    tuned = tuned_environment(before)
    assert tuned is not None
    assert tuned["GLIBC_TUNABLES"] == SETTINGS
    assert {**tuned, **before} == tuned
    assert tuned_environment(tuned) is None
    assert plain_environment(tuned) == before
    assert plain_environment(before) == before


def test_other_tunables_are_kept():
    before = {"GLIBC_TUNABLES": "glibc.pthread.rseq=0"}
    tuned = tuned_environment(before)
    assert tuned["GLIBC_TUNABLES"] == f"glibc.pthread.rseq=0:{SETTINGS}"
    assert plain_environment(tuned) == before


@pytest.mark.parametrize(
    "chosen",
    [
        {"FLUXSEG_ALLOCATOR": "default"},
        {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"},
        {"MALLOC_ARENA_MAX": "2"},
        {"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"},
    ],
)
def test_what_the_user_has_chosen_is_left_alone(chosen):
    assert tuned_environment(chosen) is None
    assert plain_environment(chosen) == chosen


def test_only_verbs_that_compute_are_started_again():
    assert {verb for verb in COMPUTING if is_computing([verb, "x"])} == COMPUTING
    assert not any(is_computing([verb, "x", "--help"]) for verb in COMPUTING)
    assert not is_computing([])
    assert not is_computing(["--help"])
    assert not is_computing(["check", "train"])
    assert asks_for_help(["--workdir", "x", "-h"])
    assert not asks_for_help(["--workdir", "x"])


def run_script(env, *, stdin="", flags=()):
    process = subprocess.Popen(
        [sys.executable, *flags, "-c", SCRIPT, "one", "two words", "ü"],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    output, _ = process.communicate(stdin, timeout=60)
    assert process.returncode == 7
    seen = json.loads(output)
    assert seen["pid"] == process.pid
    return seen


@on_glibc
def test_the_process_stays_what_it_is():
    seen = run_script(environment(OTHER="1"), stdin="text", flags=("-W", "error", "-X", "utf8"))
    assert seen["began_with"] == {
        "GLIBC_TUNABLES": SETTINGS,
        "FLUXSEG_ALLOCATOR": "tuned",
        "OTHER": "1",
    }
    assert seen["arguments"] == ["one", "two words", "ü"]
    assert seen["warnings"] == ["error"]
    assert seen["stdin"] == "text"
    # Neither this process nor those that it starts see the settings any more.
    assert seen["now"] == seen["child"] == {"OTHER": "1"}


@on_glibc
def test_what_was_set_before_is_what_children_see():
    seen = run_script(environment(GLIBC_TUNABLES="glibc.pthread.rseq=0"))
    assert seen["began_with"]["GLIBC_TUNABLES"] == f"glibc.pthread.rseq=0:{SETTINGS}"
    assert seen["now"] == seen["child"] == {"GLIBC_TUNABLES": "glibc.pthread.rseq=0"}


def test_the_switch_turns_it_off():
    seen = run_script(environment(FLUXSEG_ALLOCATOR="default"))
    assert seen["began_with"] == seen["now"] == {"FLUXSEG_ALLOCATOR": "default"}


@on_glibc
@pytest.mark.parametrize(
    ("command", "starts", "code"),
    [
        (("-m", "fluxseg", "--help"), 1, 0),
        (("-m", "fluxseg", "check", "absent"), 1, 2),
        (("-m", "fluxseg", "train", "--help"), 1, 0),
        (("-m", "fluxseg.main", "--help"), 1, 0),
        (("-m", "fluxseg", "predict", "a", "--model", "absent", "--output", "b"), 2, 2),
        (("-m", "fluxseg", "train", "--workdir", "w", "--config.data.source", "absent"), 2, 2),
        (("-m", "fluxseg.main", "--workdir", "w", "--config.data.source", "absent"), 2, 2),
        (("-c", "import fluxseg.main; fluxseg.main.main(['--nonsense'])"), 1, 2),
        (("-c", "import fluxseg.cli.app as a, sys; sys.exit(a.main(['predict']))"), 1, 2),
    ],
)
def test_who_is_started_again(tmp_path, command, starts, code):
    (tmp_path / "sitecustomize.py").write_text(STARTS)
    log = tmp_path / "starts"
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=environment(PYTHONPATH=path, STARTS=str(log)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert log.read_text().splitlines() == ["plain", SETTINGS][:starts]


@on_glibc
def test_signals_reach_it():
    code = (
        "import time; from fluxseg.launch import tune_allocator; tune_allocator(); "
        "print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == -signal.SIGTERM
    assert time.monotonic() - began < 20
    process.stdout.close()
