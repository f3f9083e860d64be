"""Write the table of docs/benchmarks.md and its figure from benchmarks/results/cpu/*.json.

Each file is the `--out` of the benchmark with the same name. All must be measured on one machine
with the same versions, and not with --quick. If commits differ, the line below the table names
them.

    python -m benchmarks.report
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"

# Cases to show, as patterns like those of file names; all cases of a benchmark not listed here.
CHOSEN = {
    "inference": ("*end to end",),
    "mask_targets": ("*from polygons",),
    "match_boxes": ("* x 100",),
    "nms": ("* clustered*",),
    "paste_masks": ("100 masks*",),
    "roi_align": (
        "*head: * forward, *",
        "*head: * backward, *",
        "box head: *from NCHW, reused",
        "box head: *bfloat16, reused",
    ),
    "roi_pool": ("*forward*",),
}

END_TO_END = ("inference", "training")  # shown for all numbers of threads

SAME = ("machine", "cores", "torch", "torchvision", "allocator")  # must agree in all files
REQUIRED = {"case": str, "threads": int, "mrcnn_ms": (int, float)}
OPTIONAL = {"peer": str, **dict.fromkeys(("peer_ms", "ratio", "percent_of_floor"), (int, float))}

# Two colours of Okabe and Ito's palette, distinct for all kinds of colour vision.
FASTER, SLOWER = "#0072B2", "#D55E00"


class ReportError(Exception):
    """Results that cannot be shown; the message names the file and the reason."""


@dataclass
class Line:
    """One measured case."""

    bench: str
    case: str
    threads: int
    mrcnn_ms: float
    peer: str | None
    peer_ms: float | None
    ratio: float | None
    percent_of_floor: float | None


def read_results(folder: Path) -> tuple[dict[str, Any], list[Line]]:
    """Read the common facts of all files, and the chosen cases in the order of file names.

    Raises:
        ReportError: if a file is damaged or a quick run, or files do not fit together.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise ReportError(f"no results: {folder} holds no .json file")
    about: dict[str, Any] = {}
    commits: dict[str, list[str]] = {}
    lines: list[Line] = []
    first = paths[0].name
    for path in paths:
        facts, rows = read_file(path)
        if facts.get("quick"):
            raise ReportError(f"{path.name}: measured with --quick, run it without")
        for key in ("commit", *SAME):
            if key not in facts:
                raise ReportError(f"{path.name}: damaged: about lacks {key!r}")
        if "+" in facts["commit"]:
            raise ReportError(
                f"{path.name}: measured with uncommitted changes ({facts['commit']}); "
                "commit and measure again"
            )
        commits.setdefault(facts["commit"], []).append(path.stem)
        for key in SAME:
            if about and facts[key] != about[key]:
                raise ReportError(
                    f"results of different {key}: {first} has {about[key]!r}, "
                    f"{path.name} has {facts[key]!r}; measure them again together"
                )
        about = about or facts
        lines += chosen(path, rows)
    return about | {"commit": name_commits(commits)}, lines


def name_commits(commits: dict[str, list[str]]) -> str:
    """Name the commit of most files, and all other commits with their benchmarks."""
    main, *others = sorted(commits, key=lambda commit: -len(commits[commit]))
    return ", ".join([main, *(f"{other} ({', '.join(commits[other])})" for other in others)])


def read_file(path: Path) -> tuple[dict[str, Any], list[Line]]:
    """Read and check `about` and the rows of one file."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ReportError(f"{path.name}: damaged: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("about"), dict):
        raise ReportError(f"{path.name}: damaged: no object with 'about' and 'rows'")
    if not isinstance(content.get("rows"), list) or not content["rows"]:
        raise ReportError(f"{path.name}: damaged: no rows")
    lines = []
    for i, row in enumerate(content["rows"]):
        if not isinstance(row, dict):
            raise ReportError(f"{path.name}: damaged: row {i} is not an object")
        for key, kind in REQUIRED.items():
            if not isinstance(row.get(key), kind):
                raise ReportError(f"{path.name}: damaged: row {i} has {key} = {row.get(key)!r}")
        for key, kind in OPTIONAL.items():
            if row.get(key) is not None and not isinstance(row[key], kind):
                raise ReportError(f"{path.name}: damaged: row {i} has {key} = {row[key]!r}")
        for key in ("mrcnn_ms", "peer_ms", "ratio"):
            if row.get(key) is not None and not 0 < row[key] < math.inf:
                raise ReportError(f"{path.name}: damaged: row {i} has {key} = {row[key]!r}")
        if len({row.get(key) is None for key in ("peer", "peer_ms", "ratio")}) > 1:
            raise ReportError(
                f"{path.name}: damaged: row {i} has only some of peer, peer_ms, ratio"
            )
        values = {key: row.get(key) for key in (*REQUIRED, *OPTIONAL)}
        lines.append(Line(bench=path.stem, **values))
    return content["about"], lines


def chosen(path: Path, lines: list[Line]) -> list[Line]:
    """Select the lines that match the benchmark's patterns; for operators, with one thread."""
    patterns = CHOSEN.get(path.stem, ("*",))
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(line.case, pattern) for line in lines):
            raise ReportError(f"{path.name}: no case matches {pattern!r}, which the report shows")
    threads = {line.threads for line in lines}
    if path.stem not in END_TO_END:
        threads = {min(threads)}
    return [
        line
        for line in lines
        if line.threads in threads
        and any(fnmatch.fnmatchcase(line.case, pattern) for pattern in patterns)
    ]


