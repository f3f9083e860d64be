"""`mrcnn evaluate --results`: a file of detections is scored without a model and without images."""

import json

import pytest

from mrcnn import evaluate as command
from mrcnn.errors import UserError
from tests.helpers.random_results import metrics_of, random_set, write_files


@pytest.fixture
def folder(tmp_path):
    """A random set as files: truth.json, results.json, and a folder of a data set."""
    truth, entries = random_set(4)
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "val.json").write_text(json.dumps(truth))
    write_files(tmp_path, truth, entries)
    return tmp_path


def evaluate(folder, capsys, *words: str) -> str:
    flags = ["--results", folder / "results.json", *words]
    command.main([str(flag) for flag in flags])
    return capsys.readouterr().out


def test_the_metrics(folder, capsys):
    output = evaluate(folder, capsys, "--ground-truth", folder / "truth.json")
    truth, entries = random_set(4)
    for kind in ("bbox", "segm"):
        metrics = metrics_of(truth, entries, kind)
        row = next(line for line in output.splitlines() if line.startswith(kind))
        assert row.split()[1:4] == [f"{metrics[name]:.3f}" for name in ("AP", "AP50", "AP75")]
    assert "5 images, at most 100 detections each" in output
    assert f"detections: {folder / 'results.json'}" in output
    assert evaluate(folder, capsys, "--data", folder / "data") == output
    images, file = folder / "data" / "images", folder / "data" / "val.json"
    images.rename(folder / "elsewhere")
    moved = evaluate(folder, capsys, "--data", file, "--images", folder / "elsewhere")
    assert moved.partition("bbox")[2] == output.partition("bbox")[2]


def test_some_images_and_fewer_detections(folder, capsys):
    truth, entries = random_set(4)
    chosen = [image["id"] for image in truth["images"][:2]]
    (folder / "ids").write_text("\n".join(map(str, chosen)))
    flags = ["--image-ids", folder / "ids", "--max-dets", "3"]
    output = evaluate(folder, capsys, "--ground-truth", folder / "truth.json", *flags)
    assert "2 images, at most 3 detections each" in output
    ap = metrics_of(truth, entries, "segm", 3, chosen)["AP"]
    assert f"segm  {ap:8.3f}" in output


def test_detections_of_unknown_categories(folder, capsys):
    """A file with labels 0 … C-1 instead of category ids would score next to nothing, silently."""
    truth, entries = random_set(4)
    for entry in entries:
        entry["category_id"] = [c["id"] for c in truth["categories"]].index(entry["category_id"])
    write_files(folder, truth, entries)
    output = evaluate(folder, capsys, "--ground-truth", folder / "truth.json")
    wrong = sum(entry["category_id"] != 2 for entry in entries)
    assert (
        f"{wrong} of {len(entries)} detections are left out: the annotations have no category "
        "0, 1, 3\n" in output
    )


WRONG = {
    "nothing to score": (["--data", "d"], "name either --weights, to detect, or --results"),
    "both": (["--weights", "w", "--results", "r", "--data", "d"], "name either --weights, to"),
    "no truth": (["--results", "r"], "name either --data, the folder of a data set, or --ground"),
    "two truths": (["--results", "r", "--data", "d", "--ground-truth", "g"], "either --data, the"),
    "no images": (["--weights", "w", "--ground-truth", "g"], "--weights needs images: name --data"),
    "written again": (
        ["--results", "r", "--data", "d", "--out", "o"],
        "--results needs no model",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_flags_that_do_not_go_together(case):
    words, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        command.main(words)


def test_all_metrics_as_json(folder, capsys):
    out = folder / "new" / "metrics.json"
    evaluate(folder, capsys, "--ground-truth", folder / "truth.json", "--json", out)
    content = json.loads(out.read_text())
    truth, entries = random_set(4)
    for kind in ("bbox", "segm"):
        for name, value in metrics_of(truth, entries, kind).items():
            metric, _, class_name = name.partition("/")
            part = content[kind]["classes"][class_name] if class_name else content[kind]
            assert part[metric] == (value if value > -1 else None)
    assert (content["images"], content["max_detections"]) == (5, 100)
    assert content["results"] == str(folder / "results.json")
    assert content["ground_truth"] == str(folder / "truth.json")
    assert content["weights"] is None


def test_details(folder, capsys):
    output = evaluate(folder, capsys, "--ground-truth", folder / "truth.json", "--details")
    assert "ARl" in output
    assert "masks of" in output
