"""`mrcnn check-data`: every planted fault is found, sound data has none, copies come out clean."""

import hashlib
import json
import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from pycocotools import mask as codec

from mrcnn.cli import app
from mrcnn.cli.flags import fields_set, parse
from mrcnn.config import MODELS, ModelConfig
from mrcnn.data.checks.check import CHECKS, run_checks
from mrcnn.data.checks.findings import ERROR, Finding
from mrcnn.data.checks.read import read_leniently
from mrcnn.ops import rle
from mrcnn.training.config import TrainConfig
from tests.helpers import annotation_writers as writers
from tests.helpers import planted_faults
from tests.helpers.damaged_copy import Copy, Planted

PAGE = Path(__file__).resolve().parents[2] / "docs" / "check-data.md"
# Findings in the 139 real images: COCO's own annotators left two slips.
REAL = [
    ("image without objects", 508, None),
    ("image without objects", 58636, None),
    ("image without objects", 226111, None),
    ("mask of the whole image", 99053, 1966294),  # a dining table
    ("area of something else", 329323, 900100329323),  # of a crowd
]


def findings_of(folder: Path, workers: int = 0) -> list[Finding]:
    data = read_leniently(folder)
    run_checks(data, workers, lambda done: None)
    return data.findings


@pytest.fixture(scope="module")
def damaged(shared_data, tmp_path_factory) -> tuple[Path, dict[str, list[Planted]]]:
    copy = Copy(shared_data / "coco_mini", tmp_path_factory.mktemp("damaged") / "data")
    return copy.folder, planted_faults.plant(copy)


@pytest.fixture(scope="module")
def found(damaged) -> list[Finding]:
    return findings_of(damaged[0])


@pytest.mark.parametrize("fault", planted_faults.FAULTS)
def test_a_planted_fault_is_found(damaged, found, fault):
    for kind, text, image, annotation, split in damaged[1][fault]:
        same = [
            f.text
            for f in found
            if (f.kind, f.image, f.annotation, f.split) == (kind, image, annotation, split)
            if text in f.text
        ]
        assert len(same) == 1


def test_nothing_else_is_found(damaged, found, shared_data):
    """Besides the planted faults, there is the findings in the real images."""
    _, planted = damaged
    expected = Counter((p.kind, p.image, p.annotation) for ps in planted.values() for p in ps)
    expected += Counter(REAL)
    expected["gaps in category ids", None, None] += 2
    content = json.loads((shared_data / "coco_mini" / "annotations.json").read_text())
    train = {image["id"] for image in content["images"][:120]}
    for is_train in (True, False):
        used = {
            a["category_id"]
            for a in content["annotations"]
            if (a["image_id"] in train) == is_train and not a["iscrowd"]
        }
        unused = sum(c["id"] not in used for c in content["categories"])
        expected["class without instances", None, None] += unused
    assert Counter((f.kind, f.image, f.annotation) for f in found) == expected


def test_every_check_is_tested(damaged):
    planted = {p.kind for ps in damaged[1].values() for p in ps}
    assert set(CHECKS) - planted == {"gaps in category ids", "missing split"}


def test_every_check_is_documented():
    text = PAGE.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith(("| error |", "| warning |"))]
    listed = [tuple(cell.strip() for cell in row.split("|")[1:3]) for row in rows]
    assert [row for row in listed if row[1] in CHECKS] == [
        (check.severity, kind) for kind, check in CHECKS.items()
    ]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_cleaned_copy_has_no_errors(damaged, found, tmp_path, capsys):
    folder, _ = damaged
    before = digests(folder)
    assert app.main(["check-data", str(folder), "--fix", str(tmp_path / "clean")]) == 1
    assert digests(folder) == before
    output = capsys.readouterr().out
    assert f"{sum(f.severity == ERROR for f in found)} errors" in output
    left = findings_of(tmp_path / "clean")
    assert [f for f in left if f.severity == ERROR] == []
    kept = {(f.kind, f.image) for f in found if f.severity != ERROR and f.image is not None}
    rewritten = {"loose box", "area of something else"}
    assert {(kind, image) for kind, image in kept if kind not in rewritten} == {
        (f.kind, f.image) for f in left if f.image is not None
    }
    lines = (tmp_path / "clean" / "changes.jsonl").read_text().splitlines()
    changes = [json.loads(line) for line in lines]
    assert f"{len(changes)} changes" in output
    reasons = {change["reason"] for change in changes}
    whole = "".join(reasons)
    assert [f.text for f in found if f.severity == ERROR and f.text not in whole] == []
    gone = {
        (c["split"], c["id"])
        for c in changes
        if (c["table"], c["action"]) == ("annotations", "removed")
    }
    ids = [
        (name, a["id"])
        for name in ("train", "val")
        for a in json.loads((tmp_path / "clean" / f"{name}.json").read_text())["annotations"]
    ]
    assert len(gone) > 50
    assert not gone & set(ids)


