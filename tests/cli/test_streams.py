"""Output: it never ends a command, and shows control characters as escapes."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mrcnn.cli import app
from mrcnn.cli.flags import run
from mrcnn.cli.progress import ProgressLine
from mrcnn.cli.streams import PrintableStream
from mrcnn.config import MODELS, ModelConfig
from mrcnn.data.coco.read import read_coco
from mrcnn.errors import FileError, UserError, class_label, printable
from mrcnn.evaluation.truth import GroundTruth

ESCAPES = {
    "plain text, ä € 猫 🐈": "plain text, ä € 猫 🐈",
    "a\xa0b\u3000c": "a\xa0b\u3000c",  # spaces
    "\x1b[2J\x07": "\\x1b[2J\\x07",
    "a\rb\x7f\x9b": "a\\rb\\x7f\\x9b",
    "\u202etxt.exe": "\\u202etxt.exe",  # written from right to left
    "\u200b\ufeff\u200d": "\\u200b\\ufeff\\u200d",
    "\u2028": "\\u2028",  # a line separator
    "\ud800 \udcff": "\\ud800 \\udcff",
}


@pytest.mark.parametrize("text", ESCAPES)
def test_printable(text):
    assert printable(text) == ESCAPES[text]
    assert printable(printable(text)) == printable(text)


def test_printed_lines_and_errors(capsys):
    def main(argv):
        print("a\x1bb\tc\nd\re")
        print("\u202e", file=sys.stderr)
        raise UserError("x\x07")

    assert run(main, []) == 2
    output = capsys.readouterr()
    assert output.out == "a\\x1bb\tc\nd\\re\n"
    assert output.err == "\\u202e\nmrcnn: x\\x07\n"
    assert not isinstance(sys.stdout, PrintableStream)


def test_the_path_in_an_error_stays_on_its_line():
    error = FileError(Path("a\n[1/1] b.png"), "is empty", "remove it")
    assert str(error) == "a\\n[1/1] b.png: is empty; remove it"


def test_class_names_stay_on_their_line(tmp_path):
    name, label = "dog\n\x1b[2J\ud800", "dog\\n\\x1b[2J\\ud800"
    assert ModelConfig(class_names=(name,)).class_names == (label,)
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 4, "height": 4}],
        "categories": [{"id": 1, "name": name}],
        "annotations": [],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read_coco(tmp_path / "a.json", None).class_names == (label,)
    assert read_coco(tmp_path / "a.json", None, (label,)).class_names == (label,)
    assert GroundTruth.from_records(content).categories[0]["name"] == label
    persian = "\u0645\u06cc\u200c\u062e"  # the joiner belongs to the word
    assert class_label(persian) == persian


class Broken(io.StringIO):
    """A stream that fails from its second text on."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.calls = number, 0

    def write(self, text: str) -> int:
        self.calls += 1
        if self.calls > 1:
            raise OSError(self.number, os.strerror(self.number))
        return super().write(text)


@pytest.mark.parametrize(
    ("number", "code", "outcome", "message"),
    [
        (errno.EPIPE, 141, 0, ""),
        (errno.EPIPE, 3, 3, ""),
        (errno.ENOSPC, 2, 0, "mrcnn: some output could not be printed (No space left on device)\n"),
    ],
)
def test_a_stream_that_fails_does_not_end_the_work(
    number, code, outcome, message, monkeypatch, capsys
):
    done = []

    def main(argv):
        for text in "abc":
            print(text, end="")
        done.append(True)
        return outcome

    monkeypatch.setattr(sys, "stdout", Broken(number))
    assert run(main, []) == code
    assert done == [True]
    assert sys.stdout.getvalue() == "a"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("name", ["stdout", "stderr", "stdin"])
def test_a_stream_that_is_closed(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, name, None)

    def main(argv):
        print("out")
        print("err", file=sys.stderr)
        assert sys.stdin.read is not None
        return 0

    assert run(main, []) == 0


SCRIPT = """
import os, sys
from mrcnn.cli.flags import run
def main(argv):
    print("gr\\xfcn \\u20ac\\udcff\\x1b", flush=True)
    first = os.open("/dev/zero", os.O_RDONLY)
    sys.stderr.write(str(first))
sys.exit(run(main))
"""


@pytest.mark.parametrize(
    ("redirection", "environment", "out", "code"),
    [
        ("", {"PYTHONIOENCODING": "cp1252"}, "grün €\\udcff\\x1b\n".encode("cp1252"), 0),
        ("", {"PYTHONIOENCODING": "ascii"}, b"gr\\xfcn \\u20ac\\udcff\\x1b\n", 0),
        ("", {"PYTHONIOENCODING": "utf-8:strict"}, "grün €\\udcff\\x1b\n".encode(), 0),
        ("", {"PYTHONIOENCODING": "", "LC_ALL": "C", "PYTHONUTF8": "0"}, None, 0),
        (">&-", {}, b"", 0),
        ("<&-", {}, "grün €\\udcff\\x1b\n".encode(), 0),
        pytest.param(
            "> /dev/full",
            {},
            b"",
            2,
            marks=pytest.mark.skipif(
                not Path("/dev/full").is_char_device(), reason="needs the device /dev/full"
            ),
        ),
        (">&- 2>&- <&-", {}, b"", 0),
    ],
)
def test_streams_of_a_process(redirection, environment, out, code):
    done = subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {redirection}', sys.executable, SCRIPT],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"} | environment,
    )
    assert done.returncode == code, done.stderr
    assert out is None or done.stdout == out
    assert b"Traceback" not in done.stderr
    if "2>&-" not in redirection:
        assert done.stderr[:1] >= b"3"  # the numbers of the streams are not given away


def test_progress_in_a_terminal(monkeypatch):
    """The bar moves the cursor; texts and messages do not."""
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", PrintableStream(terminal))
    monkeypatch.setenv("TERM", "xterm")
    with ProgressLine() as line:
        print("name\x1b[2J [/b]")
        line.update(1, 1, "step\x1b[8m [/x]")
    text = terminal.getvalue()
    assert "name\\x1b[2J [/b]" in text
    assert "step\\x1b[8m [/x]" in text
    assert "\x1b[2J" not in text
    assert "\x1b[2K" in text  # of the bar


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENAMETOOLONG, "File name too long", "a\nb"), "a\\nb: cannot be read or wr"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "a: cannot be read or written ("),
        (OSError(errno.ENOSPC, "No space left on device"), "mrcnn: cannot be read or written (No"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
    ],
)
def test_errors_of_the_system(error, message, capsys):
    def main(argv):
        raise error

    assert run(main, []) == 2
    assert message in capsys.readouterr().err


def test_other_errors_of_the_system_keep_their_traceback():
    def main(argv):
        raise OSError(errno.EBADF, "Bad file descriptor")

    with pytest.raises(OSError, match="Bad file"):
        run(main, [])


def test_version_as_a_command(capsys):
    assert app.main(["version"]) == 0
    assert capsys.readouterr().out.startswith("mrcnn ")


def test_models_have_texts_for_names():
    with pytest.raises(ValueError, match="class_names must be texts"):
        ModelConfig.from_dict({**MODELS["small"].to_dict(), "class_names": [1]})
    with pytest.raises(ValueError, match=r"class_names must be of type .*, got 'cat'"):
        ModelConfig(class_names="cat")
