"""VGG-11 to 19 (Simonyan and Zisserman, 2015), with and without batch norm, as a backbone.

Parameters carry torchvision's names, so that its ImageNet weights load as they are.

VGG halves its map by max-pooling after each of its five blocks. The maps returned are the last ones
of blocks 3, 4 and 5 before their pooling, at strides 4, 8 and 16, and that after pool5 at stride
32. A map before pooling is the most processed one of its stride, and what detectors have always
read: Fast and Faster R-CNN pool their RoIs from conv5_3 of VGG-16, with which three stages end.
Stride 32 has no convolution in VGG; pool5 gives a fourth map without weights that ImageNet has not
trained.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mrcnn.models.body import freeze, norm_by_name
from mrcnn.models.layers import conv

# Convolutions of each block, and whether norms follow them.
VGGS: dict[str, tuple[tuple[int, int, int, int, int], bool]] = {
    "vgg11": ((1, 1, 2, 2, 2), False),
    "vgg13": ((2, 2, 2, 2, 2), False),
    "vgg16": ((2, 2, 3, 3, 3), False),
    "vgg19": ((2, 2, 4, 4, 4), False),
    "vgg11_bn": ((1, 1, 2, 2, 2), True),
    "vgg13_bn": ((2, 2, 2, 2, 2), True),
    "vgg16_bn": ((2, 2, 3, 3, 3), True),
    "vgg19_bn": ((2, 2, 4, 4, 4), True),
}

WIDTHS = (64, 128, 256, 512, 512)  # channels of each block


class VGG(nn.Module):
    """The stem (blocks 1 and 2) and the first stages (blocks 3, 4, 5 and pool5) of a VGG.

    Args:
        name: a key of `VGGS`.
        norm: a key of `NORMS` for names that end in "_bn"; "none" for the others, whose
            convolutions have biases only.
        norm_eps: added to variances; 1e-5 in torchvision.
        stages: how many of the four stages to build.
        frozen_stages: so many parts keep their weights in training: 1 the stem (what Fast R-CNN
            keeps of VGG-16), 2 block 3 too, …
    Raises:
        ValueError: if `norm` is not for this network.
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
        depths, self.with_norms = VGGS[name]
        if self.with_norms and norm == "none":
            raise ValueError(
                f"VGG: backbone {name!r} has norms, got norm 'none'; "
                f"choose another norm, or backbone {name.removesuffix('_bn')!r}"
            )
        if not self.with_norms and norm != "none":
            raise ValueError(
                f"VGG: backbone {name!r} has no norms, got norm {norm!r}; "
                f"choose norm 'none', or backbone {name + '_bn'!r}"
            )
        make_norm = norm_by_name(name, norm, norm_eps) if self.with_norms else None
        self.strides = [4 * 2**i for i in range(stages)]
        self.channels = [*WIDTHS[2:], WIDTHS[-1]][:stages]
        self.features = nn.ModuleDict()  # keys: places in torchvision's sequence
        self.blocks: list[list[tuple[str, str]]] = []  # keys of convolutions and their norms
        channels, place = 3, 0
        for depth, width in zip(depths[: 2 + stages], WIDTHS, strict=False):
            block = []
            for _ in range(depth):
                layer, after = str(place), str(place + 1)
                self.features[layer] = nn.Conv2d(channels, width, 3, padding=1)
                if make_norm:
                    self.features[after] = make_norm(width)
                block.append((layer, after))
                channels = width
                place += 3 if self.with_norms else 2  # with the ReLU
            self.blocks.append(block)
            place += 1  # the pooling
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        layers = [
            [self.features[key] for pair in block for key in pair if key in self.features]
            for block in self.blocks
        ]
        freeze([layers[0] + layers[1], *layers[2:]], frozen_stages)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(N, 3, H, W) to one map a stage, (N, channels[i], H / strides[i], W / strides[i])."""
        x, maps = pixels, []
        for i, block in enumerate(self.blocks):
            x = self.run_block(x, block)
            if i >= 2:
                maps.append(x)
            x = F.max_pool2d(x, 2)
        return [*maps, x][: len(self.strides)]

    def run_block(self, x: Tensor, block: list[tuple[str, str]]) -> Tensor:
        """The layers of one resolution; no module, as published weights name layers alone."""
        for layer, after in block:
            norm = self.features[after] if self.with_norms else None
            x = conv(x, self.features[layer], norm, relu=True)
        return x