# Small sets


def write_squares(file: Path, side_of: dict[int, int], size: int, count: int) -> None:
    """Write images of `size` pixels a side by id, with `count` squares of one side, and a file."""
    (file.parent / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for i, side in side_of.items():
        picture = Image.new("RGB", (size, size), (i, 9, 9))
        picture.putpixel((0, 0), (255, 255, 255))
        picture.save(file.parent / "images" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": size, "height": size})
        for k in range(count):
            x, y = (k * side) % (size - side), (k * side) // (size - side) * side
            annotations.append(
                {"id": count * i + k + 1, "image_id": i, "category_id": 1,
                 "segmentation": planted_faults.square(x, y, side)}
            )  # fmt: skip
    content = {"images": images, "annotations": annotations,
               "categories": [{"id": 1, "name": "square"}]}  # fmt: skip
    writers.write_text(file, content)


@pytest.fixture
def tiny(tmp_path) -> Path:
    """Two images of 40 x 40 pixels in train.json, one in val.json, an object in each."""
    write_squares(tmp_path / "tiny" / "train.json", {1: 10, 2: 10}, 40, 1)
    write_squares(tmp_path / "tiny" / "val.json", {3: 10}, 40, 1)
    return tmp_path / "tiny"


def changed(file: Path, **fields: object) -> None:
    """The first annotation with other fields."""
    content = json.loads(file.read_text())
    content["annotations"][0].update(fields)
    file.write_text(json.dumps(content))


def test_exit_codes(tiny, capsys):
    assert app.main(["check-data", str(tiny)]) == 0
    assert "0 warnings\n\n0 errors" in capsys.readouterr().out
    changed(tiny / "train.json", area=9999)
    assert app.main(["check-data", str(tiny)]) == 0
    assert "1 warning\n  area of something else (1)" in capsys.readouterr().out
    changed(tiny / "train.json", bbox=[20, 20, 10, 10])
    assert app.main(["check-data", str(tiny)]) == 1
    assert "1 error\n  box of something else (1)\n    train.json: ann" in capsys.readouterr().out
    (tiny / "val.json").write_text("{")  # the other split is still checked
    assert app.main(["check-data", str(tiny)]) == 1
    assert "2 errors\n  file (1)\n    " in capsys.readouterr().out
    (tiny / "train.json").write_text("{")
    assert app.main(["check-data", str(tiny)]) == 2
    assert capsys.readouterr().err.count("is not JSON") == 2


def test_wrong_flags(tiny, tmp_path, capsys):
    for flags, message in (
        ([str(tiny), "--workers", "-1"], "--workers must be at least 0, got -1"),
        ([str(tiny), "--fix", str(tiny / "out")], "out: is inside the source"),
        ([str(tiny), "--fix", str(tiny.parent)], "is not empty; name a new folder"),
        ([str(tmp_path / "none")], "none: does not exist"),
    ):
        assert app.main(["check-data", *flags]) == 2
        assert message in capsys.readouterr().err


def test_missing_split(tiny):
    (tiny / "train.json").unlink()
    for name in "12":
        (tiny / "images" / f"{name}.png").unlink()
    output = [(f.severity, f.kind, f.text) for f in findings_of(tiny)]
    assert output == [
        ("warning", "missing split", f"{tiny} must have annotations for train, got 'only val'; "
         "rename the other to annotations.json, and it is divided")]  # fmt: skip


def test_a_single_file_is_one_set_and_stays_one(tiny, tmp_path):
    (tiny / "val.json").unlink()
    assert [split.name for split in read_leniently(tiny).splits] == ["all"]
    (tiny / "images" / "3.png").unlink()
    (tiny / "train.json").rename(tiny / "annotations.json")
    assert findings_of(tiny) == []
    changed(tiny / "annotations.json", segmentation=None)
    assert app.main(["check-data", str(tiny), "--fix", str(tmp_path / "clean")]) == 1
    kept = json.loads((tmp_path / "clean" / "annotations.json").read_text())
    assert [a["image_id"] for a in kept["annotations"]] == [2]
    assert (tmp_path / "clean" / "images" / "1.png").exists()


def test_a_copy_without_images_is_not_written(tiny, tmp_path, capsys):
    (tiny / "images" / "3.png").unlink()
    assert app.main(["check-data", str(tiny), "--fix", str(tmp_path / "clean")]) == 2
    assert "val.json: no image of it can be kept" in capsys.readouterr().err
    assert not (tmp_path / "clean").exists()


def test_page_and_findings(tiny, tmp_path, capsys):
    changed(tiny / "train.json", bbox=[20, 20, 10, 10], area="<b>")
    assert app.main(["check-data", str(tiny), "--out", str(tmp_path / "out")]) == 1
    output = capsys.readouterr().out
    text = (tmp_path / "out" / "check.html").read_text(encoding="utf-8")
    for part in ("box of something else (1)", "&lt;b&gt;", "data:image/jpeg", "Areas of objects",
                 "Suggested"):  # fmt: skip
        assert part in text
    assert "http" not in text.replace("http-equiv", "")
    assert '<details class="error" open>' in text
    assert "1 object</figcaption>" in text
    assert f"--data {tiny} " in text
    lines = (tmp_path / "out" / "findings.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == [
        "annotations.area", "box of something else"]  # fmt: skip
    assert all(json.loads(line)["text"] in output for line in lines)


def test_the_page_names_a_divided_folder_once(tiny, tmp_path):
    content = json.loads((tiny / "train.json").read_text())
    writers.labelme(tmp_path / "labelme", content, tiny / "images")
    app.main(["check-data", str(tmp_path / "labelme"), "--out", str(tmp_path / "out")])
    text = (tmp_path / "out" / "check.html").read_text(encoding="utf-8")
    assert text.count(f"<li>{tmp_path / 'labelme'}") == 1


def test_many_findings_are_cut_on_the_terminal(tiny, capsys):
    content = json.loads((tiny / "train.json").read_text())
    one = content["annotations"][0]
    content["annotations"] += [{**one, "id": 10 + i} for i in range(9)]
    (tiny / "train.json").write_text(json.dumps(content))
    assert app.main(["check-data", str(tiny), "--show", "2"]) == 1
    output = capsys.readouterr().out
    assert "mask drawn twice (9)" in output
    assert "and 7 more (--show, --out)" in output
    assert output.count("must be drawn once") == 2


REPAIRED = {  # changes of the first annotation, of its image; what the copy has, what was done
    "a stray polygon that lost a number": (
        {"segmentation": [[0, 0, 10, 0, 10, 10, 0, 10], [1, 1, 2, 2, 3, 3, 4]]}, {},
        "1 polygons taken off"),
    "a stray polygon far away": (
        {"segmentation": [[0, 0, 10, 0, 10, 10, 0, 10], [1, 1, 900, 2, 3, 3]], "bbox": [1]}, {},
        "1 polygons taken off, bbox taken from the mask"),
    "fractions": (
        {"segmentation": [[0, 0, 0.25, 0, 0.25, 0.25, 0, 0.25]]}, {},
        "fractions multiplied by the size of the image"),
    "an area in words": ({"area": "ten"}, {}, "area taken from the mask"),
    "an id of 128 bits": ({"image_id": 2**127}, {"id": 2**127}, "numbered as 1"),
    "an id in hexadecimal": ({"image_id": "a9-f1"}, {"id": "a9-f1"}, "numbered as 1"),
    "a negative id": ({"image_id": -1}, {"id": -1}, "numbered as 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REPAIRED)
def test_records_are_repaired_where_they_say_what_is_meant(tiny, tmp_path, case):
    annotation, image, action = REPAIRED[case]
    content = json.loads((tiny / "train.json").read_text())
    content["annotations"][0].update(annotation)
    content["images"][0].update(image)
    (tiny / "train.json").write_text(json.dumps(content))
    assert app.main(["check-data", str(tiny), "--fix", str(tmp_path / "clean")]) == 1
    clean = json.loads((tmp_path / "clean" / "train.json").read_text())
    assert [a["bbox"] for a in clean["annotations"]] == [[0, 0, 10, 10]] * 2
    assert [a["area"] for a in clean["annotations"]] == [100] * 2
    lines = (tmp_path / "clean" / "changes.jsonl").read_text().splitlines()
    assert [json.loads(line)["action"] for line in lines] == [action]
    assert app.main(["check-data", str(tmp_path / "clean")]) == 0


SPIKES = {  # polygons beside or in a square, which must not change its box
    "a slanted line": [[30, 30, 32, 31, 30, 30]],
    "a level line": [[30, 30, 32, 30, 30, 30]],
    "a point": [[30, 30, 30, 30, 30, 30]],
    "an island below a pixel": [[31.1, 35.1, 31.4, 35.1, 31.4, 35.4]],
    "a thin triangle": [[0, 0, 39, 0, 0, 0.01]],
}


@pytest.mark.parametrize("case", [*SPIKES, "a spike"])
def test_a_right_box_stays_where_polygons_cover_no_pixel(tiny, tmp_path, case):
    square = [4, 5, 14, 5, 14, 15, 4, 15]
    rings = [square, *SPIKES[case]] if case in SPIKES else [[*square, 4, 5, 0, 39, 4, 5]]
    changed(tiny / "train.json", segmentation=rings, bbox=[4, 5, 10, 10], area=100)
    assert [f for f in findings_of(tiny) if f.kind != "ring without area"] == []
    dataset = read_leniently(tiny).splits[0].dataset
    assert dataset.boxes[0].tolist() == [4, 5, 14, 15]
    encoded = rle.from_polygons(rings, 40, 40)
    assert encoded["counts"] == codec.merge(codec.frPyObjects(rings, 40, 40))["counts"].decode()
    assert rle.bounding_box(encoded) == (4, 5, 10, 10)


def test_category_ids_billions_apart(tiny):
    for file in ("train.json", "val.json"):
        content = json.loads((tiny / file).read_text())
        content["categories"].append({"id": 2**62, "name": "disk"})
        (tiny / file).write_text(json.dumps(content))
    texts = [f.text for f in findings_of(tiny) if f.kind == "gaps in category ids"]
    assert len(texts) == 2
    assert "4, 5, 6, … (2 clas" in texts[0]


def test_a_box_of_two_corners_is_named(tiny):
    changed(tiny / "train.json", segmentation=[[20, 20, 30, 20, 30, 30, 20, 30]],
            bbox=[20, 20, 30, 30])  # fmt: skip
    (finding,) = findings_of(tiny)
    assert "it holds two corners: write x, y, width, height" in finding.text


# Advice


def test_processes_find_the_same(tmp_path):
    folder = tmp_path / "data"
    write_squares(folder / "annotations.json", dict(enumerate([8, 1] * 20)), 64, 3)
    (folder / "images" / "7.png").write_bytes((folder / "images" / "9.png").read_bytes()[:-30])
    found = findings_of(folder, workers=2)
    assert {f.kind for f in found} >= {"unreadable image", "mask of few pixels"}
    assert found == findings_of(folder, workers=0)


def advised(folder: Path, capsys) -> list[ModelConfig]:
    """The models of the printed commands, made by the trainer's own parser."""
    app.main(["check-data", str(folder)])
    lines = [x for x in capsys.readouterr().out.splitlines() if "python -m mrcnn.train" in x]
    configs = []
    for line in lines:
        args = parse(TrainConfig, line.split()[3:], prog="mrcnn train")
        fields = {
            "anchor_sizes": args.anchor_sizes,
            "max_detections": args.max_detections or 100,
            "min_size": args.image_size or MODELS[args.model].min_size,
            "scale": args.scale,
        }
        base = MODELS[args.model].to_dict()
        fields |= fields_set(args.set, ModelConfig)
        configs.append(ModelConfig.from_dict({**base, **fields}))
    return configs


def test_small_objects_are_enlarged_and_get_small_anchors(tmp_path, capsys):
    sides = dict.fromkeys(range(4), 8)
    write_squares(tmp_path / "data" / "annotations.json", sides, 128, 130)
    small, large = advised(tmp_path / "data", capsys)
    assert small.min_size == large.min_size == 256  # twofold
    assert any(abs(size - 16) < 1 for size in small.anchor_sizes)
    assert len(large.anchor_sizes) == 5
    assert small.max_detections == 150


def test_objects_that_fit_need_no_change(tmp_path, capsys):
    sides = dict(enumerate([16, 32, 64, 128]))
    write_squares(tmp_path / "data" / "annotations.json", sides, 256, 3)
    small, _ = advised(tmp_path / "data", capsys)
    assert (small.anchor_sizes, small.min_size) == ((16, 32, 64, 128), 256)


@pytest.mark.slow
def test_the_nuclei_take_less_than_half_a_minute(shared_data, capsys):
    begun = time.perf_counter()
    assert app.main(["check-data", str(shared_data / "nuclei"), "--workers", "2"]) == 0
    assert time.perf_counter() - begun < 30
    assert "0 warnings\n\n0 errors" in capsys.readouterr().out
