"""Options of a run from recipe, file and flags, and the numbers of the recipes."""

import dataclasses
import json
import sys
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from mrcnn import train
from mrcnn.cli import app
from mrcnn.cli.flags import fields_set
from mrcnn.config import ModelConfig
from mrcnn.errors import UserError
from mrcnn.training.config import TrainConfig
from mrcnn.training.optim import learning_rate
from mrcnn.training.options import (
    make_options,
    model_config,
    parse_options,
    scale_to_batch_size,
)
from mrcnn.training.recipes import RECIPES
from tests.helpers.short_runs import contents, run

COCO = 118_287  # images of train2017
DATA = SimpleNamespace(class_names=("cat",), category_ids=(1,))


def read(*argv: str) -> TrainConfig:
    """The run of a command line, before its steps are known."""
    return parse_options(list(argv))


def numbers(*argv: str) -> dict[str, Any]:
    """All numbers of a run on COCO, those of its model included."""
    args, _ = scale_to_batch_size(read(*argv), COCO)
    config = model_config(read(*argv, "--data", "coco"), DATA, None)
    return {**args.to_dict(), **config.to_dict()}


# Detectron2: configs/Base-RCNN-FPN.yaml, COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_{1x,3x}.yaml
# over detectron2/config/defaults.py; new_baselines/mask_rcnn_R_50_FPN_{100,200,400}ep_LSJ.py over
# common/{optim,coco_schedule,data/coco,models/mask_rcnn_fpn}.py.
BOTH = {
    "optimizer": "sgd", "momentum": 0.9, "decay_norms": False, "decay_biases": True,
    "clip_norm": None, "ema": 0.0, "schedule": "step", "min_size": 800, "max_size": 1333,
    "colour_jitter": 0.0, "copy_paste": 0.0, "vertical_flip": False, "repeat_threshold": 0.0,
    "anchor_sizes": (32, 64, 128, 256, 512), "anchor_ratios": (0.5, 1.0, 2.0), "rpn_samples": 256,
    "pre_nms_top_k": 1000, "training_post_nms_top_k": 1000, "roi_samples": 512,
    "roi_positive_fraction": 0.25, "mask_head_convs": 4, "max_detections": 100,
    "score_threshold": 0.05,
}  # fmt: skip
X = {
    **BOTH, "batch_size": 16, "lr": 0.02, "warmup": 1000, "warmup_factor": 0.001,
    "weight_decay": 1e-4, "multi_scale": (640, 672, 704, 736, 768, 800),
    "large_scale_jitter": None, "group_orientations": True, "amp": "off", "norm": "frozen_batch",
    "head_norm": "none", "frozen_stages": 2, "rpn_convs": 1, "box_head_convs": 0,
    "box_head_layers": 2,
}  # fmt: skip
LSJ = {
    **BOTH, "batch_size": 64, "lr": 0.1, "warmup_factor": 0.067, "weight_decay": 4e-5,
    "multi_scale": (), "large_scale_jitter": 1024, "norm": "sync_batch",
    "head_norm": "sync_batch", "frozen_stages": 0, "rpn_convs": 2, "box_head_convs": 4,
    "box_head_layers": 1, "box_head_width": 1024,
}  # fmt: skip
# Recipe: its fields, and the steps at which the rate falls.
DETECTRON2 = {
    "1x": ({**X, "steps": 90_000}, (60_000, 80_000)),
    "3x": ({**X, "steps": 270_000}, (210_000, 250_000)),
    "lsj": ({**LSJ, "steps": 184_375, "warmup": 500}, (163_889, 177_546)),
    # Warm-up is a part of the steps there, fixed before these are doubled.
    "lsj-200": ({**LSJ, "steps": 368_750, "warmup": 1000}, (327_778, 355_092)),
    "lsj-400": ({**LSJ, "steps": 737_500, "warmup": 2000}, (655_556, 710_184)),
}


@pytest.mark.parametrize("recipe", DETECTRON2)
def test_recipes_have_the_numbers_of_detectron2(recipe):
    wanted, falls = DETECTRON2[recipe]
    found = numbers("--recipe", recipe)
    assert {name: found[name] for name in wanted} == wanted
    assert tuple(round(part * found["steps"]) for part in found["milestones"]) == falls


