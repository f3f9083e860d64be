"""Training runs that take seconds: a tiny model on a few small generated images."""

import csv
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from mrcnn import train
from mrcnn.cli import flags
from mrcnn.data.synthetic import write_shapes

# 9 images in batches of 2: epochs end in the middle of batches, and after steps 9 and 18.
IMAGES = 9
FLAGS = (
    "--device cpu --image-size 64 --batch-size 2 --steps 20 --print-every 3 --eval-every 8 "
    "--save-every 5 --ema 0.9 --warmup 4 --set fpn_levels=2 anchor_sizes=[16,32,64] fpn_channels=8 "
    "box_head_width=16 mask_head_width=8 post_nms_top_k=50 training_post_nms_top_k=50"
).split()


def write_data(folder: Path) -> Path:
    """Write a data set for `FLAGS`."""
    write_shapes(folder, train=IMAGES, val=3, size=64)
    return folder


def arguments(data: Path, out: Path, *flags: str) -> list[str]:
    return ["--data", str(data), "--out", str(out), *FLAGS, *flags]


def start(argv: Sequence[str], **options) -> subprocess.Popen:
    """Start the command in another process."""
    words = [sys.executable, "-m", "mrcnn.train", *argv]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)


def run(data: Path, out: Path, *flags: str) -> int:
    """Run the command in this process."""
    return train.main(arguments(data, out, *flags))


def contents(folder: Path) -> dict[str, object]:
    """Return what must be bit-identical in equal runs: tensors of the last state, and the table."""
    newest = max((folder / "state").glob("*.safetensors"))
    tensors = {
        name: (tensor.dtype, tensor.shape, tensor.numpy().tobytes())
        for name, tensor in load_file(newest).items()
    }
    return {**tensors, "state": newest.name, "results.csv": (folder / "results.csv").read_bytes()}


def rows(folder: Path) -> list[dict[str, str]]:
    """Return the rows of results.csv."""
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def torchrun(argv: Sequence[str], *flags: str) -> subprocess.Popen:
    """Start the command in two processes, with torchrun and its `flags`."""
    agent = "-m torch.distributed.run --standalone --nproc-per-node 2".split()
    words = [sys.executable, *agent, *flags, "-m", "mrcnn.train", *argv]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 120.0) -> None:
    """Wait until a file exists; fail if the process ends before."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.02)


def fork(argv: Sequence[str], output: Path, before: Callable[[], None] = lambda: None) -> int:
    """Run the command in a fork of this process, which need not import anything; return its id.

    The fork calls `before` first, and prints to the file `output`.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        signal.alarm(120)  # a time limit
        torch.set_num_threads(1)  # the threads of this process do not exist in the fork
        sys.stdout = sys.stderr = output.open("w", buffering=1)
        os.dup2(sys.stdout.fileno(), 2)
        logging.basicConfig(format="%(message)s", force=True)
        before()
        code = flags.run(train.main, list(argv))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def exit_code(pid: int) -> int:
    """Wait for a process of `fork`; return its exit code, negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def without_drawing(patch: Callable[[str, object], None]) -> None:
    """Skip what takes most of the time of a short run."""
    patch("mrcnn.training.trainer.save_training_curves", lambda *_: None)
    patch("mrcnn.training.trainer.Trainer._write_report", lambda *_, **__: None)
    patch("mrcnn.training.trainer.Trainer._draw_predictions", lambda _: None)
