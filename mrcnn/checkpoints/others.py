"""Networks of other frameworks that are not read, told by a name that only they have."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from mrcnn.errors import UserError

# Sources: the modules of torchvision, Detectron2, MMDetection, maskrcnn-benchmark and DETR.
_OTHERS = {
    "a Cascade R-CNN": r"roi_heads\.box_(head|predictor)\.\d+\.[a-z]\w+\.\w+"
    r"|roi_head\.bbox_head\.\d+\..+",
    "a RetinaNet": r"head\.(classification_head|cls_subnet)\..+|bbox_head\.retina_.+"
    r"|rpn\.head\.cls_tower\..+",
    "a Keypoint R-CNN": r"roi_heads\.keypoint(_head|_predictor)?\..+",
    "a panoptic model": r"sem_seg_head\..+|(roi_head\.)?semantic_head\..+",
    "PointRend": r"(roi_heads\.mask_head|roi_head)\.point_head\..+",
    "a network with deformable convolutions": r".+\.conv\d_offset\..+|.+\.conv2\.offset\..+",
    "DETR": r"(detr\.)?transformer\..+|(decoder|bbox_head\.transformer)\..+|query_embed.*",
    "a C4 model of maskrcnn-benchmark": r"roi_heads\.box\.feature_extractor\.head\..+",
}
_CLASSIFIER = r"(head\.)?fc\.weight|classifier\..+"


def refuse_others(file: Path, names: Iterable[str]) -> None:
    """Name the network of a file that holds one of these.

    Raises:
        UserError: if it does.
    """
    for name in names:
        for network, pattern in _OTHERS.items():
            if re.fullmatch(pattern, name):
                raise UserError(
                    f"{file}: {name} is a tensor of {network}; "
                    "of detectors, Mask R-CNN and Faster R-CNN are read"
                )
        if re.fullmatch(_CLASSIFIER, name):
            raise UserError(
                f"{file}: {name} is a tensor of a classification network, which detects nothing; "
                "a detector starts from it by mrcnn train --weights"
            )
