"""Tables of metrics: short for the log of a run, in full on request, readable with many classes."""

import json

import pytest

from mrcnn.evaluation.tables import format_metrics, metrics_tree
from tests.helpers.random_results import METRICS, PER_CLASS


def metrics_of(classes: dict[str, float], kinds=("bbox", "segm")) -> dict[str, float]:
    """Return metrics of classes with this AP; masks are 0.01 worse."""
    metrics = {"images": 3, "max_detections": 100, "images_at_limit": 0}
    for kind in kinds:
        metrics |= {f"{kind}_{name}": 0.25 for name in METRICS} | {f"{kind}_APl": -1.0}
        for name, value in classes.items():
            value = value - 0.01 * (kind == "segm") if value > -1 else -1
            metrics |= {f"{kind}_{metric}/{name}": value for metric in PER_CLASS}
    return metrics


def test_tables():
    metrics = metrics_of({"cat": 0.5, "polar bear": -1.0})
    assert format_metrics(metrics).splitlines() == [
        "3 images, at most 100 detections each",
        "            AP    AP50    AP75     APs     APm     APl     AR1    AR10      AR",
        "bbox     0.250   0.250   0.250   0.250   0.250       -   0.250   0.250   0.250",
        "segm     0.250   0.250   0.250   0.250   0.250       -   0.250   0.250   0.250",
        "",
        "class        bbox AP   segm AP",
        "cat            0.500     0.490",
        "polar bear         -         -",
    ]


def test_details():
    """All 12 metrics of each kind, and 7 of each class."""
    lines = format_metrics(metrics_of({"cat": 0.5, "dog": 0.25}), details=True).splitlines()
    assert lines[1].split() == ["bbox", "segm"]
    assert [line.split()[0] for line in lines[2:14]] == list(METRICS)
    assert lines[7].split()[:3] == ["APl", "-", "-"]
    assert lines[8] == "AR1      0.250   0.250  recall with 1 detection"
    assert lines[15].split() == ["boxes", "of", *PER_CLASS]
    assert lines[16].split() == ["cat"] + ["0.500"] * 7
    assert lines[19].split() == ["masks", "of", *PER_CLASS]
    assert lines[21].split() == ["dog"] + ["0.240"] * 7
    assert max(map(len, lines)) <= 80


def test_boxes_only_and_one_class():
    lines = format_metrics(metrics_of({"cat": 0.5}, ("bbox",))).splitlines()
    assert [line.split()[0] for line in lines] == ["3", "AP", "bbox"]


@pytest.mark.parametrize("count", [25, 80, 1203])
@pytest.mark.parametrize("details", [False, True])
def test_many_classes(count, details):
    """The ten lowest and the ten highest, by the AP of masks; those without objects are counted."""
    classes = {f"class {i} {'long' * 20}": i * 7 % count / count for i in range(count)}
    metrics = metrics_of(classes | {"unicorn": -1.0, "dodo": -1.0})
    lines = format_metrics(metrics, details).splitlines()
    assert len(lines) < 70
    assert max(map(len, lines)) <= 90
    assert "2 classes without objects are left out" in lines
    assert f"… {count - 20} classes between" in lines
    lowest = next(i for i, line in enumerate(lines) if line.startswith("class 0 "))
    assert not lines[lowest - 1].startswith("class ") or lines[lowest - 1].split()[1] == "bbox"
    highest = max(classes, key=classes.get)
    assert any(line.startswith(highest[:20]) for line in lines)
    assert len(metrics_tree(metrics)["segm"]["classes"]) == count + 2


def test_the_tree_for_machines():
    tree = metrics_tree(metrics_of({"a/b": 0.5, "dog": -1.0}))
    assert tree["images"] == 3
    assert tree["bbox"]["AP"] == 0.25
    assert tree["bbox"]["APl"] is None
    assert set(tree["segm"]) == {*METRICS, "classes"}
    assert tree["segm"]["classes"]["a/b"] == dict.fromkeys(PER_CLASS, 0.49)
    assert tree["segm"]["classes"]["dog"]["AP"] is None
    assert json.loads(json.dumps(tree, allow_nan=False)) == tree
