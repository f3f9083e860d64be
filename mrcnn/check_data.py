"""Check a data set, and suggest training flags: `mrcnn check-data DIR`."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from mrcnn.cli.flags import parse, require_at_least, run
from mrcnn.config import MODELS
from mrcnn.io.atomic import check_writable

if TYPE_CHECKING:
    from mrcnn.data.checks.findings import CheckedData, Finding

PAGE, FINDINGS = "check.html", "findings.jsonl"

_ADVISED = ("small", "resnet50-fpn")  # models with four and with five levels
_SECONDS = 10.0  # between lines of progress


@dataclass(frozen=True)
class CheckDataConfig:
    """Check every image and annotation of a data set, and report what is wrong or suspicious.

    Exit code 0: no errors (there may be warnings); 1: errors; 2: nothing could be read.
    """

    data: Positional[Path]
    """Folder of the data set, in any supported format, or a COCO file."""
    images: Path | None = None
    """Folder of the images, if the data set is a COCO file. If not set, it is found beside it."""
    out: Path | None = None
    """Folder for check.html, a page with images, and findings.jsonl, with one finding per line."""
    fix: Path | None = None
    """Folder, new or empty, for a copy without the errors, and a log of the changes."""
    show: int = 5
    """Number of findings to print of each kind."""
    workers: int = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    """Number of processes that check images; 0 checks in the main process."""

    def __post_init__(self) -> None:
        require_at_least(self, show=0, workers=0)
        if self.out is not None:
            check_writable(self.out / PAGE, mark=b"mrcnn")
            check_writable(self.out / FINDINGS, mark=rb"\A\{\"severity\": ")


def main(argv: list[str] | None = None) -> int:
    """Read and check the data, print the results, write what is asked for; return the exit code."""
    args = parse(CheckDataConfig, argv, prog="mrcnn check-data")
    from mrcnn.cli.progress import ProgressLine
    from mrcnn.data.checks.advice import advise
    from mrcnn.data.checks.check import run_checks
    from mrcnn.data.checks.clean_copy import LOG, write_clean_copy
    from mrcnn.data.checks.findings import ERROR, WARNING, write_lines
    from mrcnn.data.checks.read import read_leniently
    from mrcnn.data.checks.statistics import tables
    from mrcnn.data.coco.write import check_target
    from mrcnn.reports.data_report import write_data_report

    if args.fix is not None:
        check_target(args.data, args.fix)
    data = read_leniently(args.data, args.images)
    total = sum(len(split.dataset) for split in data.splits if split.dataset is not None)
    with ProgressLine(every=_SECONDS) as line:
        run_checks(data, args.workers, lambda done: line.images(done, total))
    counts = tables(data.images, data.class_names)
    advice = [a for name in _ADVISED if (a := advise(data.images, name, MODELS[name]))]
    for text in (*data.notes, *(table.to_text() for table in counts)):
        print(text)
    for suggestion in advice:
        print(f"\nTo train {suggestion.summary()}:\n  {suggestion.command(str(args.data))}")
    for severity in (WARNING, ERROR):
        _print_findings(data, severity, args.show)
    if args.out is not None:
        write_lines(args.out / FINDINGS, data.findings)
        page = write_data_report(args.out / PAGE, data, counts, advice)
        print(f"\n{page}\n{args.out / FINDINGS}")
    if args.fix is not None:
        changes = write_clean_copy(data, args.fix)
        print(f"{args.fix}: a cleaned copy; {len(changes):,} changes, in {args.fix / LOG}")
    return int(any(finding.severity == ERROR for finding in data.findings))


def _print_findings(data: CheckedData, severity: str, show: int) -> None:
    """Print the first findings of each kind."""
    kinds: dict[str, list[Finding]] = {}
    for finding in data.findings:
        if finding.severity == severity:
            kinds.setdefault(finding.kind, []).append(finding)
    total = sum(map(len, kinds.values()))
    print(f"\n{total:,} {severity}" + "s" * (total != 1))
    for kind, findings in kinds.items():
        print(f"  {kind} ({len(findings):,})")
        for finding in findings[:show]:
            print(f"    {_file_prefix(finding, data.folder)}{finding.text}")
        if (more := len(findings) - show) > 0:
            print(f"    and {more:,} more (--show, --out)")


def _file_prefix(finding: Finding, folder: Path) -> str:
    """Return the annotation file of a finding, relative to the folder of the data."""
    path = Path(finding.file)
    if not path.is_file() or finding.text.startswith(str(path)):
        return ""
    return f"{os.path.relpath(path, folder)}: "


if __name__ == "__main__":
    sys.exit(run(main))
