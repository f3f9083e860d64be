"""ResNet-18 to 152 (He et al., 2016) as a backbone: one feature map a stage.

Parameters carry torchvision's names, so that its ImageNet weights load as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from mrcnn.models.layers import FrozenBatchNorm, conv


def _group_norm(channels: int, eps: float) -> nn.Module:
    return nn.GroupNorm(32, channels, eps)  # 32 groups throughout: Wu and He, 2018


def _group_norm_of_8(channels: int, eps: float) -> nn.Module:
    return nn.GroupNorm(channels // 8, channels, eps)


NORMS: dict[str, Callable[[int, float], nn.Module]] = {
    "frozen_batch": FrozenBatchNorm,
    "batch": nn.BatchNorm2d,
    "group": _group_norm,
    # Narrow groups are slow on CPUs: with 2 channels a group, as 64 channels in 32 groups have,
    # the backward of the norm takes five times as long as with 8.
    "group_of_8": _group_norm_of_8,
}


def _conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(
        self, channels_in: int, width: int, stride: int, norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(channels_in, width, 3, stride), norm(width)
        self.conv2, self.bn2 = _conv(width, width, 3), norm(width)
        self.downsample = _shortcut(channels_in, width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = conv(x, self.conv1, self.bn1, relu=True)
        return conv(y, self.conv2, self.bn2, add=_run_shortcut(self.downsample, x), relu=True)


class Bottleneck(nn.Module):
    """A 3 x 3 convolution between two 1 x 1; the stride is in the 3 x 3, as torchvision has it."""

    expansion = 4

    def __init__(
        self, channels_in: int, width: int, stride: int, norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        channels_out = width * self.expansion
        self.conv1, self.bn1 = _conv(channels_in, width, 1), norm(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride), norm(width)
        self.conv3, self.bn3 = _conv(width, channels_out, 1), norm(channels_out)
        self.downsample = _shortcut(channels_in, channels_out, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = conv(x, self.conv1, self.bn1, relu=True)
        y = conv(y, self.conv2, self.bn2, relu=True)
        return conv(y, self.conv3, self.bn3, add=_run_shortcut(self.downsample, x), relu=True)


def _shortcut(
    channels_in: int, channels_out: int, stride: int, norm: Callable[[int], nn.Module]
) -> nn.Module:
    if stride == 1 and channels_in == channels_out:
        return nn.Identity()
    return nn.Sequential(_conv(channels_in, channels_out, 1, stride), norm(channels_out))


def _run_shortcut(shortcut: nn.Module, x: Tensor) -> Tensor:
    return conv(x, *shortcut) if isinstance(shortcut, nn.Sequential) else x


RESNETS: dict[str, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """The stem and the first stages of a ResNet.

    Args:
        name: a key of `RESNETS`.
        norm: a key of `NORMS`.
        norm_eps: added to variances.
        stages: how many of the four stages to build.
        frozen_stages: so many parts keep their weights in training: 1 the stem, 2 layer1 too, …
    """

    def __init__(
        self,
        name: str,
        *,
        norm: str,
        norm_eps: float = 1e-5,
        stages: int = 4,
        frozen_stages: int = 0,
    ) -> None:
        super().__init__()
        block, depths = RESNETS[name]

        def make_norm(channels: int) -> nn.Module:
            return NORMS[norm](channels, norm_eps)

        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = make_norm(64)
        self.stages = [f"layer{i + 1}" for i in range(stages)]
        self.strides = [4 * 2**i for i in range(stages)]
        self.channels = [64 * 2**i * block.expansion for i in range(stages)]
        channels = 64
        for i, stage in enumerate(self.stages):
            width, blocks = 64 * 2**i, nn.Sequential()
            for j in range(depths[i]):
                blocks.append(block(channels, width, 2 if i > 0 and j == 0 else 1, make_norm))
                channels = width * block.expansion
            self.add_module(stage, blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        parts = [[self.conv1, self.bn1], *([getattr(self, stage)] for stage in self.stages)]
        for part in parts[:frozen_stages]:
            for module in part:
                module.requires_grad_(False)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(N, 3, H, W) to one map a stage, (N, channels[i], H / strides[i], W / strides[i])."""
        x = conv(pixels, self.conv1, self.bn1, relu=True)
        x = F.max_pool2d(x, 3, 2, 1)
        maps = []
        for stage in self.stages:
            x = getattr(self, stage)(x)
            maps.append(x)
        return maps
