"""`--backend hotcoco` gives pycocotools' metrics, bit-identical."""

import json

import numpy as np
import pytest
from pycocotools import mask as rle_codec

from mrcnn import evaluate as command
from tests.helpers.random_results import HEIGHT, WIDTH, metrics_of, random_set, write_files

pytest.importorskip("hotcoco", reason="the extra [eval] is not installed")


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_example(shared_data, kind):
    """COCO's own example, whose metrics with pycocotools are the published ones."""
    folder = shared_data / "coco_eval"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    entries = json.loads((folder / f"instances_val2014_fake{kind}100_results.json").read_text())
    metrics = metrics_of(truth, entries, kind, backend="hotcoco")
    assert metrics == metrics_of(truth, entries, kind)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(50))
def test_random_sets(seed, kind):
    """All metrics, also of each class, with several limits, and of some images."""
    truth, entries = random_set(seed)
    some = [image["id"] for image in truth["images"][:2]]
    for limit, image_ids in ((100, None), (1, None), (7, some), (400, None)):
        expected = metrics_of(truth, entries, kind, limit, image_ids)
        assert metrics_of(truth, entries, kind, limit, image_ids, backend="hotcoco") == expected


@pytest.mark.parametrize("seed", range(10))
def test_polygons_of_any_shape(seed):
    """Several rings that overlap, cross themselves and leave the image; crowds as counts."""
    rng = np.random.default_rng(seed)
    truth, entries = random_set(seed)
    for record in truth["annotations"]:
        count = rng.integers(1, 4)
        middle = rng.uniform(-20, [WIDTH + 20, HEIGHT + 20], (count, 1, 2))
        rings = middle + rng.normal(0, rng.choice([3, 20, 90]), (count, rng.integers(3, 9), 2))
        record["segmentation"] = rings.reshape(count, -1).tolist()
        mask = rle_codec.merge(rle_codec.frPyObjects(record["segmentation"], HEIGHT, WIDTH))
        record["area"] = float(rle_codec.area(mask))
        if record["iscrowd"]:
            counts = [999, HEIGHT * WIDTH - 999]
            record["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}
        for entry in rng.choice(entries, min(3, len(entries)), replace=False):
            entry.update(image_id=record["image_id"], segmentation=mask)
    expected = metrics_of(truth, entries, "segm")
    assert metrics_of(truth, entries, "segm", backend="hotcoco") == expected


def test_the_flag(tmp_path, capsys):
    flags = write_files(tmp_path, *random_set(4))
    command.main(flags)
    expected = capsys.readouterr().out
    command.main([*flags, "--backend", "hotcoco"])
    assert capsys.readouterr().out == expected
