"""Write the table of docs/models.md: size, speed, memory and published AP of all named models.

Models have the 80 classes of COCO. Multiply-adds of convolutions and matrix products are counted on
tensors without values. Time and memory are measured with random weights, each in a new process, on
one thread.

    python -m benchmarks.models.table --out docs/models.md
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.harness import HEIGHT, WIDTH, about
from benchmarks.models.facts import (
    CLASSES,
    PARTS,
    REPEATS,
    SIDE,
    TORCHVISION,
    alone,
    as_torchvision,
    checkpoints,
    count,
    step_memory,
    time_forward,
    with_classes,
)
from benchmarks.models.training import IMAGES, OBJECTS
from mrcnn.checkpoints import PUBLISHED
from mrcnn.config import MODELS

MARK = "†"  # marks checkpoints with strides in the 1 x 1 convolutions


@dataclass
class Line:
    """Measurements of one model; None was not measured."""

    name: str
    parameters: int
    gflops: dict[str, float]  # 10^9 multiply-adds by part
    checkpoints: list[tuple[str, bool]]  # same layers; strides in the 1 x 1
    milliseconds: float | None = None
    detections: int | None = None
    step_gib: float | None = None


def examine(name: str, quick: bool) -> Line:
    """Measure one row of the table."""
    config = with_classes(MODELS[name], CLASSES)
    parameters, gflops = count(config, HEIGHT, WIDTH)
    line = Line(name, parameters, gflops, checkpoints(config))
    if not quick:
        line.milliseconds, line.detections = alone(time_forward, config)
        line.step_gib = alone(step_memory, config)
    return line


def table(lines: list[Line]) -> list[str]:
    """Return Markdown with a row per model."""
    rows = [
        f"| model | parameters | {' | '.join(PARTS)} | GFLOPs | CPU, ms | step, GiB "
        "| published box / mask AP |",
        f"| --- | ---: |{' ---: |' * len(PARTS)} ---: | ---: | ---: | --- |",
    ]
    for line in lines:
        best = line.checkpoints[:1]
        cells = [
            f"`{line.name}`",
            f"{line.parameters:,}",
            *(f"{line.gflops[part]:.1f}" if line.gflops[part] else "-" for part in PARTS),
            f"**{sum(line.gflops.values()):.1f}**",
            "-" if line.milliseconds is None else report.milliseconds(line.milliseconds),
            "-" if line.step_gib is None else f"{line.step_gib:.2f}",
            *(f"{_ap(name)}, {_link(name)}{MARK * marked}" for name, marked in best),
            *(["-"] if not best else []),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _ap(name: str) -> str:
    published = PUBLISHED[name]
    return f"{published.box_ap} / {published.mask_ap}"


def _link(name: str) -> str:
    return f"[{name.partition('/')[0]}]({PUBLISHED[name].source})"


def published_table(lines: list[Line]) -> list[str]:
    """Return Markdown with all published checkpoints that have the same layers."""
    rows = ["| model | checkpoint | box AP | mask AP |", "| --- | --- | ---: | ---: |"]
    for line in lines:
        for name, marked in line.checkpoints:
            checkpoint = PUBLISHED[name]
            link = f"[`{name}`]({checkpoint.source}){MARK * marked}"
            rows.append(f"| `{line.name}` | {link} | {checkpoint.box_ap} | {checkpoint.mask_ap} |")
    return rows


def comparison_table() -> list[str]:
    """Return Markdown with mrcnn's and torchvision's counts and the difference."""
    rows = [
        "| | mrcnn, 90 classes | torchvision only | sum | published |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, (parameters, gflops, detections) in TORCHVISION.items():
        counts = as_torchvision(name)
        rows.append(
            f"| `{name}`, parameters | {counts.parameters:,} "
            f"| {counts.background:,} of the background "
            f"| {counts.parameters + counts.background:,} | {parameters:,} |"
        )
        added = f"{counts.background_gflops:.3f} of the background"
        if detections:
            added += f", {counts.other_masks_gflops:.3f} of masks of other classes"
        total = counts.gflops + counts.background_gflops + counts.other_masks_gflops
        rows.append(
            f"| `{name}`, GFLOPs with {detections} detections | {counts.gflops:.3f} | {added} "
            f"| {total:.3f} | {gflops} |"
        )
    return rows


def conditions(lines: list[Line], facts: dict[str, Any]) -> list[str]:
    """Return Markdown that explains the first table."""
    text = [
        f"With {CLASSES} classes. Parameters are counted whether they are frozen or not; "
        "statistics, scales and shifts of frozen batch norms are buffers and not counted. GFLOPs "
        f"are 10^9 multiply-adds for one {HEIGHT} x {WIDTH} image, in convolutions and matrix "
        "products, counted by PyTorch's `FlopCounterMode` (half of its result). The box head "
        "processes as many proposals and the mask head as many detections as the configuration "
        "allows, by default 1000 and 100. In C4 models, conv5 runs on these and counts as part of "
        "the heads.",
    ]
    if all(line.milliseconds is not None for line in lines):
        fewer = [
            f"`{line.name}` {line.detections}"
            for line in lines
            if line.detections != MODELS[line.name].max_detections
        ]
        text += [
            "",
            f"CPU: median of {REPEATS} runs of `model.forward` in evaluation mode on one {SIDE} x "
            f"{SIDE} image of random pixels, in float32, 1 thread. Weights are random, with "
            "outputs scaled to give as many proposals and detections as a trained model"
            + (f" (fewer detections than allowed: {', '.join(fewer)})" if fewer else "")
            + ". Step: growth of the peak resident memory (`ru_maxrss`) of a new process in "
            "training steps (forward, backward and SGD with momentum) on "
            f"{IMAGES} images of {SIDE} x {SIDE} with {OBJECTS} objects each, in float32 on the "
            "CPU. It includes gradients and momenta, not weights.",
            "",
            f"{facts['machine']}, {facts['cores']} cores, load {facts['load_before']:.1f} to "
            f"{facts['load_after']:.1f}; {facts['date']}; commit {facts['commit']}; PyTorch "
            f"{facts['torch']}.",
        ]
    return text


def document(lines: list[Line], facts: dict[str, Any]) -> str:
    """Return the text between the markers."""
    published = published_table(lines)
    parts = [*table(lines), "", *conditions(lines, facts)]
    if any(line.checkpoints for line in lines):
        parts += [
            "",
            "AP on COCO val2017 is that of published checkpoints with the same layers, as stated "
            "on the linked page. The table above shows the first checkpoint of each model. "
            f"{MARK}: the ResNet has its strides in the 1 x 1 convolutions "
            "(`stride_in_1x1=True`), while the named model has them in the 3 x 3. `--weights` "
            "takes these names.",
            "",
            *published,
        ]
    return "\n".join(
        [
            *parts,
            "",
            "Counts under the conditions of torchvision's published ones (metadata of its weights: "
            "noise resized to 800 x 800, 1000 proposals, 91 outputs). The models of mrcnn do not "
            "compute what is never used: deltas and masks of the background, and mask logits of "
            "classes other than the detected one.",
            "",
            *comparison_table(),
        ]
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--quick", action="store_true", help="only parameters and multiply-adds")
    parser.add_argument("--out", type=Path, help="Markdown file with the two markers to write")
    args = parser.parse_args(argv)
    args.threads, args.repeats = [1], REPEATS
    try:
        if args.out:
            report.with_table(args.out, "")  # refused before anything is measured
        facts = about(args) | {"date": datetime.date.today().isoformat()}
        lines = []
        for i, name in enumerate(args.models, 1):
            print(f"{i} of {len(args.models)}: {name}", file=sys.stderr, flush=True)
            lines.append(examine(name, args.quick))
        text = document(lines, facts | {"load_after": os.getloadavg()[0]})
        if args.out:
            args.out.write_text(report.with_table(args.out, text))
    except report.ReportError as error:
        print(f"models_table: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
