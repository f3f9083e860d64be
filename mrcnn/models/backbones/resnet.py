"""ResNet-18 to 152 (He et al., 2016), ResNeXt and wide ResNets as backbones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from mrcnn.models.backbones.common import Backbone, freeze, norm_by_name
from mrcnn.models.layers import conv


def _conv(
    channels_in: int,
    channels_out: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(
        channels_in, channels_out, kernel, stride, padding, dilation, groups, bias=False
    )


@dataclass(frozen=True)
class Shape:
    """The dimensions of one network of the family."""

    bottleneck: bool
    depths: tuple[int, int, int, int]  # blocks per stage
    groups: int = 1  # of the 3 x 3 convolutions (ResNeXt: Xie et al., 2017)
    group_width: int = 64  # channels per group in the first stage

    def channels(self, stage: int) -> int:
        """Return the channels of the map of a stage (0 to 3)."""
        return (256 if self.bottleneck else 64) << stage


RESNETS = {
    "resnet18": Shape(False, (2, 2, 2, 2)),
    "resnet34": Shape(False, (3, 4, 6, 3)),
    "resnet50": Shape(True, (3, 4, 6, 3)),
    "resnet101": Shape(True, (3, 4, 23, 3)),
    "resnet152": Shape(True, (3, 8, 36, 3)),
    "resnext50_32x4d": Shape(True, (3, 4, 6, 3), 32, 4),
    "resnext101_32x4d": Shape(True, (3, 4, 23, 3), 32, 4),
    "resnext101_32x8d": Shape(True, (3, 4, 23, 3), 32, 8),
    "resnext101_64x4d": Shape(True, (3, 4, 23, 3), 64, 4),
    "wide_resnet50_2": Shape(True, (3, 4, 6, 3), 1, 128),
    "wide_resnet101_2": Shape(True, (3, 4, 23, 3), 1, 128),
}


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al., 2016, figure 5 left)."""

    def __init__(
        self, channels_in: int, channels: int, stride: int, norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(channels_in, channels, 3, stride), norm(channels)
        self.conv2, self.bn2 = _conv(channels, channels, 3), norm(channels)
        self.downsample = _shortcut(channels_in, channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on (N, channels in, H, W)."""
        y = conv(x, self.conv1, self.bn1, relu=True)
        return conv(y, self.conv2, self.bn2, add=_run_shortcut(self.downsample, x), relu=True)


class Bottleneck(nn.Module):
    """A 3 x 3 convolution between two 1 x 1, and a shortcut (He et al., 2016, figure 5 right).

    Args:
        channels_in: of the input.
        width: channels of the 3 x 3 convolution.
        channels: of the output.
        stride: 2 halves the map.
        norm: makes a norm for a number of channels.
        groups: of the 3 x 3 convolution.
        dilation: of the 3 x 3 convolution.
        stride_in_1x1: put the stride in the first 1 x 1 convolution, as He et al. did, instead of
            in the 3 x 3, as most later networks do.
    """

    def __init__(
        self,
        channels_in: int,
        width: int,
        channels: int,
        stride: int,
        norm: Callable[[int], nn.Module],
        *,
        groups: int,
        dilation: int,
        stride_in_1x1: bool,
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1, self.bn1 = _conv(channels_in, width, 1, first), norm(width)
        self.conv2 = _conv(width, width, 3, second, groups, dilation)
        self.bn2 = norm(width)
        self.conv3, self.bn3 = _conv(width, channels, 1), norm(channels)
        self.downsample = _shortcut(channels_in, channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on (N, channels in, H, W)."""
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


def make_stage(
    name: str,
    index: int,
    *,
    norm: str,
    norm_eps: float = 1e-5,
    stride_in_1x1: bool = False,
    dilated: bool = False,
) -> nn.Sequential:
    """Make one of the four stages of a ResNet, initialised as published.

    Args:
        name: a key of `RESNETS`.
        index: 0 to 3. Stages 1 to 3 halve the map.
        norm: a key of `NORMS`.
        norm_eps: added to variances.
        stride_in_1x1: see `Bottleneck`.
        dilated: keep the size of the map, and dilate the 3 x 3 convolutions instead.
    """
    shape = RESNETS[name]
    channels = shape.channels(index)
    channels_in = shape.channels(index - 1) if index else 64
    make_norm = norm_by_name(name, norm, norm_eps)
    blocks = nn.Sequential()
    for j in range(shape.depths[index]):
        stride = 2 if index > 0 and j == 0 and not dilated else 1
        if shape.bottleneck:
            width = shape.groups * shape.group_width * 2**index
            blocks.append(
                Bottleneck(
                    channels_in,
                    width,
                    channels,
                    stride,
                    make_norm,
                    groups=shape.groups,
                    dilation=2 if dilated else 1,
                    stride_in_1x1=stride_in_1x1,
                )
            )
        else:
            blocks.append(BasicBlock(channels_in, channels, stride, make_norm))
        channels_in = channels
    _initialise(blocks)
    return blocks


def _initialise(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


class ResNet(Backbone):
    """The stem and the first stages of a ResNet.

    Args:
        name: a key of `RESNETS`.
        norm: a key of `NORMS`.
        norm_eps: added to variances.
        stride_in_1x1: see `Bottleneck`.
        stages: how many of the four stages to build.
        dilate_last: the last stage is dilated and keeps the size of its map.
        frozen_stages: number of parts that are not trained: 1 freezes the stem, 2 also layer1, …

    Raises:
        ValueError: if `dilate_last` is set for a network without bottlenecks.
    """

    def __init__(
        self,
        name: str,
        *,
        norm: str,
        norm_eps: float = 1e-5,
        stride_in_1x1: bool = False,
        stages: int = 4,
        dilate_last: bool = False,
        frozen_stages: int = 0,
    ) -> None:
        super().__init__()
        if dilate_last and not RESNETS[name].bottleneck:
            raise ValueError(
                f"ResNet: dilate_last requires bottlenecks, which backbone {name!r} does not have"
            )
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = norm_by_name(name, norm, norm_eps)(64)
        _initialise(self.conv1)
        self.stages = [f"layer{i + 1}" for i in range(stages)]
        self.strides = [4 * 2**i for i in range(stages)]
        self.channels = [RESNETS[name].channels(i) for i in range(stages)]
        for i, stage in enumerate(self.stages):
            dilated = dilate_last and i == stages - 1
            blocks = make_stage(
                name,
                i,
                norm=norm,
                norm_eps=norm_eps,
                stride_in_1x1=stride_in_1x1,
                dilated=dilated,
            )
            self.add_module(stage, blocks)
            if dilated:
                self.strides[i] //= 2
        parts = [[self.conv1, self.bn1], *([getattr(self, stage)] for stage in self.stages)]
        freeze(parts, frozen_stages)

    def run_stem(self, pixels: Tensor) -> Tensor:
        """Return the map of conv1 after max pooling, of stride 4."""
        return F.max_pool2d(conv(pixels, self.conv1, self.bn1, relu=True), 3, 2, 1)

    def run_stage(self, index: int, x: Tensor) -> Tensor:
        """Return the map of a stage, which torchvision calls layer1 to layer4."""
        y: Tensor = getattr(self, self.stages[index])(x)
        return y
