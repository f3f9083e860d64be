"""`mrcnn compare`: where B is better than A, overall, per class and per image."""

import copy
import json
from collections import Counter

import pytest

from mrcnn import compare as command
from mrcnn.errors import UserError
from tests.helpers.random_results import metrics_of, random_set
from tests.reports.test_run_report import ROWS, Reader, make_run


def busiest(truth: dict) -> int:
    return Counter(r["image_id"] for r in truth["annotations"]).most_common(1)[0][0]


@pytest.fixture
def folder(tmp_path):
    """truth.json, a.json, and b.json, which lacks what A found in the busiest image."""
    truth, a = random_set(4)
    lost = busiest(truth)
    b = [entry for entry in copy.deepcopy(a) if entry["image_id"] != lost]
    (tmp_path / "data" / "images").mkdir(parents=True)
    for path, content in (("truth", truth), ("data/val", truth), ("a", a), ("b", b)):
        (tmp_path / f"{path}.json").write_text(json.dumps(content, default=bytes.decode))
    return tmp_path


def compare(folder, capsys, *words: object, sides: tuple = ("a.json", "b.json")) -> str:
    sides = [folder / side for side in sides]
    command.main([str(word) for word in (*sides, *words)])
    return capsys.readouterr().out


def test_the_tables(folder, capsys):
    lines = compare(folder, capsys, "--ground-truth", folder / "truth.json").splitlines()
    truth = json.loads((folder / "truth.json").read_text())
    a, b = (json.loads((folder / f"{side}.json").read_text()) for side in "ab")
    assert lines[:3] == [
        f"A: {folder / 'a.json'}",
        f"B: {folder / 'b.json'}",
        "5 images, at most 100 detections each",
    ]
    first, second = (metrics_of(truth, side, "segm") for side in (a, b))
    assert second["AP"] < first["AP"]
    row = next(line for line in lines if line.startswith("AP "))
    expected = [f"{first['AP']:.3f}", f"{second['AP']:.3f}", f"{second['AP'] - first['AP']:+.3f}"]
    assert row.split()[4:] == expected
    start = next(i for i, line in enumerate(lines) if line.startswith("class"))
    rows = [line.split() for line in lines[start + 1 : start + 4]]
    assert {row[0] for row in rows} == {"cat", "dog", "cow"}  # owls have no ground truth
    assert rows == sorted(rows, key=lambda row: float(row[3]))
    for name, a_cell, b_cell, change in rows:
        assert a_cell == f"{first['AP/' + name]:.3f}"
        assert b_cell == f"{second['AP/' + name]:.3f}"
        assert change == f"{second['AP/' + name] - first['AP/' + name]:+.3f}"


def test_images(folder, capsys):
    lost = busiest(json.loads((folder / "truth.json").read_text()))
    out = folder / "metrics.json"
    flags = ["--ground-truth", folder / "truth.json", "--json", out]
    output = compare(folder, capsys, *flags)
    f1 = {row["id"]: (row["a"], row["b"]) for row in json.loads(out.read_text())["images"]["f1"]}
    assert f1[lost][0] > f1[lost][1] == 0
    worse = sum(a > b for a, b in f1.values())
    better = sum(a < b for a, b in f1.values())
    equal = len(f1) - worse - better
    assert f"B is better in {better}, A in {worse}, and {equal} are equal" in output
    assert f"A is better by {f1[lost][0]:.2f} ({f1[lost][0]:.2f}, 0.00): {lost}.png" in output


def test_a_result_against_itself(folder, capsys):
    output = compare(folder, capsys, "--data", folder / "data", sides=("a.json", "a.json"))
    assert "B is better in 0, A in 0, and 5 are equal" in output
    assert "better by" not in output
    assert "+0.000" in output


def test_run_folders(folder, capsys):
    """The detections of the best weights, else those that evaluate wrote; the larger limit."""
    for name, side, file in (("1", "a", "val_results"), ("2", "b", "coco_results_val")):
        (folder / name).mkdir()
        (folder / f"{side}.json").rename(folder / name / f"{file}.json")
        content = {"model": {"max_detections": 30 * int(name)}}
        (folder / name / "config.json").write_text(json.dumps(content))
    output = compare(folder, capsys, "--data", folder / "data", sides=("1", "2"))
    assert f"B: {folder / '2' / 'coco_results_val.json'}" in output
    assert "5 images, at most 60 detections each" in output
    (folder / "3").mkdir()
    with pytest.raises(UserError, match=r"3: holds no val_results\.json and no coco_res"):
        compare(folder, capsys, "--data", folder / "data", sides=("1", "3"))
    (folder / "1" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"model\.max_detections must be a whole number"):
        compare(folder, capsys, "--data", folder / "data", sides=("1", "2"))


def test_the_page(folder, tmp_path, capsys):
    """Curves of two runs over each other, metrics, classes, and images where one is better."""
    runs = [make_run(folder / side, rows=rows) for side, rows in (("x", ROWS), ("y", ROWS[:2]))]
    entries = json.loads((runs[1] / "val_results.json").read_text())
    lost = [entry for entry in entries if entry["image_id"] != 3]
    (runs[1] / "val_results.json").write_text(json.dumps(lost))
    page = tmp_path / "page.html"
    words = ("--ground-truth", folder / "x" / "data" / "val.json", "--html", page)
    output = compare(folder, capsys, *words, sides=("x/run", "y/run"))
    assert output.endswith(f"page: {page}\n")
    reader = Reader(page.read_text())
    change = next(line.split()[3] for line in output.splitlines() if line.startswith("AP "))
    for part in ("A: training 2", "B: training 2.5", "A: masks 0.3", "B: masks 0.4", "AP50", change,
                 "A: AP at IoU 0.5", "Classes, by their change of AP", "A is better: 3.png",
                 "A: F1 1.00", "B: F1 0.00"):  # fmt: skip
        assert part in reader.text
    assert page.read_text().count("<img") == 2
    compare(folder, capsys, *words, sides=("x/run", "y/run"))  # over its own page
    page.write_text("mine")
    with pytest.raises(UserError, match="was not written by this command"):
        compare(folder, capsys, *words, sides=("x/run", "y/run"))


def test_the_page_of_files_without_images(folder, tmp_path, capsys):
    words = ("--ground-truth", folder / "truth.json", "--html", tmp_path / "page.html")
    compare(folder, capsys, *words)
    text = (tmp_path / "page.html").read_text()
    assert "<img" not in text
    assert "Training curves" not in text


def test_boxes_against_masks(folder, capsys):
    for side, field in (("a", "bbox"), ("b", "segmentation")):
        entries = json.loads((folder / f"{side}.json").read_text())
        for entry in entries:
            del entry[field]
        (folder / f"{side}.json").write_text(json.dumps(entries))
    with pytest.raises(UserError, match="one has boxes only, the other masks only"):
        compare(folder, capsys, "--ground-truth", folder / "truth.json")


def test_many_classes(folder, capsys):
    """The ten that lose and the ten that gain most."""
    truth = json.loads((folder / "truth.json").read_text())
    truth["categories"] = [{"id": i, "name": f"class {i}"} for i in range(1, 81)]
    for i, record in enumerate(truth["annotations"] * 3):
        truth["annotations"].append({**record, "id": 1000 + i, "category_id": i % 40 + 1})
    (folder / "truth.json").write_text(json.dumps(truth))
    output = compare(folder, capsys, "--ground-truth", folder / "truth.json")
    assert "classes between" in output
    assert len(output.splitlines()) < 60
