"""Activations computed twice instead of kept."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from mrcnn.errors import UserError
from mrcnn.models.vgg import VGG


def checkpoint_stages(backbone: nn.Module) -> None:
    """Keep the inputs of the stages of a backbone alone, and compute the rest again in backward
    (Chen et al., 2016).

    Raises:
        UserError: if its batch norm would see every batch twice.
    """
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in backbone.modules()):
        raise UserError(
            "--checkpoint-activations: the model has live batch norm, whose statistics would count "
            "every batch twice; choose --set norm=frozen_batch or norm=group"
        )
    if isinstance(backbone, VGG):
        backbone.run_block = partial(  # type: ignore[method-assign]
            checkpoint, backbone.run_block, use_reentrant=False
        )
        return
    parts = [
        part
        for child in backbone.children()
        for part in (child if isinstance(child, nn.ModuleList) else [child])
    ]
    for stage in (part for part in parts if any(p.requires_grad for p in part.parameters())):
        stage.forward = partial(checkpoint, stage.forward, use_reentrant=False)
