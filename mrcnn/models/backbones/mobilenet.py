"""MobileNetV2 (Sandler et al., 2018) as a backbone: one feature map per stride, from 4 on.

A stage ends with the last block of its stride, which has the strongest features (Lin et al., 2017):
features 3, 6, 13 and 17 of torchvision's sequence. Torchvision's detectors use the first block of
each stride instead (features 2, 4, 7 and 14), and then feature 18. Feature 18, a 1 x 1 convolution
to 1280 channels, exists for the classifier and is left out: the FPN has a 1 x 1 convolution there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrcnn.models.backbones.common import Backbone, freeze, norm_by_name
from mrcnn.models.layers import conv

# Rows of the paper's table 2: expansion, channels, blocks, stride of the first block. They are
# grouped by stride: those of the stem, then those of each stage.
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
    """A 1 x 1 convolution to many channels, a depthwise 3 x 3, and a linear 1 x 1 back to few.

    With a shortcut where the shape of the map stays (Sandler et al., 2018, figure 3b).
    """

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
        """Run the block on (N, channels in, H, W)."""
        *layers, project, norm = self.conv
        y = x
        for layer in layers:
            y = _rectified(y, layer)
        return conv(y, project, norm, add=x if self.shortcut else None)


class MobileNet(Backbone):
    """The stem and the first stages of a MobileNetV2. A stage begins where the map is halved.

    Args:
        name: a key of `MOBILENETS`.
        norm: a key of `NORMS`, except "group", whose 32 groups do not divide all channels.
        norm_eps: added to variances; 1e-5 in torchvision.
        stages: how many of the four stages to build.
        frozen_stages: number of parts that are not trained: 1 freezes the stem (features 0 and
            1), 2 also the first stage (features 2 and 3), …

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
        self.ends = list(accumulate(map(len, parts)))  # of stem and stages, in features
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        freeze(parts, frozen_stages)

    def run_stem(self, pixels: Tensor) -> Tensor:
        """Return the map of features 0 and 1."""
        x: Tensor = self.features[1](_rectified(pixels, self.features[0]))
        return x

    def run_stage(self, index: int, x: Tensor) -> Tensor:
        """Return the map of the last block of a stage."""
        for i in range(self.ends[index], self.ends[index + 1]):
            x = self.features[i](x)
        return x


def folded_to_frozen(folded: Mapping[str, Tensor], norm_eps: float) -> dict[str, Tensor]:
    """Convert weights into which norms were folded to a state dict with frozen batch norm.

    Args:
        folded: weight and bias of each convolution. Names hold the index of the block and the
            index of the layer in it, as in "0.0.weight" and "4.conv.2.0.bias".
        norm_eps: added to variances by the norms of the model.

    Returns:
        The same layers under torchvision's names. Norms of mean 0 and variance 1 add the biases.
    """
    state: dict[str, Tensor] = {}
    for name, bias in folded.items():
        if not name.endswith(".0.bias"):
            continue
        prefix = name.removesuffix(".0.bias")
        layer, norm = f"{prefix}.0", f"{prefix}.1"
        block, _, step = prefix.partition(".conv.")
        if step and f"{block}.conv.{int(step) + 1}.0.bias" not in folded:
            # The last convolution of a block has no ReLU, so torchvision does not nest it.
            layer, norm = prefix, f"{block}.conv.{int(step) + 1}"
        state[f"features.{layer}.weight"] = folded[f"{prefix}.0.weight"]
        state[f"features.{norm}.weight"] = torch.full_like(bias, (1 + norm_eps) ** 0.5)
        state[f"features.{norm}.bias"] = bias
        state[f"features.{norm}.running_mean"] = torch.zeros_like(bias)
        state[f"features.{norm}.running_var"] = torch.ones_like(bias)
    return state
