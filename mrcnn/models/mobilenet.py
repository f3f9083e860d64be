"""MobileNetV2 (Sandler et al., 2018) as a backbone: one feature map a stride from 4 on.

Parameters carry torchvision's names, so that its ImageNet weights load as they are.

The map of a stride is that of its last block, which has the strongest features (Lin et al., 2017):
features 3, 6, 13 and 17 of torchvision's sequence. Torchvision's own detectors take the first one,
2, 4, 7 and 14, and then 18. That last layer, a 1 x 1 convolution to 1280 channels, is made for the
classifier and left out: a neck has a 1 x 1 convolution of its own there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrcnn.models.body import freeze, norm_by_name
from mrcnn.models.layers import conv

# Rows of table 2 of the paper: expansion, channels, blocks, stride of the first block. They stand
# together by stride: those of the stem, then those of each stage.
MOBILENETS: dict[str, tuple[tuple[tuple[int, int, int, int], ...], ...]] = {
    "mobilenet_v2": (
        ((1, 16, 1, 1),),
        ((6, 24, 2, 2),),
        ((6, 32, 3, 2),),
        ((6, 64, 4, 2), (6, 96, 3, 1)),
        ((6, 160, 3, 2), (6, 320, 1, 1)),
    )
}

STEM = 32  # channels of the first convolution


def _layer(
    channels_in: int,
    channels: int,
    kernel: int,
    stride: int,
    groups: int,
    norm: Callable[[int], nn.Module],
) -> nn.Sequential:
    layer = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, norm(channels))


def _rectified(x: Tensor, layer: nn.Module) -> Tensor:
    assert isinstance(layer, nn.Sequential)
    return F.relu6(conv(x, *layer), inplace=True)


class InvertedResidual(nn.Module):
    """Few channels to many, a 3 x 3 convolution of each alone, and to few without a ReLU."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        stride: int,
        expansion: int,
        norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        inner = channels_in * expansion
        self.conv = nn.Sequential()
        if expansion != 1:
            self.conv.append(_layer(channels_in, inner, 1, 1, 1, norm))
        self.conv.append(_layer(inner, inner, 3, stride, inner, norm))
        self.conv.extend(_layer(inner, channels, 1, 1, 1, norm))
        self.shortcut = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        *layers, project, norm = self.conv
        y = x
        for layer in layers:
            y = _rectified(y, layer)
        return conv(y, project, norm, add=x if self.shortcut else None)


class MobileNet(nn.Module):
    """The stem and the first stages of a MobileNetV2; a stage begins where the map is halved.

    Args:
        name: a key of `MOBILENETS`.
        norm: a key of `NORMS`; not "group", whose 32 groups do not divide all channels.
        norm_eps: added to variances; 1e-5 in torchvision.
        stages: how many of the four stages to build.
        frozen_stages: so many parts keep their weights in training: 1 the stem (features 0 and 1),
            2 the first stage too (features 2 and 3), …
    Raises:
        ValueError: if the norm cannot divide the channels of a layer.
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
        make_norm = norm_by_name(name, norm, norm_eps)
        parts: list[list[nn.Module]] = []
        self.channels: list[int] = []
        channels_in = STEM
        for rows in MOBILENETS[name][: 1 + stages]:
            part: list[nn.Module] = []
            for expansion, channels, blocks, first_stride in rows:
                for j in range(blocks):
                    stride = first_stride if j == 0 else 1
                    part.append(
                        InvertedResidual(channels_in, channels, stride, expansion, make_norm)
                    )
                    channels_in = channels
            parts.append(part)
            self.channels.append(channels_in)
        parts[0].insert(0, _layer(3, STEM, 3, 2, 1, make_norm))
        self.strides, self.channels = [4 * 2**i for i in range(stages)], self.channels[1:]
        self.features = nn.ModuleList(module for part in parts for module in part)
        self.ends = list(accumulate(len(part) for part in parts))[1:]  # of stages, in features
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        freeze(parts, frozen_stages)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(N, 3, H, W) to one map a stage, (N, channels[i], H / strides[i], W / strides[i])."""
        stem, *blocks = self.features
        x, maps = _rectified(pixels, stem), []
        for count, block in enumerate(blocks, 2):
            x = block(x)
            if count in self.ends:
                maps.append(x)
        return maps


def folded_to_frozen(folded: Mapping[str, Tensor], norm_eps: float) -> dict[str, Tensor]:
    """A state dict for frozen batch norm of weights that the norms were folded into.

    Args:
        folded: weight and bias of each convolution, named by the place of its block and its own
            place there, as "0.0.weight" and "4.conv.2.0.bias".
        norm_eps: of the norms.
    Returns:
        The same under torchvision's names; norms of mean 0 and variance 1 add the biases.
    """
    state: dict[str, Tensor] = {}
    for name, bias in folded.items():
        if not name.endswith(".0.bias"):
            continue
        place = name.removesuffix(".0.bias")
        layer, norm = f"{place}.0", f"{place}.1"
        block, _, step = place.partition(".conv.")
        if step and f"{block}.conv.{int(step) + 1}.0.bias" not in folded:
            layer, norm = place, f"{block}.conv.{int(step) + 1}"  # a block's last has no ReLU
        state[f"features.{layer}.weight"] = folded[f"{place}.0.weight"]
        state[f"features.{norm}.weight"] = torch.full_like(bias, (1 + norm_eps) ** 0.5)
        state[f"features.{norm}.bias"] = bias
        state[f"features.{norm}.running_mean"] = torch.zeros_like(bias)
        state[f"features.{norm}.running_var"] = torch.ones_like(bias)
    return state
