"""From a command line to one run: recipe, files and flags put over each other."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrcnn.config import MODELS, ModelConfig
from mrcnn.errors import UserError
from mrcnn.training.config import TrainConfig, typed
from mrcnn.training.recipes import RECIPES


@dataclasses.dataclass(frozen=True)
class Defaults:
    """What flags are put over."""

    train: TrainConfig
    model: dict[str, Any] | None  # fields of the model of a file


def read_defaults(argv: Sequence[str] | None) -> Defaults:
    """The numbers of the recipe, or of the file or run, that the command line names.

    Raises:
        UserError: if a file cannot be read, or holds what is no configuration.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--recipe", "--config", "--resume", "--out", "--steps", "--epochs"):
        early.add_argument(flag)
    early.add_argument("--auto-resume", "--auto_resume", action="store_true")
    found, _ = early.parse_known_args(sys.argv[1:] if argv is None else list(argv))
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    if restarted and not (found.out or found.resume):
        raise UserError("--out is needed under torchrun --max-restarts: it tells what to continue")
    if (found.auto_resume or restarted) and not found.resume and (_config_of(found.out).is_file()):
        found.resume = found.out
    file = _config_of(found.resume) if found.resume else Path(found.config or "")
    content = read_file(file) if found.resume or found.config else {}
    fields = TrainConfig.fields_from(content.get("train", {}), str(file))
    recipe = found.recipe or fields.get("recipe", TrainConfig.recipe)
    if recipe in RECIPES:  # one that is unknown is refused with the flags
        known = RECIPES[recipe]
        fields = {"batch_size": known.batch_size, **known.fields, **fields, "recipe": recipe}
    if found.steps or found.epochs:  # one in a flag goes before the other in a file
        fields.pop("epochs" if found.steps else "steps", None)
    if found.resume:
        fields |= {"resume": Path(found.resume), "out": Path(found.resume)}
    elif not found.out:
        fields.pop("out", None)
    return Defaults(TrainConfig(**fields), content.get("model"))


def _config_of(folder: str | None) -> Path:
    return Path(folder or "") / "config.json"


def read_file(path: Path) -> dict[str, Any]:
    """A configuration in JSON or TOML: tables `train` and `model`, of which one may be absent.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            if sys.version_info < (3, 11):
                raise UserError(f"{path}: TOML needs Python 3.11; write it as JSON")
            import tomllib

            content = tomllib.loads(text)
        else:
            content = json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); name a .json or .toml file") from error
    except (ValueError, RecursionError) as error:
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise UserError(f"{path}: is no valid {kind} ({error})") from error
    if not isinstance(content, dict) or not content.keys() & {"train", "model"}:
        raise UserError(f"{path}: must hold a table train or model, as config.json of a run does")
    return content


def model_fields(entries: Sequence[str]) -> dict[str, Any]:
    """`name=value` words as fields of `ModelConfig`.

    Values are JSON where they can be, else text.

    Raises:
        UserError: if a word is no such pair, the field is unknown, or its value is of another kind.
    """
    known = {field.name: str(field.type) for field in dataclasses.fields(ModelConfig)}
    fields = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or name not in known:
            raise UserError(
                f"--set {entry}: must be name=value with a field of the model's configuration "
                "(mrcnn.ModelConfig), as roi_samples=256"
            )
        kind = known[name]
        try:
            fields[name] = json.loads(value) if kind != "str" else value
            if kind.startswith("tuple"):
                _check_parts(kind, fields[name])
            else:
                typed(kind, fields[name])
        except (ValueError, TypeError):
            raise UserError(f"--set {entry}: {name} must be of type {kind}") from None
    return fields


def _check_parts(kind: str, value: Any) -> None:
    """TypeError unless `value` is a list of what the tuple `kind` holds, or of lists of it."""
    allowed = (str,) if "str" in kind else (int, float)
    if not isinstance(value, list):
        raise TypeError
    parts = [part for one in value for part in (one if isinstance(one, list) else [one])]
    if not all(type(part) in allowed for part in parts):
        raise TypeError


def resolved(args: TrainConfig, images: int) -> tuple[TrainConfig, list[str]]:
    """Numbers that were left to the recipe, for the batch size of the run.

    The linear rule: with k times the images a step, k times the learning rate, and a k-th of the
    steps and of the warm-up (Goyal et al., 2017).

    Args:
        images: in the training set.
    Returns:
        The same run with `steps`, `warmup` and `lr` set, and sentences that say how.
    """
    recipe = RECIPES[args.recipe]
    scale = args.batch_size / recipe.batch_size
    if args.epochs is not None:
        steps = max(1, round(args.epochs * images / args.batch_size))
    else:
        steps = args.steps or max(1, round(recipe.steps / scale))
    warmup = max(1, round(recipe.warmup / scale)) if args.warmup is None else args.warmup
    lr = args.lr or recipe.lr[args.optimizer] * scale
    by_rule = {
        f"lr {lr:g}": args.lr is None,
        f"{steps} steps": args.steps is None and args.epochs is None,
        f"warm-up of {warmup}": args.warmup is None,
    }
    notes = []
    if scale != 1 and (scaled := [text for text, applies in by_rule.items() if applies]):
        notes.append(
            f"recipe {args.recipe} is made for {recipe.batch_size} images a step; with "
            f"{args.batch_size}, by the linear rule: {', '.join(scaled)}"
        )
    return dataclasses.replace(args, steps=steps, epochs=None, warmup=warmup, lr=lr), notes


def description(recipe: str) -> str:
    """What the help says of a recipe before the flags, which cannot show what follows from it."""
    known = RECIPES[recipe]
    rates = ", ".join(f"{rate:g} ({name})" for name, rate in known.lr.items())
    fields = "".join(f", {name}={value}" for name, value in known.model_fields.items())
    return (
        f"{' '.join(str(TrainConfig.__doc__).split())}\n\n"
        f"Recipe {recipe}: {known.about} For {known.batch_size} images a step: "
        f"{known.steps} steps, warm-up of {known.warmup}, learning rate {rates}. "
        f"Model {known.model}{fields}."
    )


def named_model(args: TrainConfig, defaults: Defaults) -> ModelConfig | None:
    """The model of the file that the numbers come from, or the named one; None if neither is.

    Raises:
        UserError: if the file's is no model.
    """
    if defaults.model is not None and args.model == defaults.train.model:
        try:
            return ModelConfig.from_dict(defaults.model)
        except (ValueError, TypeError) as error:
            raise UserError(f"{args.config or args.resume}: {error}") from error
    if args.model is None:
        return None
    return dataclasses.replace(MODELS[args.model], **RECIPES[args.recipe].model_fields)
