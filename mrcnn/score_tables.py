"""Average precision as text for people and as a tree for machines.

Everything starts from the flat figures of `evaluate`: `bbox_AP`, `segm_AP/cat` and the like, -1
where there is nothing to measure a figure on; `images`; and, where there is a limit,
`max_detections` and `images_at_limit`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MANY_CLASSES = 24  # of more, the lowest and the highest are shown
SHOWN = 10  # of either

_SHORT = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR1", "AR10", "AR")
_OF_CLASS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR")
_MEANINGS = {
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
_KINDS = {"bbox": "boxes", "segm": "masks"}
_LONGEST = 32  # characters of a class name


def format_metrics(metrics: Mapping[str, float], details: bool = False) -> str:
    """Tables: overall, and per class where there are several.

    Args:
        details: all figures with their meanings, and those of each class by size.
    """
    kinds = [kind for kind in _KINDS if f"{kind}_AP" in metrics]
    limit = int(metrics.get("max_detections", 0))
    lines = [
        f"{int(metrics['images'])} images" + f", at most {limit} detections each" * bool(limit)
    ]
    lines += _all_figures(metrics, kinds) if details else _overall(metrics, kinds)
    classes = class_names(metrics)
    if len(classes) > 1:
        if details:
            for kind in kinds:
                columns = {name: f"{kind}_{name}" for name in _OF_CLASS}
                lines += ["", *_class_table(metrics, f"{_KINDS[kind]} of", columns, classes)]
        else:
            columns = {f"{kind} AP": f"{kind}_AP" for kind in kinds}
            lines += ["", *_class_table(metrics, "class", columns, classes)]
    if at_limit := int(metrics.get("images_at_limit", 0)):
        lines.append(
            f"images with as many detections as are allowed ({limit}): {at_limit}; "
            "they may hold more, see max_detections"
        )
    return "\n".join(lines)


def metrics_tree(metrics: Mapping[str, float]) -> dict[str, Any]:
    """All figures, for JSON: counts, and "bbox", "segm" with their figures and those of each class
    under "classes"; None where there is nothing to measure one on."""
    tree: dict[str, Any] = {}
    for name, value in metrics.items():
        kind, _, figure = name.partition("_")
        if kind not in _KINDS:
            tree[name] = value
            continue
        part = tree.setdefault(kind, {"classes": {}})
        figure, _, class_name = figure.partition("/")
        place = part["classes"].setdefault(class_name, {}) if class_name else part
        place[figure] = value if value > -1 else None
    return tree


def class_names(metrics: Mapping[str, float]) -> list[str]:
    """The classes that have figures, in their order."""
    prefix = "bbox_AP/" if "bbox_AP" in metrics else "segm_AP/"
    return [name.removeprefix(prefix) for name in metrics if name.startswith(prefix)]


def _overall(metrics: Mapping[str, float], kinds: Sequence[str]) -> list[str]:
    names = [name for name in _SHORT if f"{kinds[0]}_{name}" in metrics]
    lines = ["      " + "".join(f"{name:>8}" for name in names)]
    for kind in kinds:
        lines.append(f"{kind:<6}" + "".join(cell(metrics[f"{kind}_{name}"]) for name in names))
    return lines


def _all_figures(metrics: Mapping[str, float], kinds: Sequence[str]) -> list[str]:
    lines = ["      " + "".join(f"{kind:>8}" for kind in kinds)]
    for name, meaning in _MEANINGS.items():
        if f"{kinds[0]}_{name}" in metrics:
            cells = "".join(cell(metrics[f"{kind}_{name}"]) for kind in kinds)
            lines.append(f"{name:<6}{cells}  {meaning}")
    return lines


def _class_table(
    metrics: Mapping[str, float], title: str, columns: Mapping[str, str], classes: Sequence[str]
) -> list[str]:
    """A row for each class; of many, those with the lowest and the highest AP.

    Args:
        columns: heading -> name of the figure.
    """
    columns = {head: name for head, name in columns.items() if f"{name}/{classes[0]}" in metrics}
    judged = next(name for name in reversed(columns.values()) if name.endswith("_AP"))
    rows, between = list(classes), 0
    notes = []
    if len(classes) > MANY_CLASSES:
        values = {name: metrics[f"{judged}/{name}"] for name in classes}
        known = {name: value for name, value in values.items() if value > -1}
        rows, between = shown_classes(known)
        if left_out := len(classes) - len(known):
            notes.append(f"{left_out} classes without objects are left out")
    width = max([len(title), *(len(cut(name)) for name in rows)])
    space = max(8, max(map(len, columns)) + 3)
    lines = [f"{title:<{width}}" + "".join(f"{head:>{space}}" for head in columns)]
    for place, name in enumerate(rows):
        if between and place == SHOWN:
            lines.append(f"… {between} classes between")
        figures = (metrics[f"{figure}/{name}"] for figure in columns.values())
        lines.append(f"{cut(name):<{width}}" + "".join(f"{cell(f):>{space}}" for f in figures))
    return lines + notes


def shown_classes(values: Mapping[str, float]) -> tuple[list[str], int]:
    """Names in ascending order of their values, of many the first and the last; and how many lie
    between those."""
    names = sorted(values, key=lambda name: values[name])
    if len(names) <= MANY_CLASSES:
        return names, 0
    return [*names[:SHOWN], *names[-SHOWN:]], len(names) - 2 * SHOWN


def cell(value: float) -> str:
    """Eight characters; "-" where there is nothing to measure."""
    return f"{value:8.3f}" if value > -1 else f"{'-':>8}"


def cut(name: str) -> str:
    """A name of at most 32 characters."""
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
