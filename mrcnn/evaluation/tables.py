"""Metrics as tables of text, and as a tree for JSON.

All functions take the flat metrics of an `Evaluation`: `bbox_AP`, `segm_AP/cat` and the like, with
-1 where there is nothing to measure a metric on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mrcnn.evaluation.coco import KINDS

MANY_CLASSES = 24  # with more, tables show the lowest and the highest
SHOWN_CLASSES = 10  # of either

_SHORT = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR1", "AR10", "AR")
_PER_CLASS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR")
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

Metrics = Mapping[str, float]


def format_metrics(metrics: Metrics, details: bool = False) -> str:
    """Format the metrics as tables: overall, and per class where there are several.

    Args:
        metrics: Flat metrics of an `Evaluation`.
        details: Show all metrics with their meanings, and those of each class by size.
    """
    kinds = [kind for kind in KINDS if f"{kind}_AP" in metrics]
    limit = int(metrics.get("max_detections", 0))
    lines = [
        f"{int(metrics['images'])} images" + f", at most {limit} detections each" * bool(limit)
    ]
    lines += _all_metrics(metrics, kinds) if details else _overall(metrics, kinds)
    classes = class_names(metrics)
    if len(classes) > 1:
        if details:
            for kind in kinds:
                columns = {name: f"{kind}_{name}" for name in _PER_CLASS}
                lines += ["", *_class_table(metrics, f"{KINDS[kind]} of", columns, classes)]
        else:
            columns = {f"{kind} AP": f"{kind}_AP" for kind in kinds}
            lines += ["", *_class_table(metrics, "class", columns, classes)]
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


def _overall(metrics: Metrics, kinds: Sequence[str]) -> list[str]:
    names = [name for name in _SHORT if f"{kinds[0]}_{name}" in metrics]
    lines = ["      " + "".join(f"{name:>8}" for name in names)]
    for kind in kinds:
        lines.append(f"{kind:<6}" + "".join(cell(metrics[f"{kind}_{name}"]) for name in names))
    return lines


def _all_metrics(metrics: Metrics, kinds: Sequence[str]) -> list[str]:
    lines = ["      " + "".join(f"{kind:>8}" for kind in kinds)]
    for name, meaning in MEANINGS.items():
        if f"{kinds[0]}_{name}" in metrics:
            cells = "".join(cell(metrics[f"{kind}_{name}"]) for kind in kinds)
            lines.append(f"{name:<6}{cells}  {meaning}")
    return lines


def _class_table(
    metrics: Metrics, title: str, columns: Mapping[str, str], classes: Sequence[str]
) -> list[str]:
    """Return a row for each class; of many, those with the lowest and the highest AP.

    The keys of `columns` are headings, the values names of metrics.
    """
    columns = {head: name for head, name in columns.items() if f"{name}/{classes[0]}" in metrics}
    ranked = next(name for name in reversed(columns.values()) if name.endswith("_AP"))
    rows, between = list(classes), 0
    notes = []
    if len(classes) > MANY_CLASSES:
        values = {name: metrics[f"{ranked}/{name}"] for name in classes}
        known = {name: value for name, value in values.items() if value > -1}
        rows, between = select_classes(known)
        if left_out := len(classes) - len(known):
            notes.append(f"{left_out} classes without objects are left out")
    width = max([len(title), *(len(shorten(name)) for name in rows)])
    space = max(8, max(map(len, columns)) + 3)
    lines = [f"{title:<{width}}" + "".join(f"{head:>{space}}" for head in columns)]
    for position, name in enumerate(rows):
        if between and position == SHOWN_CLASSES:
            lines.append(f"… {between} classes between")
        cells = (cell(metrics[f"{metric}/{name}"]) for metric in columns.values())
        lines.append(f"{shorten(name):<{width}}" + "".join(f"{text:>{space}}" for text in cells))
    return lines + notes


def select_classes(values: Mapping[str, float]) -> tuple[list[str], int]:
    """Sort names by their values; of many, keep the first and the last.

    Returns:
        The names, and the number of those left out between the first and the last.
    """
    names = sorted(values, key=lambda name: values[name])
    if len(names) <= MANY_CLASSES:
        return names, 0
    return [*names[:SHOWN_CLASSES], *names[-SHOWN_CLASSES:]], len(names) - 2 * SHOWN_CLASSES


def cell(value: float) -> str:
    """Format a metric in eight characters; "-" where there is nothing to measure."""
    return f"{value:8.3f}" if value > -1 else f"{'-':>8}"


def shorten(name: str, longest: int = 32) -> str:
    """Cut a name to at most `longest` characters."""
    return name if len(name) <= longest else name[: longest - 1] + "…"
