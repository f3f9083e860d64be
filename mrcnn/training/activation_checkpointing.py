"""Activation checkpointing: recompute activations in the backward pass to save memory."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from mrcnn.errors import UserError
from mrcnn.models.backbones.vgg import VGG


def checkpoint_stages(backbone: nn.Module) -> None:
    """Keep only the inputs of the stages of a backbone, and recompute the rest in backward.

    The method is that of Chen et al., 2016.

    Raises:
        UserError: if the backbone has batch norm that would see every batch twice.
    """
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in backbone.modules()):
        raise UserError(
            "--checkpoint-activations: the statistics of live batch norm would count every batch "
            "twice; choose --set norm=frozen_batch or norm=group"
        )
    if isinstance(backbone, VGG):
        backbone.run_block = partial(  # type: ignore[method-assign]
            checkpoint, backbone.run_block, use_reentrant=False
        )
        return
    stages = [
        stage
        for child in backbone.children()
        for stage in (child if isinstance(child, nn.ModuleList) else [child])
    ]
    for stage in (s for s in stages if any(p.requires_grad for p in s.parameters())):
        stage.forward = partial(checkpoint, stage.forward, use_reentrant=False)
