"""The report of a run: its numbers, its escaping, its size, and its display in a browser."""

import base64
import csv
import dataclasses
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle_codec

from mrcnn import report
from mrcnn.errors import UserError
from mrcnn.reports import page
from mrcnn.reports.run_report import format_duration, read_rows
from tests.helpers import browser, tiny

HEADER = ["step", "lr", "loss", "loss_mask", "bbox_AP", "segm_AP", "val_loss"]
ROWS = [
    [10, 0.1, 3.0, 1.5, "", "", ""],
    [20, 0.2, 2.5, 1.2, 0.5, 0.4, 2.75],
    [30, 0.1, 2.0, 1.0, 0.6, 0.3, 2.25],
]


def make_run(
    folder: Path,
    names: tuple[str, ...] = ("cat", "dog"),
    file_name: str = "{}.png",
    size: int = 96,
    images: int = 4,
    rows: list[list] = ROWS,
    masks: bool = True,
    **changes: object,
) -> Path:
    """Write a run whose detector finds the first of two squares in each image, and background.

    It finds nothing in image 0, and everything and nothing else in the last image.
    """
    rng = np.random.default_rng(0)
    data, run = folder / "data", folder / "run"
    run.mkdir(parents=True)
    data.mkdir()
    truth = {"images": [], "annotations": [], "categories": []}
    truth["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(names)]
    entries = []
    for i in range(images):
        name = file_name.format(i)
        noise = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(data / name, "png")
        truth["images"].append({"id": i, "file_name": name, "width": size, "height": size})
        for k, x in enumerate((5, 50)):
            ring = [x, 5, x + 40, 5, x + 40, 45, x, 45]
            category = (2 * i + k) % len(names) + 1
            truth["annotations"].append(
                {"id": 2 * i + k + 1, "image_id": i, "category_id": category, "iscrowd": 0,
                 "segmentation": [ring], "bbox": [x, 5, 40, 40], "area": 1600}
            )  # fmt: skip
            if i > 0 and (k == 0 or i == images - 1):
                entries.append(detection(i, category, ring, 0.9, size))
        if 0 < i < images - 1:
            entries.append(detection(i, 1, [5, 60, 25, 60, 25, 80, 5, 80], 0.8, size))
    (data / "val.json").write_text(json.dumps(truth))
    ids = tuple(range(1, len(names) + 1))
    model = dataclasses.replace(tiny.CONFIG, class_names=names, category_ids=ids)
    config = {
        "train": {"steps": 30, "batch_size": 2, "optimizer": "sgd", "data": str(data), "amp": True,
                  "multi_scale": [64, 96], "lr": None, "out": str(run)},
        "model": model.to_dict() | {"masks": masks},
        "data": {"val": {"annotations": str(data / "val.json"), "images": str(data)}},
    } | changes  # fmt: skip
    (run / "config.json").write_text(json.dumps(config))
    (run / "environment.json").write_text(json.dumps({"torch": "2.13", "command": ["train"]}))
    (run / "val_results.json").write_text(json.dumps(entries))
    with (run / "results.csv").open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    (run / "timing.csv").write_text("step,seconds,images_per_second\n20,10,4\n30,12.5,8\n")
    batch = rng.integers(0, 256, (900, 1500, 3), dtype=np.uint8)
    Image.fromarray(batch).save(run / "train_batch.jpg")
    return run


def detection(image: int, category: int, ring: list[float], score: float, size: int) -> dict:
    mask = rle_codec.frPyObjects([ring], size, size)[0]
    box = [ring[0], ring[1], ring[2] - ring[0], ring[5] - ring[1]]
    return {"image_id": image, "category_id": category, "bbox": box, "score": score,
            "segmentation": {**mask, "counts": mask["counts"].decode()}}  # fmt: skip


class Reader(HTMLParser):
    """Reader of the elements of a page, with their attributes, and of its text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(content)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in ("meta", "img", "link"):
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if not {"style", "script"} & {*self.open}:
            self.words.append(data)


def read(run: Path) -> Reader:
    report.main([str(run)])
    return Reader((run / "report.html").read_text(encoding="utf-8"))


def test_numbers(tmp_path, capsys):
    """4 of 8 objects are found: the first of images 1 to 3, and the second of image 3.

    There are 2 background detections: precision 4 / 6, recall 4 / 8. They have lower scores, so the
    best F1 is without them: 2 * 4 / (4 + 8).
    """
    words = read(make_run(tmp_path)).text
    assert capsys.readouterr().out == f"{tmp_path / 'run' / 'report.html'}\n"
    assert "Best F1 0.667 precision 1.000, recall 0.500 at score ≥ 0.81" in words
    assert "Detections: 4" in words
    assert "Objects: 8" in words
    assert "missed 4 50.0%" in words
    assert "precision 1 recall 0.5 F1 0.667" in words  # the legend of the chart
    assert "step 20" in words  # of the best masks
    assert "Training time 12 s all 30 steps" in words
    assert "medium 0.505 0.505 8 50.0%" in words  # AP: precision 1 at 51 of 101 recalls
    assert "val_results.json, but 0.4000 at step 20" in words
    assert "Worst: 0.png Objects: 2, not found: 2 Detections: 0 correct, 0 wrong; F1 0.00" in words
    assert "Best: 3.png Objects: 2, not found: 0 Detections: 2 correct, 0 wrong; F1 1.00" in words
    assert f"mrcnn train --config {tmp_path / 'run'}/config.json" in words
    assert f"--weights {tmp_path / 'run'} --score-threshold 0.81" in words


def test_the_confusion_matrix_is_shown(tmp_path):
    run = make_run(tmp_path, names=("cat", "dog"))
    words = read(run).text
    assert "cat dog missed predicted cat dog background true" in words
    assert "Most frequent confusions" not in words
    entries = json.loads((run / "val_results.json").read_text())
    for entry in entries[:3]:
        entry["category_id"] = 3 - entry["category_id"]
    (run / "val_results.json").write_text(json.dumps(entries))
    assert re.search(
        r"Most frequent confusions true class predicted as count (cat|dog) ", read(run).text
    )


def test_boxes_only(tmp_path):
    run = make_run(tmp_path, masks=False)
    entries = json.loads((run / "val_results.json").read_text())
    for entry in entries:
        del entry["segmentation"]
    (run / "val_results.json").write_text(json.dumps(entries))
    words = read(run).text
    assert "AP of boxes" in words
    assert "AP of masks" not in words
    assert "Counted for boxes" in words


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "val_results.json is absent: there are no"),
        ("[]", "val_results.json is empty: the best"),
    ],
)
def test_without_detections_the_page_has_a_warning(tmp_path, content, message):
    run = make_run(tmp_path, rows=ROWS[:1])
    (run / "val_results.json").unlink()
    if content:
        (run / "val_results.json").write_text(content)
    (run / "train_batch.jpg").unlink()
    words = read(run).text
    assert message in words
    assert "Confusion" not in words
    assert "10 of 30 steps" in words


def test_a_run_without_steps(tmp_path):
    run = make_run(tmp_path, rows=[])
    assert "no step was recorded" in read(run).text


def test_nothing_right(tmp_path):
    """No score is better than another; classes without objects have no AP."""
    run = make_run(tmp_path, names=("cat", "dog", "ghost"), images=1)
    ring = [60, 60, 80, 60, 80, 80, 60, 80]
    (run / "val_results.json").write_text(json.dumps([detection(0, 2, ring, 0.3, 96)]))
    words = read(run).text
    assert "Best F1 0.000 precision —, recall 0.000 at score ≥ 0.50" in words
    assert "ghost 0 — —" in words


HOSTILE = (
    "</td></table><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "&lt;b&gt; &amp; <b>",
    "‮right to left",
    "\ud800 alone, \x00 and \x1b[31m",
    "x" * 3000,
    "]]></style><svg/onload=alert(1)>",
)


def test_hostile_names_are_text(tmp_path):
    name = '{}"><script>alert(1)<!--.png'
    run = make_run(tmp_path / "a<b>&'\"", names=HOSTILE, file_name=name)
    reader = read(run)
    assert reader.open == []
    kinds = {name for name, _ in reader.elements}
    assert [name for name, _ in reader.elements].count("script") == 1
    assert not kinds & {"iframe", "object", "embed", "form", "b><"}
    for name, attributes in reader.elements:
        assert not any(key.startswith("on") for key in attributes), (name, attributes)
        for key in ("src", "href"):
            if value := attributes.get(key):
                assert value.startswith("#" if name in ("a", "use") else "data:"), value
    assert "</td></table><script>alert(1)</script>" in reader.text
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert '0"><script>alert(1)<!--.png' in reader.text
    assert "&lt;b&gt; &amp; <b>" in reader.text
    assert "\\ud800 alone, \\x00 and \\x1b[31m" in reader.text


def test_the_page_requests_nothing(tmp_path):
    read(run := make_run(tmp_path, images=5))
    content = (run / "report.html").read_text()
    assert "default-src 'none'" in content
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?\s*(https?:|//)", content)
    assert content.count("<img") == 11  # 3 worst, 2 best, in pairs; the batch
    assert not re.search(r"@import|loading=|innerHTML|eval\(", content)
    scripts = re.findall(r"<script>(.*?)</script>", content, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert len(scripts) == 1
    assert f"script-src 'sha256-{digest}'" in content
    assert "http" not in content.replace("http-equiv", "")
    before = content
    read(run)
    assert (run / "report.html").read_text() == before


def test_headings_are_in_order(tmp_path):
    reader = read(make_run(tmp_path))
    levels = [int(name[1]) for name, _ in reader.elements if re.fullmatch("h[1-6]", name)]
    assert levels[:2] == [1, 2]
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    images = [attributes for name, attributes in reader.elements if name in ("img", "svg")]
    assert all(a.get("alt") or a.get("aria-label") for a in images)


def test_500_classes_of_noisy_images_stay_below_5_megabytes(tmp_path):
    names = tuple(f"class number {i} with a rather long name" for i in range(500))
    rows = [[i, 0.1, 3.0, 1.5, 0.5, 0.4, 2.0] for i in range(1, 20_001)]
    run = make_run(tmp_path, names=names, size=800, images=6, rows=rows)
    reader = read(run)
    assert (run / "report.html").stat().st_size < 5_000_000
    assert "485 others" in reader.text
    assert "the others share a row" in reader.text


# Errors


def test_missing_data(tmp_path):
    run = make_run(tmp_path)
    (tmp_path / "data").rename(tmp_path / "moved")
    message = r"data\.val\.annotations: .*val\.json does not exist; restore it"
    with pytest.raises(UserError, match=message):
        report.main([str(run)])
    config = (run / "config.json").read_text()
    moved = config.replace("/data/val.json", "/moved/val.json")
    (run / "config.json").write_text(moved)
    with pytest.raises(UserError, match=r"data\.val\.images: .*data does not exist"):
        report.main([str(run)])
    with pytest.raises(UserError, match=r"config\.json: does not exist"):
        report.main([str(tmp_path / "nowhere")])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, r"config\.json: data\.val must name the annotations"),
        ({"model": {"window": 7}}, r"config\.json: model: .*unknown fields \['window'\]"),
    ],
)
def test_a_damaged_configuration(tmp_path, changes, message):
    run = make_run(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        report.main([str(run)])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["40", "0.1", "3.0x"], r"line 5: loss must be a number, got '3\.0x'"),
        (["", "0.1", "3.0"], "line 5: has no step"),
        (["nan", "0.1", "3.0"], "line 5: has no step"),
    ],
)
def test_a_damaged_table(tmp_path, line, message):
    run = make_run(tmp_path, rows=[*ROWS, line])
    with pytest.raises(UserError, match=message):
        report.main([str(run)])


def test_cells_beyond_the_header_are_ignored(tmp_path):
    run = make_run(tmp_path, rows=[*ROWS, [40, 0.1, 3.0, 1.5, 0.5, 0.5, "", "beyond"]])
    assert [row["step"] for row in read_rows(run)][-1] == 40


def test_a_failure_keeps_the_old_page(tmp_path):
    run = make_run(tmp_path)
    (run / "report.html").write_text("old page of mrcnn")
    (run / "val_results.json").write_text('[{"image_id": 99}]')
    with pytest.raises(UserError, match="entry 0 lacks bbox, category_id, score"):
        report.main([str(run)])
    assert (run / "report.html").read_text() == "old page of mrcnn"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(27.4, "27 s"), (150, "2 min"), (7170, "2 h 0 min"), (9000, "2 h 30 min"),
     (7 * 86400 - 3600, "6 d 23 h")],
)  # fmt: skip
def test_durations(seconds, words):
    assert format_duration(seconds) == words


def test_embedded_images_are_bounded():
    noise = np.random.default_rng(0).integers(0, 256, (3000, 2000, 3), dtype=np.uint8)
    image = page.embed(Image.fromarray(noise), "caption", "alternative")
    assert (image.width, image.height) == (533, 800)
    assert len(image.uri) < page.LARGEST_IMAGE * 4 / 3 + 500


@pytest.mark.skipif(browser.CHROMIUM is None, reason="chromium is not installed")
def test_in_a_browser(tmp_path):
    """The page is as wide as the screen, and requests nothing that its policy forbids."""
    run = make_run(tmp_path, names=("cat", "n" * 80, "long name", *HOSTILE[:4]), images=5)
    report.main([str(run)])
    with browser.chromium(tmp_path / "profile") as tab:
        for width in (390, 1280):
            tab.open((run / "report.html").as_uri(), width)
            assert tab.run("document.documentElement.scrollWidth") == width
            tab.wait("[...document.images].filter((image) => image.naturalWidth).length === 11")
            assert tab.events == []
            assert all(url.startswith(("file:", "data:")) for url in tab.requests)


@pytest.mark.skipif(browser.CHROMIUM is None, reason="chromium is not installed")
def test_curves_and_images_respond(tmp_path):
    """A touched curve shows its values; images enlarge until Escape; printed, they are there."""
    run = make_run(tmp_path, images=12)
    report.main([str(run)])
    with browser.chromium(tmp_path / "profile") as tab:
        tab.open((run / "report.html").as_uri(), 390)
        tab.run("""(() => {
          const plot = document.querySelectorAll(".plot")[2];
          const { left, width } = plot.getBoundingClientRect();
          plot.dispatchEvent(new PointerEvent("pointerdown", { clientX: left + 0.7 * width }));
        })()""")
        values = tab.run("document.querySelectorAll('.plot')[2].lastChild.innerText")
        assert values.split("\n") == ["step 20", "boxes 0.5", "masks 0.4"]
        assert tab.run("document.querySelectorAll('details img').length") == 2 * 6

        tab.run("document.querySelector('figure button').click()")
        assert tab.run("document.querySelector('dialog').open")
        first = tab.run("document.querySelector('dialog img').alt")
        tab.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
        assert tab.run("document.querySelector('dialog img').alt") != first
        for kind in ("rawKeyDown", "keyUp"):
            tab.call("Input.dispatchKeyEvent", type=kind, key="Escape", windowsVirtualKeyCode=27)
        assert not tab.run("document.querySelector('dialog').open")
        assert tab.run("[...document.images].every((image) => !image.src || image.complete)")
        assert tab.events == []


def test_ap_of_images_without_objects_is_not_drawn(tmp_path):
    rows = [[10, 0.1, 3.0, 1.5, -1, -1, ""], [20, 0.1, 3.0, 1.5, 0.5, -1, ""]]
    run = make_run(tmp_path, rows=rows)
    assert [row.get("bbox_AP") for row in read_rows(run)] == [None, 0.5]
    for name in ("val_results.json", "train_batch.jpg"):
        (run / name).unlink()
    with (run / "results.csv").open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, rows[0]])
    assert "results.csv" not in read(run).text  # no warning about other weights
