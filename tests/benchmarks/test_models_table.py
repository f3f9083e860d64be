"""The counts of benchmarks/models/table.py, and docs/models.md."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch

import mrcnn
from benchmarks import report
from benchmarks.models import facts as model_facts
from benchmarks.models import table as models_table
from mrcnn.config import MODELS

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "models.md"

# Of the weights' metadata in torchvision 0.29: num_params and _ops.
PUBLISHED = {"resnet50-fpn": (44_401_393, 134.38), "resnet50-fpn-v2": (46_359_409, 333.577)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_those_that_torchvision_published(name):
    parameters, gflops = PUBLISHED[name]
    ours = model_facts.as_torchvision(name)
    # Of the background: four rows of deltas and one of mask logits, each with its bias.
    assert ours.parameters + 4 * (1024 + 1) + (256 + 1) == parameters
    assert ours.background == parameters - ours.parameters
    # Published to 0.001; 1000 proposals with four deltas of the background.
    more = 1000 * 4 * 1024 / 1e9
    if name == "resnet50-fpn-v2":  # 100 detections, of each the masks of 90 other outputs
        more += 100 * 90 * 28 * 28 * 256 / 1e9
    assert ours.gflops + more == pytest.approx(gflops, abs=5e-4)
    assert ours.background_gflops + ours.other_masks_gflops == pytest.approx(more)


def test_counts_do_not_depend_on_values():
    """The same of tensors with values, where PyTorch's counter sees every product."""
    config = model_facts.with_classes(
        MODELS["small"], 3, max_detections=20, post_nms_top_k=50, score_threshold=0.0
    )
    torch.manual_seed(0)
    model = mrcnn.build(config).eval()
    images = mrcnn.ImageBatch(torch.randn(1, 3, 64, 96), torch.tensor([[64, 96]]))
    with model_facts.FlopCounterMode(display=False) as counter:  # with gradients: nothing is fused
        found = model(images)
    assert found.counts.tolist() == [20]
    parameters, gflops = model_facts.count(config, 64, 96)
    assert sum(gflops.values()) == pytest.approx(counter.get_total_flops() / 2e9)
    assert parameters == sum(p.numel() for p in model.parameters())


def test_boxes_only_has_no_mask_head():
    config = model_facts.with_classes(MODELS["small"], 3, masks=False)
    assert model_facts.count(config, 64, 96)[1]["mask head"] == 0


def test_published_checkpoints_of_the_same_layers():
    v2 = model_facts.checkpoints(MODELS["resnet50-fpn-v2"])
    assert v2[:2] == [
        ("torchvision/maskrcnn_resnet50_fpn_v2", False),
        ("detectron2/mask_rcnn_R_50_FPN_400ep_LSJ", True),
    ]
    renamed = dataclasses.replace(MODELS["resnet50-c4"], backbone="resnet101")
    assert model_facts.checkpoints(renamed) == [("detectron2/mask_rcnn_R_101_C4_3x", True)]
    assert model_facts.checkpoints(MODELS["small"]) == []


def test_every_pattern_names_a_published_checkpoint():
    published = mrcnn.checkpoints.PUBLISHED
    for pattern, heads, _, _ in model_facts.ARCHITECTURES:
        assert model_facts.fnmatch.filter(published, pattern), pattern
        assert heads in MODELS


def test_a_quick_run_writes_between_the_markers(tmp_path, capsys):
    out = tmp_path / "models.md"
    out.write_text(f"before\n{report.BEGIN}\nearlier\n{report.END}\nafter\n")
    assert models_table.main(["--quick", "--models", "small", "--out", str(out)]) == 0
    text = out.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n| model | parameters |")
    assert text.endswith(f"\n{report.END}\nafter\n")
    assert "\n| `small` | 4,101,616 | " in text
    assert "earlier" not in text
    assert "1 of 1: small" in capsys.readouterr().err


def test_a_document_without_place_is_refused_first(tmp_path, capsys):
    out = tmp_path / "models.md"
    out.write_text("# Models\n")
    assert models_table.main(["--models", "small", "--out", str(out)]) == 1
    assert report.BEGIN in capsys.readouterr().err
    assert out.read_text() == "# Models\n"


def test_the_document_lists_every_model():
    """A new name needs: python -m benchmarks.models.table --out docs/models.md"""
    table = DOCUMENT.read_text().split(report.BEGIN)[1].split("\n\n")[0]
    assert re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE) == list(MODELS)


def test_the_code_of_the_document_runs():
    names: dict = {}  # each block goes on where the one before it ended
    for code in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL):
        exec(code, names)
        model = names["model"].eval()
        images = mrcnn.ImageBatch(torch.randn(1, 3, 64, 64), torch.tensor([[64, 64]]))
        with torch.inference_mode():
            assert model(images).boxes.shape[2] == 4
