"""What the backbones share: norms by name, parts that stay frozen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from mrcnn.models.layers import NORMS, check_choice


def norm_by_name(backbone: str, norm: str, eps: float) -> Callable[[int], nn.Module]:
    """Makes norms for so many channels.

    Args:
        backbone: for messages.
        norm: a key of `NORMS`.
        eps: added to variances.
    Raises:
        ValueError: if there is no such norm; or from the function returned, if groups of a group
            norm would differ in size.
    """
    check_choice(f"norm of backbone {backbone!r}", norm, NORMS)

    def make(channels: int) -> nn.Module:
        try:
            return NORMS[norm](channels, eps)
        except ValueError as error:  # of torch, which does not know whose channels they are
            raise ValueError(
                f"backbone {backbone!r} has a layer of {channels} channels, which norm {norm!r} "
                f"cannot divide: {error}; choose norm 'group_of_8'"
            ) from error

    return make


def freeze(parts: Sequence[Sequence[nn.Module]], count: int) -> None:
    """Let the first `count` parts keep their weights in training."""
    for part in parts[:count]:
        for module in part:
            module.requires_grad_(False)
