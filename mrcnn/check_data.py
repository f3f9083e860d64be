"""What is wrong or suspicious in a data set, and what to train it with: `mrcnn check-data DIR`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn
from tyro.conf import Positional

from mrcnn.config import MODELS
from mrcnn.data.checking.advice import Advice, advise
from mrcnn.data.checking.cleaning import LOG, write_clean
from mrcnn.data.checking.findings import ERROR, WARNING, Finding
from mrcnn.data.checking.run import Checked, check, read_all
from mrcnn.data.checking.statistics import Table, tables
from mrcnn.data.coco_writer import check_target
from mrcnn.errors import UserError
from mrcnn.files import check_writable, replacing
from mrcnn.flags import parse, run
from mrcnn.visual.check_page import check_page

PAGE, FINDINGS = "check.html", "findings.jsonl"

_ADVISED = ("small", "resnet50-fpn")  # models with four and with five levels
_WIDEST = 24  # characters of a bar


@dataclass(frozen=True)
class CheckDataConfig:
    """Look at every image and annotation of a data set, and tell all that is wrong or suspicious.

    Exit code 0: no errors (warnings there may be); 1: errors; 2: nothing could be read.
    """

    data: Positional[Path]
    """Folder of the data set, in any format that is read."""
    out: Path | None = None
    """Folder for check.html, a page with pictures, and findings.jsonl, all findings one a line."""
    fix: Path | None = None
    """Folder, new or empty, for a copy without the errors, and a log of each change."""
    show: int = 5
    """Findings of a kind to print."""
    workers: int = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    """Processes; 0 works in this one."""

    def __post_init__(self) -> None:
        for name in ("show", "workers"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name} must be at least 0, got {getattr(self, name)}")
        if self.fix is not None:
            check_target(self.data, self.fix)
        if self.out is not None:
            check_writable(self.out / PAGE)


def main(argv: list[str] | None = None) -> int:
    """Read, check, tell, and write what is asked for; returns the exit code."""
    args = parse(CheckDataConfig, argv, prog="mrcnn check-data")
    checked = read_all(args.data)
    images = sum(len(r.dataset) for r in checked.readings if r.dataset is not None)
    with _progress(images) as tell:
        check(checked, args.workers, tell)
    for note in checked.notes:
        print(note)
    counted = tables(checked.images, checked.class_names) if checked.images else []
    advice = [
        found
        for name in _ADVISED
        if (found := advise(checked.images, name, MODELS[name])) is not None
    ]
    for table in counted:
        print(_as_text(table))
    for one in advice:
        print(_advice(one, args.data))
    for severity in (WARNING, ERROR):
        _print_findings(checked, severity, args.show)
    if args.out is not None:
        _write_page(args.out, checked, counted, advice)
    if args.fix is not None:
        changes = write_clean(checked, args.fix)
        print(f"{args.fix}: a cleaned copy; {len(changes):,} changes, in {args.fix / LOG}")
    return int(any(finding.severity == ERROR for finding in checked.findings))


@contextmanager
def _progress(images: int) -> Iterator[Callable[[int], None]]:
    """What takes the number of images done: a bar in a terminal, ten lines elsewhere."""
    if not sys.stdout.isatty():
        step = max(100, images // 10)

        def say(done: int) -> None:
            if done % step == 0 or done == images:
                print(f"checked {done:,} of {images:,} images", flush=True)

        yield say
        return
    # It renews itself when it is told to: a thread would not survive in processes that are forked.
    line = TextColumn("checked {task.completed:,} of {task.total:,} images")
    with Progress(BarColumn(), line, auto_refresh=False) as bar:
        task = bar.add_task("", total=images)

        def show(done: int) -> None:
            bar.update(task, completed=done, refresh=True)

        yield show


def _as_text(table: Table) -> str:
    """Aligned columns, and a bar for each row."""
    totals = [sum(counts) for _, counts in table.rows]
    longest = max(totals, default=0) or 1
    lines = [(*table.header, "")]
    for (name, counts), total in zip(table.rows, totals, strict=True):
        mark = "█" * round(_WIDEST * total / longest) if table.has_bars else ""
        lines.append((name, *(f"{n:,}" for n in counts), mark))
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.header))]
    text = [f"\n{table.title}"]
    for first, *rest in lines:
        cells = [first.ljust(widths[0]), *map(str.rjust, rest[:-1], widths[1:]), rest[-1]]
        text.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(text)


def _advice(advice: Advice, data: Path) -> str:
    return (
        f"\nTo train {advice.model}; mean IoU of an object with the best anchor at its centre is "
        f"{advice.fitted:.2f}, as the model comes {advice.usual:.2f}:\n"
        f"  {advice.command(str(data))}"
    )


def _print_findings(checked: Checked, severity: str, show: int) -> None:
    """The findings of a severity by kind, the first of each."""
    kinds: dict[str, list[Finding]] = {}
    for finding in checked.findings:
        if finding.severity == severity:
            kinds.setdefault(finding.kind, []).append(finding)
    print(f"\n{_number(sum(map(len, kinds.values())), severity)}")
    for kind, found in kinds.items():
        print(f"  {kind} ({len(found):,})")
        for finding in found[:show]:
            print(f"    {_file(finding, checked.folder)}{finding.text}")
        if (more := len(found) - show) > 0:
            print(f"    and {more:,} more (--show, --out)")


def _file(finding: Finding, folder: Path) -> str:
    """The annotation file that a finding is about, seen from the folder of the data."""
    path = Path(finding.file)
    if not path.is_file() or finding.text.startswith(str(path)):
        return ""
    return f"{os.path.relpath(path, folder)}: "


def _number(count: int, word: str) -> str:
    return f"{count:,} {word}" + "s" * (count != 1)


def _write_page(
    folder: Path, checked: Checked, counted: Sequence[Table], advice: Sequence[Advice]
) -> None:
    """Write check.html and findings.jsonl."""
    with replacing(folder / FINDINGS) as draft:
        lines = (json.dumps(finding.to_dict()) + "\n" for finding in checked.findings)
        draft.write_text("".join(lines), encoding="utf-8")
    content = check_page(checked, counted, advice, shlex.quote(str(checked.folder)))
    with replacing(folder / PAGE) as draft:
        draft.write_text(content, encoding="utf-8")
    print(f"\n{folder / PAGE}\n{folder / FINDINGS}")


if __name__ == "__main__":
    sys.exit(run(main))
