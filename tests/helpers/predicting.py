"""Runs of `mrcnn predict`, also interrupted ones, and what they write."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mrcnn import predict as command
from mrcnn.inference.prediction_files import Lines

MEASURED = """
import resource, sys
from mrcnn import predict
code = predict.main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""


def words_of(weights: Path, out: Path, *words: object) -> list[str]:
    flags = ["--weights", weights, "--out", out, "--score-threshold", 0, "--device", "cpu"]
    return [str(word) for word in [*words, *flags]]


def predict(weights: Path, out: Path, *words: object) -> int:
    """Run the command in this process, without a score threshold."""
    return command.main(words_of(weights, out, *words))


def peak_memory(weights: Path, out: Path, *words: object) -> int:
    """Run the command in a new process, and return the peak of its memory in bytes."""
    program = [sys.executable, "-c", MEASURED, *words_of(weights, out, *words)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split("peak ")[1]) * 1024


def read(out: Path) -> dict:
    return json.loads((out / "predictions.json").read_text())


@contextmanager
def interrupted_after(count: int) -> Iterator[None]:
    """Raise KeyboardInterrupt in the middle of the line that follows `count` lines."""
    write, left = Lines.write, iter(range(count))

    def write_some(lines: Lines, record: dict) -> None:
        if next(left, None) is None:
            lines.file.write(b'{"image": {"file_na')
            raise KeyboardInterrupt
        write(lines, record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lines, "write", write_some)
        yield
