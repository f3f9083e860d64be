"""`mrcnn evaluate --results`: a file of detections is scored without a model and without images."""

import json

import pytest
from random_results import random_set

from mrcnn import evaluate as verb
from mrcnn.coco_scores import score_results
from mrcnn.errors import UserError


@pytest.fixture
def place(tmp_path):
    """A random set as files: truth.json, results.json, and a folder of a data set."""
    truth, entries = random_set(4)
    (tmp_path / "data" / "images").mkdir(parents=True)
    for path in (tmp_path / "truth.json", tmp_path / "data" / "val.json"):
        path.write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(entries, default=bytes.decode))
    return tmp_path


def evaluate(place, capsys, *words: str) -> str:
    flags = ["--results", place / "results.json", *words]
    verb.main([str(flag) for flag in flags])
    return capsys.readouterr().out


def test_the_figures(place, capsys):
    output = evaluate(place, capsys, "--ground-truth", place / "truth.json")
    truth, entries = random_set(4)
    for kind in ("bbox", "segm"):
        figures = score_results(truth, entries, kind)
        row = next(line for line in output.splitlines() if line.startswith(kind))
        assert row.split()[1:4] == [f"{figures[name]:.3f}" for name in ("AP", "AP50", "AP75")]
    assert "5 images, at most 100 detections each" in output
    assert f"detections: {place / 'results.json'}" in output
    assert evaluate(place, capsys, "--data", place / "data") == output


def test_some_images_and_fewer_detections(place, capsys):
    truth, entries = random_set(4)
    chosen = [image["id"] for image in truth["images"][:2]]
    (place / "ids").write_text("\n".join(map(str, chosen)))
    flags = ["--image-ids", place / "ids", "--max-dets", "3"]
    output = evaluate(place, capsys, "--ground-truth", place / "truth.json", *flags)
    assert "2 images, at most 3 detections each" in output
    ap = score_results(truth, entries, "segm", 3, chosen)["AP"]
    assert f"segm  {ap:8.3f}" in output


def test_detections_of_unknown_categories_are_told(place, capsys):
    """A file with labels 0 … C-1 in place of category ids scores next to nothing, silently."""
    truth, entries = random_set(4)
    for entry in entries:
        entry["category_id"] = [c["id"] for c in truth["categories"]].index(entry["category_id"])
    (place / "results.json").write_text(json.dumps(entries, default=bytes.decode))
    output = evaluate(place, capsys, "--ground-truth", place / "truth.json")
    wrong = sum(entry["category_id"] != 2 for entry in entries)
    assert (
        f"{wrong} of {len(entries)} detections are left out: the annotations have no category "
        "0, 1, 3\n" in output
    )


WRONG = {
    "nothing to score": (["--data", "d"], "name either --weights, to detect, or --results"),
    "both": (["--weights", "w", "--results", "r", "--data", "d"], "name either --weights, to"),
    "no truth": (["--results", "r"], "name either --data, the folder of a data set, or --ground"),
    "two truths": (
        ["--results", "r", "--data", "d", "--ground-truth", "g"],
        "either --data, the",
    ),
    "no images": (["--weights", "w", "--ground-truth", "g"], "--weights needs images: name --data"),
    "written anew": (["--results", "r", "--data", "d", "--out", "o"], "no detections are written"),
}


@pytest.mark.parametrize("case", WRONG)
def test_flags_that_do_not_go_together(case):
    words, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        verb.main(words)


def test_all_figures_for_machines(place, capsys):
    out = place / "new" / "figures.json"
    evaluate(place, capsys, "--ground-truth", place / "truth.json", "--json", out)
    content = json.loads(out.read_text())
    truth, entries = random_set(4)
    for kind in ("bbox", "segm"):
        for name, value in score_results(truth, entries, kind).items():
            figure, _, of_class = name.partition("/")
            part = content[kind]["classes"][of_class] if of_class else content[kind]
            assert part[figure] == (value if value > -1 else None)
    assert (content["images"], content["max_detections"]) == (5, 100)
    assert content["results"] == str(place / "results.json")
    assert content["ground_truth"] == str(place / "truth.json")
    assert content["weights"] is None


def test_details(place, capsys):
    output = evaluate(place, capsys, "--ground-truth", place / "truth.json", "--details")
    assert "ARl" in output
    assert "masks of" in output