# Step, counted from 0, and its rate: computed by hand. Warm-up rises along a line.
RATES = {
    "1x": {
        0: 2e-5, 500: 0.01001, 999: 0.01998002, 1000: 0.02, 59_999: 0.02, 60_000: 0.002,
        79_999: 0.002, 80_000: 0.0002, 89_999: 0.0002,
    },
    "3x": {
        0: 2e-5, 250: 0.005015, 1000: 0.02, 209_999: 0.02, 210_000: 0.002, 249_999: 0.002,
        250_000: 0.0002, 269_999: 0.0002,
    },
    "lsj": {
        0: 0.0067, 250: 0.05335, 500: 0.1, 163_888: 0.1, 163_889: 0.01, 177_545: 0.01,
        177_546: 0.001, 184_374: 0.001,
    },
    "lsj-200": {
        500: 0.05335, 1000: 0.1, 327_777: 0.1, 327_778: 0.01, 355_091: 0.01, 355_092: 0.001,
    },
    "lsj-400": {1000: 0.05335, 655_555: 0.1, 655_556: 0.01, 710_183: 0.01, 710_184: 0.001},
    # A cosine to zero: 3/4, 1/2 and 1/4 of the rate after 1/3, 1/2 and 2/3 of the steps.
    "cpu-demo": {0: 5e-7, 450: 3.75e-4, 675: 2.5e-4, 900: 1.25e-4, 1349: 6.76928e-10},
    "finetune": {0: 1e-7, 500: 7.5e-5, 750: 5e-5, 1000: 2.5e-5},
}  # fmt: skip


@pytest.mark.parametrize("recipe", RATES)
def test_schedules_equal_their_tables(recipe):
    args, _ = scale_to_batch_size(read("--recipe", recipe), COCO)
    found = {step: learning_rate(step, args) for step in RATES[recipe]}
    assert found == pytest.approx(RATES[recipe], rel=1e-5)


# Another value than that of any recipe for each field that a file may give.
OTHERS = {
    "data": "some/data", "images": "some/images", "recipe": "3x", "model": "vgg16",
    "weights": "some/weights", "set": ["roi_samples=64", "box_loss=giou"], "batch_size": 6,
    "steps": 77, "epochs": 1.5, "accumulate": 3, "optimizer": "adamw", "lr": 0.123, "warmup": 7,
    "warmup_factor": 0.25, "schedule": "cosine", "milestones": [0.25, 0.5], "momentum": 0.5,
    "weight_decay": 0.03, "decay_norms": True, "decay_biases": False, "clip_norm": 2.5, "ema": 0.75,
    "image_size": 96, "scale": 1.25, "multi_scale": [64, 96], "large_scale_jitter": 192, "crop": 48,
    "vertical_flip": True, "colour_jitter": 0.3, "copy_paste": 0.5, "transform": "module:name",
    "group_orientations": False, "repeat_threshold": 0.01, "anchor_sizes": [8.0, 16.0],
    "max_detections": 7, "eval_every": 123, "patience": 4, "val_loss": False, "save_every": 44,
    "keep_every": 88, "print_every": 9, "tensorboard": True, "seed": 5, "device": "meta",
    "amp": "fp16", "compile": True, "capture": True, "checkpoint_activations": True,
    "deterministic": True, "workers": 9, "on_nan": "skip", "on_bad_image": "skip",
}  # fmt: skip


def test_every_field_has_another_value():
    """The next test covers every field except those that name a run or a source of defaults."""
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    assert names - set(OTHERS) == {"config", "resume", "auto_resume", "out"}


def flag(name: str, value: Any) -> list[str]:
    words = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [words if value else words.replace("--", "--no-")]
    return [words, *(map(str, value) if isinstance(value, list) else [str(value)])]


@pytest.mark.parametrize("name", OTHERS)
def test_every_number_can_be_given_by_flag_json_and_toml(name, tmp_path):
    value = OTHERS[name]
    wanted = tuple(value) if isinstance(value, list) else value
    files = {"run.json": json.dumps({"train": {name: value}})}
    if sys.version_info >= (3, 11):
        files["run.toml"] = f"[train]\n{name} = {json.dumps(value)}\n"
    base = [] if name == "recipe" else ["--recipe", "1x"]
    before = read(*base).to_dict()
    assert before[name] != wanted
    found = [read(*base, *flag(name, value))]
    for file, content in files.items():
        (tmp_path / file).write_text(content)
        # A file does not choose code to run, so this flag must be given, too.
        named = flag(name, value) if name == "transform" else []
        found.append(read(*base, "--config", str(tmp_path / file), *named))
    for args in found:
        after = args.to_dict()
        assert after[name] == wanted
        if name != "recipe":
            assert {**after, name: None, "config": None} == {**before, name: None, "config": None}


