"""Metrics as tables of text, and as a tree for JSON.

All functions take the flat metrics of an `Evaluation`: `bbox_AP`, `segm_AP/cat` and the like, with
-1 where there is nothing to measure a metric on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mrcnn.evaluation.coco import KINDS
from mrcnn.visual.names import short_name

MANY_CLASSES = 24  # with more, tables show the lowest and the highest
SHOWN_CLASSES = 10  # of either

MEANINGS = {
    "AP": "IoU 0.50 to 0.95",
    "AP50": "IoU 0.50",
    "AP75": "IoU 0.75",
    "APs": "small objects, below 32² pixels",
    "APm": "medium objects",
    "APl": "large objects, from 96² pixels on",
    "APr": "rare classes, in less than 10 training images",
    "APc": "common classes",
    "APf": "frequent classes, in 100 training images or more",
    "AR1": "recall with 1 detection",
    "AR10": "recall with 10 detections",
    "AR": "recall with all detections",
    "ARs": "recall of small objects",
    "ARm": "recall of medium objects",
    "ARl": "recall of large objects",
}

_RECALL_BY_SIZE = ("ARs", "ARm", "ARl")  # in the detailed table only

Metrics = Mapping[str, float]


def format_metrics(metrics: Metrics, details: bool = False) -> str:
    """Format the metrics as tables: overall, and per class where there are several.

    Args:
        metrics: Flat metrics of an `Evaluation`.
        details: Show all metrics with their meanings, and those of each class by size.
    """
    kinds = [kind for kind in KINDS if f"{kind}_AP" in metrics]
    names = metric_names(metrics, kinds[0])
    limit = int(metrics.get("max_detections", 0))
    most = f", at most {limit} detections each" if limit else ""
    lines = [f"{int(metrics['images'])} images{most}"]
    if details:
        lines.append(" " * 6 + "".join(f"{kind:>8}" for kind in kinds))
        for name in names:
            cells = "".join(cell(metrics[f"{kind}_{name}"]) for kind in kinds)
            lines.append(f"{name:<6}{cells}  {MEANINGS[name]}")
        tables = {f"{KINDS[kind]} of": {name: f"{kind}_{name}" for name in names} for kind in kinds}
    else:
        names = [name for name in names if name not in _RECALL_BY_SIZE]
        lines.append(" " * 6 + "".join(f"{name:>8}" for name in names))
        for kind in kinds:
            cells = "".join(cell(metrics[f"{kind}_{name}"]) for name in names)
            lines.append(f"{kind:<6}{cells}")
        tables = {"class": {f"{kind} AP": f"{kind}_AP" for kind in kinds}}
    if len(class_names(metrics)) > 1:
        for title, columns in tables.items():
            lines += ["", *_class_table(metrics, title, columns)]
    if at_limit := int(metrics.get("images_at_limit", 0)):
        lines.append(
            f"images with as many detections as are allowed ({limit}): {at_limit}; "
            "they may hold more, see max_detections"
        )
    return "\n".join(lines)


def metrics_tree(metrics: Metrics) -> dict[str, Any]:
    """Return all metrics for JSON.

    Counts are at the top. "bbox" and "segm" hold their metrics, and under "classes" those of each
    class. None means that there is nothing to measure a metric on.
    """
    tree: dict[str, Any] = {}
    for name, value in metrics.items():
        kind, _, metric = name.partition("_")
        if kind not in KINDS:
            tree[name] = value
            continue
        branch = tree.setdefault(kind, {"classes": {}})
        metric, _, class_name = metric.partition("/")
        if class_name:
            branch = branch["classes"].setdefault(class_name, {})
        branch[metric] = value if value > -1 else None
    return tree


def class_names(metrics: Metrics) -> list[str]:
    """Return the classes that have metrics, in their order."""
    prefix = "bbox_AP/" if "bbox_AP" in metrics else "segm_AP/"
    return [name.removeprefix(prefix) for name in metrics if name.startswith(prefix)]


def metric_names(metrics: Metrics, kind: str) -> list[str]:
    """Return the names of the overall metrics of boxes or masks, in the order of `MEANINGS`."""
    return [name for name in MEANINGS if f"{kind}_{name}" in metrics]


def class_lines(
    title: str, header: str, names: Sequence[str], cells: Callable[[str], str]
) -> list[str]:
    """Return a heading and a row for each class; of many, only the first and the last."""
    between = len(names) - 2 * SHOWN_CLASSES if len(names) > MANY_CLASSES else 0
    if between:
        names = [*names[:SHOWN_CLASSES], *names[-SHOWN_CLASSES:]]
    width = max([len(title), *(len(short_name(name, 32)) for name in names)])
    lines = [f"{title:<{width}}{header}"]
    lines += [f"{short_name(name, 32):<{width}}{cells(name)}" for name in names]
    if between:
        lines.insert(1 + SHOWN_CLASSES, f"… {between} classes between")
    return lines


def _class_table(metrics: Metrics, title: str, columns: Mapping[str, str]) -> list[str]:
    """Return a row for each class, with headings and names of metrics from `columns`."""
    names, notes = class_names(metrics), []
    columns = {head: name for head, name in columns.items() if f"{name}/{names[0]}" in metrics}
    if len(names) > MANY_CLASSES:
        ranked = next(name for name in reversed(columns.values()) if name.endswith("_AP"))
        ap = {name: metrics[f"{ranked}/{name}"] for name in names}
        names = sorted((name for name in names if ap[name] > -1), key=lambda name: ap[name])
        if left_out := len(ap) - len(names):
            notes.append(f"{left_out} classes without objects are left out")
    space = max(8, max(map(len, columns)) + 3)

    def cells(name: str) -> str:
        return "".join(f"{cell(metrics[f'{key}/{name}']):>{space}}" for key in columns.values())

    header = "".join(f"{head:>{space}}" for head in columns)
    return class_lines(title, header, names, cells) + notes


def cell(value: float) -> str:
    """Format a metric in eight characters; "-" where there is nothing to measure."""
    return f"{value:8.3f}" if value > -1 else f"{'-':>8}"
