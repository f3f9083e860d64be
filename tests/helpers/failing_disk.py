"""Every system call of a save fails in turn: what is left, told as JSON.

LD_PRELOAD=failing_calls.so python tests/helpers/failing_disk.py FOLDER ERRNO LASTING
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mrcnn import checkpoints
from mrcnn.errors import UserError
from mrcnn.training.state import TrainingState, load_state, save_state, sweep
from tests.helpers import tiny

COMPILER = os.environ.get("CXX", "c++").split()[0]
SOURCE = Path(__file__).with_name("failing_calls.cpp")
KINDS = ("open", "read", "write", "sync", "rename", "remove", "folder", "close", "room")


def content(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {str(size): torch.rand(size, generator=generator) for size in (3, 10_000, 40_000)}


def save_both(folder: Path, step: int) -> None:
    save_state(folder, TrainingState(step, content(step), {"step": step}))
    checkpoints.save(folder / "best.safetensors", content(step), tiny.CONFIG, {"step": step})


def check(folder: Path) -> tuple[int, int]:
    """The steps of the newest state and of the best checkpoint; both are whole, or it raises."""
    state, notes = load_state(folder)
    best = checkpoints.load(folder / "best.safetensors")
    for step, tensors in ((state.step, state.tensors), (best.extra["step"], best.state)):
        assert all(torch.equal(tensors[name], value) for name, value in content(step).items())
    assert notes == []
    assert state.values == {"step": state.step}
    return state.step, best.extra["step"]


class Disk:
    """The calls of this process, through the library that was loaded before."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(None)
        self.library.disarm.restype = ctypes.c_long

    def failing(
        self, call: int, error: int, lasting: bool, action: Callable[..., Any], *args: object
    ) -> Any:
        """The answer or UserError of `action`, its number of calls, and how many of each kind."""
        kinds = (ctypes.c_long * len(KINDS))()
        self.library.arm(ctypes.c_long(call), error, lasting)
        try:
            answer = action(*args)
        except UserError as told:
            answer = told
        finally:
            calls = self.library.disarm(kinds)
        return answer, calls, list(kinds)


def main(folder: Path, error: int, lasting: bool) -> dict[str, Any]:
    torch.set_num_threads(1)
    disk, messages, kinds = Disk(), [], []
    for step in (1, 2, 3):
        save_both(folder, step)
    at, call = (3, 3), 0
    while True:
        call += 1
        answer, calls, kinds = disk.failing(call, error, lasting, save_both, folder, at[0] + 1)
        sweep(folder)
        left = [path.name for path in folder.rglob(".*")]
        assert left == [], f"call {call} leaves {left}"
        found = check(folder)
        assert found >= at, f"call {call} loses {at}: {found} is left"
        if isinstance(answer, UserError):
            messages.append(str(answer))
        else:
            assert found == (at[0] + 1, at[0] + 1), f"call {call} was not told"
        save_both(folder, found[0] + 1)  # the disk is well again
        at = check(folder)
        assert at[0] == at[1]
        if calls < call:
            break
    refused = []
    for call in range(1, 1000):
        answer, calls, _ = disk.failing(call, error, lasting, load_state, folder)
        refused.append(isinstance(answer, UserError))
        if not refused[-1]:
            state, notes = answer
            assert state.step == at[0] or notes, f"call {call} goes back and does not tell"
            assert all(torch.equal(state.tensors[k], v) for k, v in content(state.step).items())
        if calls < call:
            break
    return {"kinds": dict(zip(KINDS, kinds, strict=True)), "messages": messages, "refused": refused}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "lasting")))
