"""Options of a training run, resolved from recipe, configuration file, `--set` and flags.

A flag overrides the configuration file, and the file overrides the recipe.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn.cli.flags import fields_set, parse
from mrcnn.config import MODELS, ModelConfig
from mrcnn.errors import UserError
from mrcnn.io.json_files import read_text, shown
from mrcnn.training.config import TrainConfig
from mrcnn.training.recipes import RECIPES

if TYPE_CHECKING:
    from mrcnn.checkpoints import PretrainedWeights
    from mrcnn.data.coco.read import CocoDataset

SHAPES_SIZE = 128  # pixels; the generated shapes are trained on at their own size


def parse_options(argv: list[str] | None = None) -> TrainConfig:
    """Read the command line of `mrcnn train`.

    The flags that name a source of defaults are read first, so that `--help` shows the defaults.
    """
    early = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    for flag in ("recipe", "config", "resume", "out", "steps", "epochs", "transform"):
        early.add_argument(f"--{flag}")
    early.add_argument("--auto-resume", "--auto_resume", action="store_true")
    given, _ = early.parse_known_args(sys.argv[1:] if argv is None else argv)
    default = defaults(vars(given))
    scaled, _ = scale_to_batch_size(default, images=0)
    shown = {
        name: f"{value}, from the recipe"
        for name, value in {
            "model": RECIPES[default.recipe].model,
            "steps": None if default.epochs else scaled.steps,
            "lr": scaled.lr,
            "warmup": scaled.warmup,
        }.items()
        if getattr(default, name) is None and value is not None
    }
    return parse(TrainConfig, argv, default, "mrcnn train", describe(default.recipe), shown)


def make_options(flags: Mapping[str, Any]) -> TrainConfig:
    """Return the options for keyword arguments named like the fields of `TrainConfig`.

    Raises:
        UserError: if a field is unknown, or a value has the wrong type or is out of range.
    """
    fields = TrainConfig.fields_from(flags, "train")
    return dataclasses.replace(defaults(fields), **fields)


def defaults(given: Mapping[str, Any]) -> TrainConfig:
    """Return the values that flags override: those of the recipe, the file, or the resumed run.

    Of the flags, only those that choose a source, and `steps`, `epochs` and `transform`, are read.

    Raises:
        UserError: if a file cannot be read or is not a configuration, or names a transform that the
            flags do not name.
    """
    out, resume = given.get("out"), given.get("resume")
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    if restarted and not (out or resume):
        raise UserError(
            "--out is required under torchrun --max-restarts: it names the run to resume"
        )
    if (given.get("auto_resume") or restarted) and out and not resume:
        resume = out if (Path(out) / "config.json").is_file() else None
    file = _file_of(given.get("config"), resume)
    fields: dict[str, Any] = {}
    if file is not None:
        fields = TrainConfig.fields_from(read_file(file).get("train", {}), f"{file}: train")
    if fields.get("transform") is not None and "transform" not in given:
        # A file must not choose code to run, since it may come from somebody else.
        name = shown(fields["transform"])
        raise UserError(
            f"{file}: train.transform is {name}, a function that only a flag may name, since it is "
            f"code; add --transform {name} if you trust it, or --transform None to omit it"
        )
    recipe = given.get("recipe") or fields.get("recipe", TrainConfig.recipe)
    if recipe in RECIPES:  # an unknown one is refused with the flags
        known = RECIPES[recipe]
        fields = {"batch_size": known.batch_size, **known.fields, **fields, "recipe": recipe}
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if given.get(one) is not None:  # a flag replaces the other field of a file
            fields.pop(other, None)
    if resume is not None:
        fields |= {"resume": Path(resume), "out": Path(resume)}
    elif not out:
        fields.pop("out", None)
    return TrainConfig(**fields)


def _file_of(config: Any, resume: Any) -> Path | None:
    """Return the configuration file, which is that of the run if one is resumed."""
    if resume is not None:
        return Path(resume) / "config.json"
    return None if config is None else Path(config)


def read_file(path: Path) -> dict[str, Any]:
    """Read a configuration in JSON or TOML: tables `train` and `model`, one of them optional.

    Raises:
        UserError: if it cannot be read or holds neither table.
    """
    if path.suffix in (".yaml", ".yml"):
        raise UserError(f"{path}: YAML is not read; write the same fields in JSON or TOML")
    kind = "TOML" if path.suffix == ".toml" else "JSON"
    try:
        text = read_text(path, "name a .json or .toml file")
        if kind == "JSON":
            content = json.loads(text)
        elif sys.version_info < (3, 11):
            raise UserError(f"{path}: TOML needs Python 3.11; write it as JSON")
        else:
            import tomllib

            content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not valid {kind} ({error})") from error
    if not isinstance(content, dict) or not content.keys() & {"train", "model"}:
        raise UserError(
            f"{path}: must hold a table train or model, like the config.json of a run folder"
        )
    return content


def scale_to_batch_size(options: TrainConfig, images: int) -> tuple[TrainConfig, list[str]]:
    """Set the steps, warm-up and learning rate that were not given.

    They follow the recipe by the linear scaling rule: k times the batch size means k times the
    learning rate, and 1/k of the steps and of the warm-up (Goyal et al., 2017). `images` is the
    number of training images. Returns the options and notes for the user.
    """
    recipe = RECIPES[options.recipe]
    scale = options.batch_size / recipe.batch_size
    if options.epochs is not None:
        steps = max(1, round(options.epochs * images / options.batch_size))
    else:
        steps = options.steps or max(1, round(recipe.steps / scale))
    warmup = options.warmup
    if warmup is None:
        warmup = max(1, round(recipe.warmup / scale))
    lr = options.lr or recipe.lr[options.optimizer] * scale
    is_scaled = {
        f"lr {lr:g}": options.lr is None,
        f"{steps} steps": options.steps is None and options.epochs is None,
        f"warm-up of {warmup}": options.warmup is None,
    }
    scaled = [text for text, applies in is_scaled.items() if applies and scale != 1]
    note = (
        f"recipe {options.recipe} is defined for {recipe.batch_size} images per step; for "
        f"{options.batch_size}, the linear scaling rule gives {', '.join(scaled)}"
    )
    options = dataclasses.replace(options, steps=steps, epochs=None, warmup=warmup, lr=lr)
    return options, [note] if scaled else []


def set_evaluation_interval(options: TrainConfig, validation_images: int) -> TrainConfig:
    """Set the steps between evaluations if they are not given: ten in a run, or fewer.

    An evaluated image takes about as long as an image of a training step, and the files that are
    written as long as ten. So evaluations take at most about a tenth of the time.
    """
    if options.eval_every is not None:
        return options
    assert options.steps is not None
    interval = max(options.steps / 10, 10 * (validation_images + 10) / options.batch_size)
    unit = 10 ** max(0, math.floor(math.log10(interval)) - 1)  # two digits are kept
    return dataclasses.replace(options, eval_every=math.ceil(interval / unit) * unit)


def model_config(
    options: TrainConfig, dataset: CocoDataset, weights: PretrainedWeights | None
) -> ModelConfig:
    """Return the configuration of the model to train, with the classes of the data.

    The model is that of the configuration file, else of `--model`, else of the weights, else of
    the recipe. Flags and `--set` override its fields.

    Raises:
        UserError: if a field is unknown or its value is not valid.
    """
    from mrcnn.checkpoints import config_to_train

    recipe = RECIPES[options.recipe]
    default = dataclasses.replace(MODELS[recipe.model], **recipe.model_fields)
    base = config_to_train(weights, _named_model(options), default)
    image_size = options.image_size or (None if options.data else SHAPES_SIZE)
    given = {
        "min_size": image_size,
        "max_size": image_size and max(base.max_size, 2 * image_size),
        "scale": options.scale,
        "anchor_sizes": options.anchor_sizes or None,
        "max_detections": options.max_detections,
    }
    fields = {
        **base.to_dict(),
        **{name: value for name, value in given.items() if value is not None},
        **fields_set(options.set, ModelConfig),
        "class_names": dataset.class_names,
        "category_ids": dataset.category_ids,
    }
    try:
        return ModelConfig.from_dict(fields)
    except (ValueError, TypeError) as error:
        raise UserError(f"{error}; see --model, --set and --config") from None


def choose_model(
    options: TrainConfig, weights: PretrainedWeights | None
) -> tuple[TrainConfig, list[str]]:
    """Name the model that weights of a backbone fit, if none is named and the recipe's does not.

    Returns the options and notes for the user.
    """
    from mrcnn.checkpoints import fitting_models

    if weights is None or weights.config is not None or _named_model(options) is not None:
        return options, []
    usual = RECIPES[options.recipe].model
    names = fitting_models(weights.state)
    if usual in names or not names:
        return options, []
    note = f"--model {names[0]}, because {weights.file} does not fit {usual}, the recipe's model"
    return dataclasses.replace(options, model=names[0]), [note]


def _named_model(options: TrainConfig) -> ModelConfig | None:
    """Return the model of the configuration file or of `--model`; None if neither is given."""
    file = _file_of(options.config, options.resume)
    saved = saved_model(file) if file else None
    if file and saved and options.model == read_file(file).get("train", {}).get("model"):
        return saved
    if options.model is None:
        return None
    return dataclasses.replace(MODELS[options.model], **RECIPES[options.recipe].model_fields)


def saved_model(file: Path) -> ModelConfig | None:
    """Return the model of a configuration file, None if it does not contain one.

    Raises:
        UserError: if a field is unknown or its value is not valid.
    """
    model = read_file(file).get("model")
    try:
        return None if model is None else ModelConfig.from_dict(model)
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: {error}") from error


def describe(recipe: str) -> str:
    """Return the text above the flags in `--help`: the numbers of a recipe for its batch size."""
    known = RECIPES[recipe]
    rates = ", ".join(f"{rate:g} ({name})" for name, rate in known.lr.items())
    fields = "".join(f", {name}={value}" for name, value in known.model_fields.items())
    return (
        f"{inspect.cleandoc(str(TrainConfig.__doc__))}\n\n"
        f"Recipe {recipe}: {known.about} For {known.batch_size} images per step: "
        f"{known.steps} steps, warm-up of {known.warmup}, learning rate {rates}. "
        f"Model {known.model}{fields}."
    )
