"""Flags of the commands that load a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mrcnn.cli.flags import fields_set, group
from mrcnn.config import ModelConfig
from mrcnn.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """Flags that all commands share which load a model."""

    set: tuple[str, ...] = group("model", ())
    """Fields of the model configuration that replace those of --weights, for example min_size=1024
    class_names='["cat","dog"]'. docs/checkpoints.md lists those that files may lack."""
    bgr: bool | None = None
    """True if a model of another framework reads pixels as blue, green, red. If not set, it is that
    framework's order."""

    def fields(self, **flags: Any) -> dict[str, Any]:
        """Return the arguments for `load`: `bgr`, and the fields of `ModelConfig` that are set.

        Args:
            **flags: values of other flags by field; None is not set.

        Raises:
            UserError: if `--set` is not valid, or sets a field that another flag sets, too.
        """
        fields = fields_set(self.set, ModelConfig)
        for name, value in flags.items():
            if value is not None and fields.setdefault(name, value) != value:
                raise UserError(
                    f"--set {name}={fields[name]}: this command has a flag for it, which is {value}"
                    "; use that flag"
                )
        return {"bgr": self.bgr, **fields}


@dataclass(frozen=True, kw_only=True)
class ProgramFlags(ModelFlags):
    """Flags that all commands share which run a checkpoint or a program."""

    trust: bool = False
    """Run the program in --weights, a .pt2 of mrcnn export. It is code: use it only for files from
    people you trust."""

    def fields(self, **flags: Any) -> dict[str, Any]:
        """Return the arguments for `load`. See `ModelFlags.fields`."""
        return {"trust": self.trust, **super().fields(**flags)}
