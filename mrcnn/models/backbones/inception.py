"""Inception v3 (Szegedy et al., 2016) as a backbone: one feature map per stride, from 4 on.

The published weights were trained with 1e-3 added to variances, on pixels scaled to [-1, 1].

The published network is a classifier. It has 3 x 3 convolutions and poolings without padding in its
stem and wherever it halves its map, so that 299 pixels give 35, 17 and 8 cells. Here each of them
is padded by 1. So H pixels give H / stride cells, and cell i is centred at pixel i * stride, as in
a ResNet. Away from the borders the features equal the unpadded ones on a shifted grid.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrcnn.models.backbones.common import Backbone, freeze, norm_by_name
from mrcnn.models.layers import conv

# Fraction of the published channels. The narrow network can be trained on a CPU.
INCEPTIONS: dict[str, float] = {"inception_v3": 1.0, "inception_v3_narrow": 0.25}


class Layer(nn.Module):
    """A convolution that keeps the size of its map or, with stride 2, halves it; norm and ReLU."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        kernel: tuple[int, int],
        stride: int,
        norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.conv = nn.Conv2d(channels_in, channels, kernel, stride, padding, bias=False)
        self.bn = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Run the convolution, the norm and the ReLU on (N, channels in, H, W)."""
        return conv(x, self.conv, self.bn, relu=True)


# Takes channels in, channels out (both at full width), (height, width) of the kernel, and stride.
MakeLayer = Callable[[int, int, tuple[int, int], int], Layer]


def _run(x: Tensor, *layers: nn.Module) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


class InceptionA(nn.Module):
    """Branches of 1 x 1, 5 x 5, two 3 x 3, and pooling (figure 5 of the paper)."""

    def __init__(self, channels: int, pooled: int, make: MakeLayer) -> None:
        super().__init__()
        self.branch1x1 = make(channels, 64, (1, 1), 1)
        self.branch5x5_1 = make(channels, 48, (1, 1), 1)
        self.branch5x5_2 = make(48, 64, (5, 5), 1)
        self.branch3x3dbl_1 = make(channels, 64, (1, 1), 1)
        self.branch3x3dbl_2 = make(64, 96, (3, 3), 1)
        self.branch3x3dbl_3 = make(96, 96, (3, 3), 1)
        self.branch_pool = make(channels, pooled, (1, 1), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the branches on (N, channels, H, W) and concatenate their maps."""
        branches = [
            self.branch1x1(x),
            _run(x, self.branch5x5_1, self.branch5x5_2),
            _run(x, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3),
            self.branch_pool(F.avg_pool2d(x, 3, 1, 1)),
        ]
        return torch.cat(branches, 1)


class InceptionB(nn.Module):
    """Branches of 3 x 3, two 3 x 3, and pooling, which halve the map of stride 8 (figure 10)."""

    def __init__(self, channels: int, make: MakeLayer) -> None:
        super().__init__()
        self.branch3x3 = make(channels, 384, (3, 3), 2)
        self.branch3x3dbl_1 = make(channels, 64, (1, 1), 1)
        self.branch3x3dbl_2 = make(64, 96, (3, 3), 1)
        self.branch3x3dbl_3 = make(96, 96, (3, 3), 2)

    def forward(self, x: Tensor) -> Tensor:
        """Run the branches on (N, channels, H, W) and concatenate their maps."""
        branches = [
            self.branch3x3(x),
            _run(x, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3),
            F.max_pool2d(x, 3, 2, 1),
        ]
        return torch.cat(branches, 1)


