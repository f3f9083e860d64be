"""Shared parts of the backbones: the order of their stages, norms by name, frozen stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from torch import Tensor, nn

from mrcnn.models.layers import NORMS, check_choice


class Backbone(nn.Module):
    """A network that returns one feature map per stage, from fine to coarse.

    Parameters carry torchvision's names, so that its ImageNet weights load unchanged. These names
    list layers, not stages, so stages are methods here and not modules.
    """

    strides: list[int]  # of the map of each stage, in image pixels per cell
    channels: list[int]  # of the map of each stage
    fixes_frozen_norms = True  # see `Numerics`

    def train(self, mode: bool = True) -> Self:
        """Set the mode, but keep batch norm without trained weights in inference mode."""
        super().train(mode)
        for module in self.modules() if self.fixes_frozen_norms else ():
            if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()
        return self

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return the map of each stage, (N, channels[i], H / strides[i], W / strides[i]).

        Args:
            pixels: (N, 3, H, W), normalised.
        """
        x, maps = self.run_stem(pixels), []
        for i in range(len(self.strides)):
            x = self.run_stage(i, x)
            maps.append(x)
        return maps

    def run_stem(self, pixels: Tensor) -> Tensor:
        """Return the map that the first stage takes."""
        raise NotImplementedError

    def run_stage(self, index: int, x: Tensor) -> Tensor:
        """Return the map of a stage, given that of the stage before, or of the stem."""
        raise NotImplementedError


def norm_by_name(backbone: str, norm: str, eps: float) -> Callable[[int], nn.Module]:
    """Return a function that makes a norm for a number of channels.

    Args:
        backbone: name of the backbone, for messages.
        norm: a key of `NORMS`.
        eps: added to variances.

    Raises:
        ValueError: if there is no such norm; or, from the returned function, if a group norm
            cannot divide the channels into equal groups.
    """
    check_choice(f"norm of backbone {backbone!r}", norm, NORMS)

    def make(channels: int) -> nn.Module:
        try:
            return NORMS[norm](channels, eps)
        except ValueError as error:  # PyTorch's message does not name the backbone
            raise ValueError(
                f"backbone {backbone!r} has a layer of {channels} channels, which norm {norm!r} "
                f"cannot divide: {error}; choose norm 'group_of_8'"
            ) from error

    return make


def freeze(parts: Sequence[Sequence[nn.Module]], count: int) -> None:
    """Stop training the first `count` parts of a backbone: the stem, then each stage."""
    for part in parts[:count]:
        for module in part:
            module.requires_grad_(False)