def milliseconds(value: float) -> str:
    """Format with three significant digits, and all digits before the point."""
    digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:,.{digits}f}"


def times(ratio: float) -> str:
    """Format with two significant digits, and all digits before the point."""
    return f"{ratio:.2f}x" if ratio < 1 else f"{ratio:.1f}x" if ratio < 10 else f"{ratio:,.0f}x"


def table(about: dict[str, Any], lines: list[Line]) -> str:
    """Return the table in Markdown, and below it machine, commit and versions."""
    rows = [
        "| benchmark | case | threads | mrcnn, ms | peer | peer, ms | ratio | of floor |",
        "| --- | --- | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for line in lines:
        cells = [
            f"`{line.bench}`",
            line.case.replace("|", "\\|"),
            str(line.threads),
            milliseconds(line.mrcnn_ms),
            line.peer or "",
            milliseconds(line.peer_ms) if line.peer_ms is not None else "",
            f"**{times(line.ratio)}**" if line.ratio is not None else "",
            f"{line.percent_of_floor:.0f}%" if line.percent_of_floor is not None else "",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, "", footer(about)])


def footer(about: dict[str, Any]) -> str:
    """Return one line with machine, commit, versions and allocator."""
    peer = f", torchvision {about['torchvision']}" if about["torchvision"] else ""
    options = " ".join(f"{k}={v}" for k, v in sorted(about["allocator"].items()))
    return (
        f"{about['machine']}, {about['cores']} cores; commit {about['commit']}; "
        f"PyTorch {about['torch']}{peer}; allocator {options or 'default'}."
    )


def with_table(page: Path, text: str) -> str:
    """Return the content of `page` with `text` between its two markers."""
    content = page.read_text()
    if content.count(BEGIN) != 1 or content.count(END) != 1:
        raise ReportError(f"{page}: must contain one line {BEGIN} and one {END}")
    head, rest = content.split(BEGIN)
    if END not in rest:
        raise ReportError(f"{page}: {END} comes before {BEGIN}")
    return f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}"


def draw(about: dict[str, Any], lines: list[Line], path: Path) -> None:
    """Draw bars of the ratios on a logarithmic axis; cases without a peer are left out."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    lines = [line for line in lines if line.ratio is not None]
    if not lines:
        raise ReportError("no case was measured beside a peer: nothing to draw")
    many_threads = len({line.threads for line in lines}) > 1
    names, y, positions = [], 0.0, []
    for i, line in enumerate(lines):
        y += 1.0 if i == 0 or line.bench == lines[i - 1].bench else 1.7  # gap between benchmarks
        positions.append(y)
        threads = f", {line.threads} thread{'s' * (line.threads > 1)}" if many_threads else ""
        names.append(f"{line.case}{threads}")
    ratios = [line.ratio or 1.0 for line in lines]
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.26 * y), layout="constrained")
    # A bar starts at 1 (as fast as the peer) and ends at the ratio.
    axes.barh(
        positions,
        [ratio - 1 for ratio in ratios],
        left=1,
        height=0.72,
        color=[FASTER if ratio >= 1 else SLOWER for ratio in ratios],
    )
    low, high = min(1.0, *ratios), max(1.0, *ratios)
    for position, line, ratio in zip(positions, lines, ratios, strict=True):
        text = (
            f"{times(ratio)}   {milliseconds(line.mrcnn_ms)} / {milliseconds(line.peer_ms or 0)} ms"
        )
        axes.annotate(
            text, (max(ratio, 1.0), position), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=8.5,
        )  # fmt: skip
    axes.set_xscale("log")
    # Leave room for the text behind the longest bar: it takes about 0.3 of the width.
    axes.set_xlim(low * 0.9, high * (high / low) ** 0.42 * 1.1)
    axes.set_yticks(positions, names, fontsize=8.5)
    axes.set_ylim(y + 0.7, positions[0] - 0.7)
    for position, line, previous in zip(positions, lines, [None, *lines], strict=False):
        if previous is None or previous.bench != line.bench:
            axes.annotate(
                line.bench, (0, position - 0.85), xycoords=("axes fraction", "data"),
                xytext=(-4, 0), textcoords="offset points", ha="right", va="center",
                fontsize=8.5, fontweight="bold",
            )  # fmt: skip
    axes.axvline(1, color="black", linewidth=0.8)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}x"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8.5)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    peers = ", ".join(sorted({line.peer.split()[0] for line in lines if line.peer}))
    figure.suptitle(
        f"Times faster than {peers}  (behind each bar: ratio, time of mrcnn / peer)", fontsize=10
    )
    # Across the whole figure: the line is longer than the axes.
    figure.supxlabel(textwrap.fill(footer(about), 150), fontsize=7, color="0.35", x=0.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160, metadata={"Software": None})
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "cpu")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "benchmarks.png")
    args = parser.parse_args(argv)
    try:
        about, lines = read_results(args.results)
        text = table(about, lines)
        content = with_table(args.page, text)
        draw(about, lines, args.plot)
        args.page.write_text(content)
    except ReportError as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
