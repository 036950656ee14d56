"""`thaitool infer` as a part of a pipe: paths on stdin, a JSON object a line, readers that leave, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from thaitool.cli.infer import _words
from thaitool.errors import InputError

#: `thaitool infer` with a stage that answers at once: what is tested is the pipe around it.
FAKE_INFER = """
import signal, sys, types
from dataclasses import dataclass
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs tests in the background ignores it
import thaitool.stages

@dataclass
class Answer:
    path: str
    text: str | None
    error: str | None = None
    audio_s: float = 2.0
    seconds: float = 0.5

def run(config, progress, told=None):
    with progress("infer", len(config.audio)) as advance:
        for path in config.audio:
            advance()
            bad = path.name.startswith("bad")
            yield Answer(str(path), None if bad else "สวัสดี", "empty: 0 bytes" if bad else None)

thaitool.stages.infer = sys.modules["thaitool.stages.infer"] = types.SimpleNamespace(run=run)
from thaitool.cli.main import main
sys.argv = ["thaitool", "infer", "--model", "m", *sys.argv[1:]]
main()
"""


def fake_infer(*args: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", FAKE_INFER, *args]
    pipe = subprocess.PIPE
    # Where the locale is C, Python lets odd file names through by itself.
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=strict)


def test_infer_reads_paths_from_stdin_and_writes_a_json_object_a_line() -> None:
    names = ["a.wav", "ไทย ๑.wav", "odd\u2028name.wav", "\udcff.wav"]
    lines = b"\n".join(os.fsencode(n) for n in names) + b"\n\n"
    for args in ((), ("-",)):
        out, err = fake_infer(*args).communicate(lines, timeout=60)
        answers = [json.loads(line) for line in out.split(b"\n") if line]
        told = {"text": "สวัสดี", "audio_s": 2.0, "seconds": 0.5}
        assert answers == [{"path": name, **told} for name in names]
        assert "สวัสดี" in out.decode()  # for people, too
        assert err == b""


def test_infer_answers_what_it_can_and_exits_3_for_the_rest() -> None:
    process = fake_infer("a.wav", "bad.wav", "c.wav")
    out, err = process.communicate(timeout=60)
    assert [sorted(json.loads(line)) for line in out.splitlines()] == [
        ["audio_s", "path", "seconds", "text"],
        ["audio_s", "error", "path", "seconds"],
        ["audio_s", "path", "seconds", "text"],
    ]
    assert err == b"thaitool: 1 of 3 recordings could not be used; their lines say why.\n"
    assert process.returncode == 3


def test_sound_of_any_kind_on_stdin_is_one_recording() -> None:
    aiff = b"FORM\0\0\0\x10AIFFCOMM\0\n\0\n"
    out, err = fake_infer().communicate(aiff, timeout=60)
    assert [json.loads(line)["path"] for line in out.splitlines()] == ["-"]
    assert err == b""


def test_hotwords_are_words_or_a_file_that_is_there(tmp_path: Path) -> None:
    words = ["สมชาย"] * 99  # more than a file name can have
    assert _words(",".join(words)) == words
    (tmp_path / "list").write_text("ก ข\n\nค\n", "utf-8")
    assert _words(str(tmp_path / "list")) == ["ก ข", "ค"]
    with pytest.raises(InputError, match=r"--hotwords words\.txt cannot be read"):
        _words("words.txt")


def test_infer_without_recordings_says_so() -> None:
    process = fake_infer()
    out, err = process.communicate(b"\n", timeout=60)
    assert (process.returncode, out) == (2, b"")
    assert b"'audio' must be given" in err


def test_a_reader_that_leaves_ends_the_program_quietly() -> None:
    """`thaitool infer ... | head -1`"""
    process = fake_infer()
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(b"a.wav\n" * 50_000)
    process.stdin.close()
    assert json.loads(process.stdout.readline())["path"] == "a.wav"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 141


def handles_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs /proc to see when it is ready"
)
@pytest.mark.parametrize(
    ("number", "code", "phrase"),
    [
        (signal.SIGINT, 130, b"thaitool: Stopped by Ctrl-C."),
        (signal.SIGTERM, 143, b"thaitool: Stopped by SIGTERM."),
    ],
)
def test_signals_end_the_program_with_a_sentence(number: int, code: int, phrase: bytes) -> None:
    process = fake_infer()  # waits for paths on stdin
    deadline = time.monotonic() + 30
    while not handles_sigterm(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, b"")
    assert err.startswith(phrase)
    assert b"run the same command again" in err
    assert b"Traceback" not in err