@pytest.mark.parametrize("source", ["--config", "--resume", "keyword"])
def test_a_file_does_not_choose_code_to_run(tmp_path, monkeypatch, source):
    """The module is in the folder of the run, which is also the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("open('canary', 'w')\ndef f(image, rng): return image\n")
    (tmp_path / "config.json").write_text(json.dumps({"train": {"transform": "evil:f"}}))
    flags = ["--resume", "."] if source == "--resume" else ["--config", "config.json"]
    parse = partial(read, *flags)
    if source == "keyword":
        parse = partial(make_options, {"config": "config.json"})
    with pytest.raises(UserError, match="add --transform 'evil:f' if you trust it, or --transf"):
        parse()
    assert not (tmp_path / "canary").exists()
    assert read(*flags, "--transform", "evil:f").transform == "evil:f"
    assert read(*flags, "--transform", "None").transform is None
    assert make_options({"config": "config.json", "transform": None}).transform is None


def test_a_flag_goes_before_a_file_and_a_file_before_the_recipe(tmp_path):
    file = tmp_path / "some.json"
    file.write_text(json.dumps({"train": {"recipe": "3x", "lr": 0.5, "momentum": 0.8, "steps": 9}}))
    args = read("--config", str(file), "--lr", "0.25", "--epochs", "2")
    assert (args.lr, args.momentum, args.multi_scale[0], args.workers) == (0.25, 0.8, 640, 4)
    assert (args.steps, args.epochs) == (None, 2.0)
    assert read("--config", str(file), "--recipe", "finetune").optimizer == "adamw"


def test_set_takes_tuples():
    words = ["anchor_sizes=[[8,16],[9.5]]", "pixel_mean=[1,2,3]", "rpn_smooth_l1_beta=null"]
    assert fields_set(words, ModelConfig) == {
        "anchor_sizes": ((8.0, 16.0), (9.5,)),
        "pixel_mean": (1.0, 2.0, 3.0),
        "rpn_smooth_l1_beta": None,
    }


def test_models_come_from_file_flag_and_recipe(tmp_path):
    file = tmp_path / "some.json"
    file.write_text(json.dumps({"model": {"backbone": "resnet18", "roi_samples": 64}}))
    found = numbers("--config", str(file), "--set", "roi_samples=32")
    assert (found["backbone"], found["roi_samples"], found["box_head_width"]) == (
        "resnet18", 32, 1024
    )  # fmt: skip
    found = numbers("--recipe", "lsj", "--model", "resnet101-fpn", "--set", "norm=group")
    assert (found["backbone"], found["norm"], found["rpn_convs"]) == ("resnet101", "group", 2)


@pytest.mark.parametrize(
    ("flags", "lr", "steps", "warmup", "message"),
    [
        ("--batch-size 16", 0.02, 90_000, 1000, None),
        ("--batch-size 4", 0.005, 360_000, 4000, "lr 0.005, 360000 steps, warm-up of 4000"),
        ("--batch-size 64", 0.08, 22_500, 250, "lr 0.08, 22500 steps, warm-up of 250"),
        ("--batch-size 4 --lr 0.3", 0.3, 360_000, 4000, "360000 steps, warm-up of 4000"),
        ("--batch-size 4 --steps 10", 0.005, 10, 4000, "lr 0.005, warm-up of 4000"),
        ("--batch-size 4 --epochs 2", 0.005, 59_144, 4000, "lr 0.005, warm-up of 4000"),
        ("--batch-size 4 --warmup 0", 0.005, 360_000, 0, "lr 0.005, 360000 steps"),
        ("--batch-size 4 --lr 0.3 --steps 10 --warmup 5", 0.3, 10, 5, None),
        ("--batch-size 32 --optimizer adamw", 2e-4, 45_000, 500, "lr 0.0002, 45000 steps"),
    ],
)
def test_the_linear_rule_scales_what_is_not_given(flags, lr, steps, warmup, message):
    args, notes = scale_to_batch_size(read("--recipe", "1x", *flags.split()), COCO)
    assert (args.lr, args.steps, args.warmup) == (pytest.approx(lr), steps, warmup)
    if message is None:
        assert notes == []
    else:
        assert len(notes) == 1
        assert notes[0].startswith("recipe 1x is defined for 16 images per step; for ")
        assert f"the linear scaling rule gives {message}" in notes[0]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_help_shows_the_numbers_of_the_recipe(recipe, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as stop:
        app.main(["train", "--recipe", recipe, "--help"])
    assert stop.value.code == 0
    text, known = capsys.readouterr().out, RECIPES[recipe]
    rate = f"{known.lr['sgd']:g} (sgd)"
    text = " ".join(text.split())
    assert known.about in text
    assert f"{known.steps} steps, warm-up of {known.warmup}, learning rate " in text
    assert f"Number of optimizer steps. (default: {known.steps}, from the recipe)" in text
    assert rate in text
    assert f"Images per step, over all processes. (default: {known.batch_size})" in text
    assert f"(default: {known.fields.get('weight_decay', 0.0001)})" in text


FILES = {  # name, content, words of the message
    "train.json": ('{"train": {"momentun": 0.9}}', "train has no field 'momentun'; did you mean"),
    "kind.json": ('{"train": {"steps": "many"}}', "train.steps must be of type int | None, got"),
    "bool.json": ('{"train": {"steps": true}}', "train.steps must be of type int | None, got True"),
    "part.json": ('{"train": {"milestones": [1, "x"]}}', "train.milestones must be of type tuple["),
    "choice.json": ('{"train": {"schedule": "line"}}', "--schedule must be one of step, cosine"),
    "recipe.json": ('{"train": {"recipe": "2x"}}', "--recipe must be one of cpu-demo, finetune"),
    "nan.json": ('{"train": {"lr": NaN}}', "--lr must be more than 0, got nan"),
    "no.json": ("{", "is not valid JSON"),
    "run.yaml": ("train:\n  steps: 3\n", "YAML is not read; write the same fields in JSON or TOML"),
    "deep.json": ("[" * 100_000, "is not valid JSON"),
    "bytes.json": (b"\xff\xfe", "byte 0 (0xff) is not UTF-8"),
    "list.json": ("[1]", "must hold a table train or model"),
    "empty.json": ("{}", "must hold a table train or model"),
    "flat.json": ('{"train": 3}', "train must hold fields and values, got 3"),
    "model.json": ('{"model": {"backbon": "vgg"}}', "unknown fields ['backbon']"),
    "norm.json": ('{"model": {"norm": "bach"}}', "norm must be one of"),
    "absent.json": (None, "does not exist; name a .json or .toml file"),
    "no.toml": ("train = [", "is not valid TOML"),
    "train.toml": ("[train]\nlrr = 1.0", "train has no field 'lrr'; did you mean lr?"),
}


@pytest.mark.parametrize("name", FILES)
def test_messages_about_bad_files(name, data, tmp_path, capsys):
    if name.endswith(".toml") and sys.version_info < (3, 11):
        pytest.skip("TOML needs Python 3.11")
    content, words = FILES[name]
    file, out = tmp_path / name, tmp_path / "run"
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    argv = ["train", "--data", str(data), "--out", str(out), "--device", "cpu"]
    assert app.main([*argv, "--config", str(file)]) == 2
    message = capsys.readouterr().err
    assert message.count("mrcnn: ") == 1
    assert words in message
    if not words.startswith("--"):
        assert name in message
    assert not out.exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("roi_samples", "--set roi_samples: must be name=value"),
        ("rois=3", "--set rois=3: must be name=value with a field"),
        ("roi_samples=many", "--set roi_samples=many: roi_samples must be of type int"),
        ("roi_samples=1.5", "--set roi_samples=1.5: roi_samples must be of type int"),
        ("masks=1", "--set masks=1: masks must be of type bool"),
        ("roi_samples=-1", "roi_samples must be a whole number in [1, 100000], got -1"),
        ("norm=bach", "norm must be one of frozen_batch"),
        ("anchor_sizes=8", "--set anchor_sizes=8: anchor_sizes must be of type tuple"),
        ("anchor_sizes=[[8,16],8]", "anchor_sizes must hold"),
        ('anchor_sizes=["a"]', "anchor_sizes must be of type tuple"),
        ("backbone=resnet19", "backbone must be one of"),
    ],
)
def test_messages_about_bad_words_of_set(word, message, data, tmp_path, capsys):
    out = tmp_path / "run"
    argv = ["--data", str(data), "--out", str(out), "--device", "cpu", "--set", word]
    assert app.main(["train", *argv]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("mrcnn: ")
    assert message in printed
    assert not out.exists()


def test_a_run_is_repeated_bit_identically_by_its_config(data, no_drawing, tmp_path):
    flags = ("--steps", "4", "--eval-every", "0", "--seed", "3")
    for name in "12":
        assert run(data, tmp_path / name, *flags) == 0
    config = str(tmp_path / "1" / "config.json")
    assert train.main(["--config", config, "--out", str(tmp_path / "3")]) == 0
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "3")
    assert train.main(["--config", config, "--out", str(tmp_path / "4"), "--seed", "4"]) == 0
    assert contents(tmp_path / "1") != contents(tmp_path / "4")
