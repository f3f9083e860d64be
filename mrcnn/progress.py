"""How a run tells where it is: one line that renews itself in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from mrcnn.training.loop import StepRecord
from mrcnn.training.run_folder import memory


class ProgressLine:
    """Shows the records of a run as they come.

    Args:
        steps: of the whole run.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        if sys.stdout.isatty():
            # Where the window is narrow, the end of the line is cut, and the bar stays.
            line = TextColumn("{task.fields[line]}", table_column=Column(ratio=1, no_wrap=True))
            self.bar = Progress(BarColumn(bar_width=10), line, console=Console(), expand=True)
            self.task = self.bar.add_task("train", total=steps, line="")
            self.bar.start()

    def show(self, records: Sequence[StepRecord]) -> None:
        """The mean of the records, and where the run stands."""
        line = f"step {records[-1].step}/{self.steps}  {describe(records, self.steps)}"
        if self.bar is None or self.task is None:
            print(line, flush=True)
        else:
            self.bar.update(self.task, completed=records[-1].step, line=line)

    def close(self) -> None:
        """Leave the last line standing."""
        if self.bar is not None:
            self.bar.stop()


def describe(records: Sequence[StepRecord], steps: int) -> str:
    """Loss, speed, memory, time left, share of waiting for the loader, rate, parts of the loss."""
    last = records[-1]
    seconds = sum(r.seconds for r in records)
    sound = [r for r in records if not r.skipped] or records
    mean = {name: sum(r.losses[name] for r in sound) / len(sound) for name in last.losses}
    parts = " ".join(
        f"{name.removeprefix('loss_')} {value:.3f}"
        for name, value in mean.items()
        if name != "loss"
    )
    left = int((steps - last.step) * seconds / len(records))
    time_left = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
    waiting = sum(r.data_seconds for r in records) / seconds
    return (
        f"loss {mean['loss']:.3f}  {sum(r.images for r in records) / seconds:.1f} img/s  "
        f"{memory() / 2**30:.1f} GiB  {time_left} left  loader {waiting:.0%}  lr {last.lr:.2g}  "
        f"{parts}"
    )
