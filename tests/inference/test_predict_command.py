"""`mrcnn predict`: inputs, overlays, the COCO file, and resuming."""

import csv
import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

import mrcnn
from mrcnn.data.images import read_size
from mrcnn.errors import UserError
from mrcnn.inference import prediction_files
from mrcnn.inference.sources import Source, overlay_names
from mrcnn.ops import rle
from tests.helpers import predicting, tiny
from tests.helpers.predicting import interrupted_after, predict, read
from tests.helpers.tiny import noise


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder of seven images, two of them a folder deeper."""
    folder = tmp_path / "in"
    (folder / "deeper").mkdir(parents=True)
    for seed, name in enumerate(["a", "b", "c", "d", "e", "deeper/a", "deeper/f"]):
        size = (90, 30) if name == "c" else (40, 60)
        Image.fromarray(noise(*size, seed)).save(folder / f"{name}.png")
    return folder


def names(out: Path) -> list[str]:
    return [Path(image["file_name"]).name for image in read(out)["images"]]


def test_a_folder_with_broken_files(tmp_path, weights, capsys):
    """Readable images get overlays, broken ones are listed, and the exit code is 2."""
    folder = tmp_path / "in"
    (folder / "deeper").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "deeper/a.png"):
        Image.fromarray(noise(40, 60)).save(folder / name)
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:500])
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").write_text("no image, and not asked for")
    out = tmp_path / "out"
    assert predict(weights, out, folder, folder / "deeper" / "a.png") == 2
    output = capsys.readouterr()
    assert "2 of 5 images failed" in output.err
    assert f"{folder / 'broken.png'}: cannot be read" in output.err
    assert f"{folder / 'empty.jpg'}: is empty" in output.err
    assert f"[1/5] {folder / 'a.png'}: " in output.out
    assert f"3 overlays and predictions.json in {out}" in output.out
    assert sorted(path.name for path in out.iterdir()) == [
        "a.jpg", "a_2.jpg", "b.jpg", "predictions.json", "predictions.jsonl"
    ]  # fmt: skip

    content = json.loads((out / "predictions.json").read_text())
    files = {image["id"]: image["file_name"] for image in content["images"]}
    assert list(files.values()) == [
        str(folder / name) for name in ("a.png", "b.jpg", "deeper/a.png")
    ]
    assert len(content["annotations"]) == 60
    assert {entry["image_id"] for entry in content["annotations"]} == set(files)
    assert content["categories"] == [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    read = COCO(out / "predictions.json")
    assert read.annToMask(content["annotations"][0]).shape == (40, 60)


def test_an_input_is_never_overwritten(tmp_path, weights):
    Image.fromarray(noise(40, 60)).save(tmp_path / "a.jpg")
    before = (tmp_path / "a.jpg").read_bytes()
    for place, message in (
        (tmp_path, "is a folder of images, .*; name another folder"),
        (tmp_path / "a.jpg", r"would overwrite .*a\.jpg; choose another folder"),
    ):
        with pytest.raises(UserError, match=message):
            predict(weights, tmp_path, place)
    assert (tmp_path / "a.jpg").read_bytes() == before
    assert list(tmp_path.iterdir()) == [tmp_path / "a.jpg"]


def test_no_detections_suggest_a_lower_threshold(images, weights, tmp_path, capsys):
    assert predict(weights, tmp_path, images / "a.png", "--class-threshold", "cat=1", "dog=1") == 0
    assert (
        "no detections above the score threshold; lower --score-threshold"
        in capsys.readouterr().out
    )
    assert predict(weights, tmp_path / "more", images / "a.png") == 0
    assert "--score-threshold" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["predictions.json", "predictions.jsonl", "a.jpg"])
def test_files_in_the_folder_are_not_overwritten(images, weights, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(UserError, match=name):
        predict(weights, out, images / "a.png")
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_text() == "mine"


def test_a_second_run_needs_resume(images, weights, tmp_path):
    assert predict(weights, tmp_path, images / "a.png") == 0
    with pytest.raises(UserError, match=r"predictions\.json: exists; choose another --out, or add"):
        predict(weights, tmp_path, images / "b.png")
    assert predict(weights, tmp_path, images / "b.png", "--resume") == 0


def test_batches_give_the_same_file(images, weights, tmp_path):
    """Batches change predictions by rounding only, and not the order of the images."""
    outs = [tmp_path / str(size) for size in (1, 3)]
    for size, out in zip((1, 3), outs, strict=True):
        assert predict(weights, out, images, "--no-overlays", "--batch-size", size) == 0
        assert {path.name for path in out.iterdir()} == {"predictions.json", "predictions.jsonl"}
    one, three = (read(out) for out in outs)
    assert one["images"] == three["images"]
    for a, b in zip(one["annotations"], three["annotations"], strict=True):
        assert (a["id"], a["image_id"], a["category_id"]) == (
            b["id"], b["image_id"], b["category_id"]
        )  # fmt: skip
        assert a["bbox"] == pytest.approx(b["bbox"], abs=1e-2)


def test_subfolders(images, weights, tmp_path):
    """Overlays are written to the same subfolders, and are not searched in a second run."""
    out = images / "found"
    for flags in ((), ("--resume",)):
        assert predict(weights, out, images, "--recursive", *flags) == 0
        assert names(out) == ["a.png", "b.png", "c.png", "d.png", "a.png", "f.png", "e.png"]
        assert (out / "deeper" / "a.jpg").is_file()
        assert (out / "a.jpg").is_file()


def test_tables_and_label_images(images, weights, tmp_path, capsys):
    """They have the objects of the COCO file; a resumed run has those of all images."""
    out, words = tmp_path / "out", ("--recursive", "--no-overlays", "--masks")
    assert predict(weights, out, images / "a.png", *words) == 0
    assert predict(weights, out, images, *words, "--csv", "--resume") == 0
    printed = capsys.readouterr().out
    assert f"6 label images, predictions.csv and predictions.json in {out}" in printed
    content = read(out)
    with (out / "predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(content["annotations"]) == 7 * 20
    class_names, files = {3: "cat", 7: "dog"}, {i["id"]: i["file_name"] for i in content["images"]}
    for row, entry in zip(table, content["annotations"], strict=True):
        assert row["image"] == files[entry["image_id"]]
        assert row["name"] == class_names[entry["category_id"]]
        assert float(row["score"]) == pytest.approx(entry["score"], abs=1e-6)
        assert float(row["area"]) == rle.area(entry["segmentation"])
        assert float(row["x2"]) == pytest.approx(sum(entry["bbox"][::2]), abs=1e-3)
    assert len(list((out / "masks").rglob("*.png"))) == 7
    with Image.open(out / "masks" / "a.png") as image:
        result = mrcnn.load(weights).predict(images / "a.png", 0)
        np.testing.assert_array_equal(np.asarray(image), result.label_image())
    (images.parent / "b").mkdir()
    Image.fromarray(noise(40, 60)).save(images.parent / "b" / "a.png")
    assert predict(weights, out, images.parent / "b" / "a.png", *words, "--resume") == 0
    assert (out / "masks" / "a_2.png").is_file()  # the name of the first is taken
    with pytest.raises(UserError, match="--masks True"):
        predict(weights, out, images, "--no-overlays", "--resume")


@pytest.mark.parametrize("name", ["masks/a.png", "predictions.csv"])
def test_other_tables_and_label_images_are_kept(images, weights, tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(UserError, match=name):
        predict(weights, tmp_path / "out", images / "a.png", "--masks", "--csv")
    assert path.read_text() == "mine"


def test_label_images_need_masks(images, tmp_path):
    weights = tiny.run(tmp_path / "run", dataclasses.replace(tiny.CONFIG, masks=False))
    with pytest.raises(UserError, match=r"--masks: .* detects boxes only; omit it"):
        predict(weights, tmp_path / "out", images / "a.png", "--masks")


def test_patterns_and_lists(images, weights, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert predict(weights, out, images / "**" / "a.*", "--no-overlays") == 0
    assert names(out) == ["a.png", "a.png"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{images / 'b.png'}\n\n{images / 'a.png'}\n"))
    assert predict(weights, tmp_path / "list", "-", "--no-overlays") == 0
    assert names(tmp_path / "list") == ["b.png", "a.png"]
    for listed in ("", "-\n"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(listed))
        with pytest.raises(UserError, match="standard input must list files"):
            predict(weights, out, "-")
    with pytest.raises(UserError, match=r"\*\.gif: matches no images"):
        predict(weights, out, images / "*.gif")
    (images / "deeper").rename(images.parent / "deeper")
    (images / "empty" / "inner").mkdir(parents=True)
    with pytest.raises(UserError, match=r"has no images .*--recursive"):
        predict(weights, out, images / "empty")


def test_thresholds_of_classes(images, weights, tmp_path):
    predict(weights, tmp_path, images / "a.png", "--no-overlays")
    scores = sorted(entry["score"] for entry in read(tmp_path)["annotations"])
    assert predict(
        weights, tmp_path / "classes", images / "a.png", "--no-overlays",
        "--class-threshold", f"cat={scores[0]}", f"dog={scores[-3]}",
    ) == 0  # fmt: skip
    found = read(tmp_path / "classes")["annotations"]
    assert sum(entry["category_id"] == 7 for entry in found) <= 3 <= len(found)


@pytest.mark.parametrize("flags", [("--tiles", 32), ("--tta",), ("--tiles", 40, "--tta")])
def test_tiles_and_views(images, weights, tmp_path, flags):
    """The command and Python give the same objects for the same options."""
    assert predict(weights, tmp_path, images / "a.png", "--no-overlays", *flags) == 0
    options = {"tiles": flags[1]} if flags[0] == "--tiles" else {}
    model = mrcnn.load(weights, score_threshold=0.0)
    found = model.predict(images / "a.png", 0, tta=flags[-1] == "--tta", **options)
    expected = [(entry["category_id"], entry["bbox"]) for entry in found.to_coco(1)]
    entries = read(tmp_path)["annotations"]
    assert [(entry["category_id"], entry["bbox"]) for entry in entries] == expected


BAD_THRESHOLDS = {
    "no number": ("cat=high", "--class-threshold cat=high: must be name=score"),
    "no name": ("0.5", "must be name=score, with a score in [0, 1]"),
    "percent": ("cat=70", "--class-threshold cat=70: must be"),
    "unknown class": (
        "cta=0.5",
        "the model has no class 'cta'; use one of its classes, such as cat",
    ),
}


@pytest.mark.parametrize("case", BAD_THRESHOLDS)
def test_bad_thresholds(images, weights, tmp_path, case):
    word, message = BAD_THRESHOLDS[case]
    with pytest.raises(UserError) as error:
        predict(weights, tmp_path / "out", images, "--class-threshold", word)
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_names_of_overlays():
    sources = [Source(Path(name), Path(name)) for name in ("a.png", "A.jpg", "b/a.png", "a.x.gif")]
    assert overlay_names(sources) == ["a.jpg", "A_2.jpg", "b/a.jpg", "a.x.jpg"]
    assert overlay_names(sources[:1], ["A.jpg", "a_2.jpg"]) == ["a_3.jpg"]
    assert overlay_names([Source(Path(":.png"), Path(":.png"))]) == [".jpg"]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_resume(images, weights, tmp_path, capsys, count):
    """Finished images are kept, and the files are bit-identical to those of a whole run."""
    predict(weights, tmp_path / "whole", images)
    out = tmp_path / "out"
    with interrupted_after(count), pytest.raises(KeyboardInterrupt):
        predict(weights, out, images)
    assert not (out / "predictions.json").exists()
    assert len((out / "predictions.jsonl").read_bytes().splitlines()) == count + 2
    capsys.readouterr()
    assert predict(weights, out, images, "--resume") == 0
    output = capsys.readouterr().out
    assert output.count("img/s") == 5 - count
    assert output.endswith(f", {count} images were already finished\n" if count else f"in {out}\n")
    for name in ("predictions.json", "predictions.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(list(out.glob("*.jpg"))) == 5


def test_resume_with_new_images(images, weights, tmp_path):
    """Names of new overlays do not clash with old ones, and a failed image is tried again."""
    (images / "empty.png").touch()
    assert predict(weights, tmp_path / "out", images) == 2
    first = (tmp_path / "out" / "a.jpg").read_bytes()
    Image.fromarray(noise(40, 60, 9)).save(images / "a.bmp")
    Image.fromarray(noise(40, 60, 8)).save(images / "empty.png")
    assert predict(weights, tmp_path / "out", images, "--resume") == 0
    assert names(tmp_path / "out") == [
        "a.bmp", "a.png", "b.png", "c.png", "d.png", "e.png", "empty.png"
    ]  # fmt: skip
    assert (tmp_path / "out" / "a.jpg").read_bytes() == first
    assert (tmp_path / "out" / "a_2.jpg").is_file()


def test_resume_requires_the_same_settings(images, weights, tmp_path):
    predict(weights, tmp_path / "out", images / "a.png")
    before = (tmp_path / "out" / "predictions.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"made with --max-dets None; use the same"):
        predict(weights, tmp_path / "out", images, "--resume", "--max-dets", 3)
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == before


def test_set_changes_fields_of_the_model(images, weights, tmp_path):
    """Whatever is set determines the predictions, so a resumed run must set the same."""
    flags = ("--score-threshold", "0", "--no-overlays")
    assert predict(weights, tmp_path / "all", images, *flags) == 0
    assert predict(weights, tmp_path / "one", images, *flags, "--set", "max_detections=1") == 0
    counts = [len(read(tmp_path / name)["annotations"]) for name in ("all", "one")]
    assert counts[0] > counts[1] == 5
    with pytest.raises(UserError, match="--set"):
        predict(weights, tmp_path / "one", images, *flags, "--set", "max_detections=2", "--resume")


def test_damaged_lines_are_reported(images, weights, tmp_path):
    predict(weights, tmp_path / "out", images)
    lines = tmp_path / "out" / "predictions.jsonl"
    lines.write_bytes(lines.read_bytes().replace(b'"file_name"', b'"file', 1))
    with pytest.raises(UserError, match=r"predictions\.jsonl: line 2 is damaged"):
        predict(weights, tmp_path / "out", images, "--resume")


def test_lines_of_several_processes(tmp_path):
    """The lines of other processes are kept after a crash, except an incomplete one."""
    settings = {"--max-dets": 3}
    prediction_files.begin(tmp_path, settings)
    for rank, files in enumerate((["b", "c"], ["a", "d"])):
        lines = prediction_files.Lines(tmp_path, rank)
        for name in files:
            record = {"image": {"file_name": name}, "overlay": f"{name}.jpg"}
            lines.write({**record, "annotations": [{"category_id": 1}]})
        lines.close()
    with (tmp_path / "predictions.1.jsonl").open("ab") as file:
        file.write(b'{"image"')
    done = prediction_files.resume(tmp_path, settings)
    assert done == {name: f"{name}.jpg" for name in "abcd"}
    assert not (tmp_path / "predictions.1.jsonl").exists()
    categories = [{"id": 1, "name": "cat"}]
    prediction_files.finish(tmp_path, ["a", "b", "c"], categories)
    content = read(tmp_path)
    assert [image["file_name"] for image in content["images"]] == ["a", "b", "c", "d"]
    assert [image["id"] for image in content["images"]] == [1, 2, 3, 4]
    assert [(e["id"], e["image_id"]) for e in content["annotations"]] == [
        (1, 1), (2, 2), (3, 3), (4, 4)
    ]  # fmt: skip
    assert content["categories"] == categories


@pytest.mark.slow
def test_two_processes_share_the_images(images, weights, tmp_path):
    """Two processes write the same file as one."""
    assert predict(weights, tmp_path / "one", images) == 0
    words = ["--weights", weights, "--out", tmp_path / "two", "--score-threshold", 0]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2,
        "-m", "mrcnn.predict", images, *words, "--device", "cpu",
    ]  # fmt: skip
    done = subprocess.run(map(str, command), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"5 overlays and predictions.json in {tmp_path / 'two'}" in done.stdout
    expected = (tmp_path / "one" / "predictions.json").read_bytes()
    assert (tmp_path / "two" / "predictions.json").read_bytes() == expected
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(shared_data, weights, tmp_path):
    """Three times as many images take less memory than a tenth of the additional pixels."""
    files = sorted((shared_data / "coco_mini" / "images").iterdir())
    assert len(files) == 139
    for copy in "abc":
        (tmp_path / copy).mkdir()
        for path in files:
            (tmp_path / copy / path.name).symlink_to(path)
    peaks = []
    for number, folders in enumerate(("a", "abc")):
        out, paths = tmp_path / str(number), [tmp_path / name for name in folders]
        peaks.append(predicting.peak_memory(weights, out, *paths, "--batch-size", 4))
        assert len(read(out)["annotations"]) == 20 * 139 * len(folders)
    pixels = sum(3 * np.prod(read_size(path)) for path in files)
    assert peaks[1] - peaks[0] < 2 * pixels / 10