class InceptionC(nn.Module):
    """Branches of 1 x 1, 7 x 7, two 7 x 7, and pooling; 7 x 7 is 1 x 7, then 7 x 1 (figure 6)."""

    def __init__(self, channels: int, inner: int, make: MakeLayer) -> None:
        super().__init__()
        self.branch1x1 = make(channels, 192, (1, 1), 1)
        self.branch7x7_1 = make(channels, inner, (1, 1), 1)
        self.branch7x7_2 = make(inner, inner, (1, 7), 1)
        self.branch7x7_3 = make(inner, 192, (7, 1), 1)
        self.branch7x7dbl_1 = make(channels, inner, (1, 1), 1)
        self.branch7x7dbl_2 = make(inner, inner, (7, 1), 1)
        self.branch7x7dbl_3 = make(inner, inner, (1, 7), 1)
        self.branch7x7dbl_4 = make(inner, inner, (7, 1), 1)
        self.branch7x7dbl_5 = make(inner, 192, (1, 7), 1)
        self.branch_pool = make(channels, 192, (1, 1), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the branches on (N, channels, H, W) and concatenate their maps."""
        twice = _run(x, self.branch7x7dbl_1, self.branch7x7dbl_2, self.branch7x7dbl_3)
        branches = [
            self.branch1x1(x),
            _run(x, self.branch7x7_1, self.branch7x7_2, self.branch7x7_3),
            _run(twice, self.branch7x7dbl_4, self.branch7x7dbl_5),
            self.branch_pool(F.avg_pool2d(x, 3, 1, 1)),
        ]
        return torch.cat(branches, 1)


class InceptionD(nn.Module):
    """Branches of 3 x 3, 7 x 7 with 3 x 3, and pooling, which halve the map of stride 16."""

    def __init__(self, channels: int, make: MakeLayer) -> None:
        super().__init__()
        self.branch3x3_1 = make(channels, 192, (1, 1), 1)
        self.branch3x3_2 = make(192, 320, (3, 3), 2)
        self.branch7x7x3_1 = make(channels, 192, (1, 1), 1)
        self.branch7x7x3_2 = make(192, 192, (1, 7), 1)
        self.branch7x7x3_3 = make(192, 192, (7, 1), 1)
        self.branch7x7x3_4 = make(192, 192, (3, 3), 2)

    def forward(self, x: Tensor) -> Tensor:
        """Run the branches on (N, channels, H, W) and concatenate their maps."""
        wide = _run(x, self.branch7x7x3_1, self.branch7x7x3_2, self.branch7x7x3_3)
        branches = [
            _run(x, self.branch3x3_1, self.branch3x3_2),
            self.branch7x7x3_4(wide),
            F.max_pool2d(x, 3, 2, 1),
        ]
        return torch.cat(branches, 1)


class InceptionE(nn.Module):
    """Wide branches for the coarsest map; 3 x 3 is 1 x 3 and 3 x 1 in parallel (figure 7)."""

    def __init__(self, channels: int, make: MakeLayer) -> None:
        super().__init__()
        self.branch1x1 = make(channels, 320, (1, 1), 1)
        self.branch3x3_1 = make(channels, 384, (1, 1), 1)
        self.branch3x3_2a = make(384, 384, (1, 3), 1)
        self.branch3x3_2b = make(384, 384, (3, 1), 1)
        self.branch3x3dbl_1 = make(channels, 448, (1, 1), 1)
        self.branch3x3dbl_2 = make(448, 384, (3, 3), 1)
        self.branch3x3dbl_3a = make(384, 384, (1, 3), 1)
        self.branch3x3dbl_3b = make(384, 384, (3, 1), 1)
        self.branch_pool = make(channels, 192, (1, 1), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the branches on (N, channels, H, W) and concatenate their maps."""
        once = self.branch3x3_1(x)
        twice = _run(x, self.branch3x3dbl_1, self.branch3x3dbl_2)
        branches = [
            self.branch1x1(x),
            self.branch3x3_2a(once),
            self.branch3x3_2b(once),
            self.branch3x3dbl_3a(twice),
            self.branch3x3dbl_3b(twice),
            self.branch_pool(F.avg_pool2d(x, 3, 1, 1)),
        ]
        return torch.cat(branches, 1)


class Inception(Backbone):
    """The stem and the first stages of Inception v3, without classifiers.

    Args:
        name: a key of `INCEPTIONS`.
        norm: a key of `NORMS`, except "group", whose 32 groups do not divide all channels.
        norm_eps: added to variances.
        stages: how many of the four stages to build. They end with Conv2d_4a_3x3, Mixed_5d,
            Mixed_6e and Mixed_7c, the last layers of their strides.
        frozen_stages: number of parts that are not trained: 1 freezes the stem up to
            Conv2d_2b_3x3, 2 also Conv2d_3b_1x1 and Conv2d_4a_3x3, 3 also Mixed_5, …

    Raises:
        ValueError: if the norm cannot divide the channels of a layer.
    """

    def __init__(
        self,
        name: str,
        *,
        norm: str,
        norm_eps: float = 1e-3,
        stages: int = 4,
        frozen_stages: int = 0,
    ) -> None:
        super().__init__()
        width, make_norm = INCEPTIONS[name], norm_by_name(name, norm, norm_eps)

        def scaled(channels: int) -> int:
            return -(-int(channels * width) // 8) * 8  # multiples of 8, as in the published network

        def make(channels_in: int, channels: int, kernel: tuple[int, int], stride: int) -> Layer:
            first = channels_in == 3  # pixels
            return Layer(
                3 if first else scaled(channels_in), scaled(channels), kernel, stride, make_norm
            )

        parts: list[dict[str, nn.Module]] = [
            {
                "Conv2d_1a_3x3": make(3, 32, (3, 3), 2),
                "Conv2d_2a_3x3": make(32, 32, (3, 3), 1),
                "Conv2d_2b_3x3": make(32, 64, (3, 3), 1),
            },
            {
                "Conv2d_3b_1x1": make(64, 80, (1, 1), 1),
                "Conv2d_4a_3x3": make(80, 192, (3, 3), 1),
            },
            {
                "Mixed_5b": InceptionA(192, 32, make),
                "Mixed_5c": InceptionA(256, 64, make),
                "Mixed_5d": InceptionA(288, 64, make),
            },
            {
                "Mixed_6a": InceptionB(288, make),
                "Mixed_6b": InceptionC(768, 128, make),
                "Mixed_6c": InceptionC(768, 160, make),
                "Mixed_6d": InceptionC(768, 160, make),
                "Mixed_6e": InceptionC(768, 192, make),
            },
            {
                "Mixed_7a": InceptionD(768, make),
                "Mixed_7b": InceptionE(1280, make),
                "Mixed_7c": InceptionE(2048, make),
            },
        ]
        self.strides = [4 * 2**i for i in range(stages)]
        self.channels = [scaled(channels) for channels in (192, 288, 768, 2048)[:stages]]
        self.parts = [list(part) for part in parts[: 1 + stages]]  # names of layers
        for part in parts[: 1 + stages]:
            for key, module in part.items():
                self.add_module(key, module)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.1)  # as torchvision, at any width
        freeze([list(part.values()) for part in parts], frozen_stages)

    def run_stem(self, pixels: Tensor) -> Tensor:
        """Return the map of Conv2d_2b_3x3."""
        return _run(pixels, *(getattr(self, name) for name in self.parts[0]))

    def run_stage(self, index: int, x: Tensor) -> Tensor:
        """Return the map of the last layer of a stage."""
        if index < 2:  # the layers of later stages halve the map themselves
            x = F.max_pool2d(x, 3, 2, 1)
        return _run(x, *(getattr(self, name) for name in self.parts[1 + index]))
