"""Names that users of other libraries try, and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

# Attributes of results in Ultralytics, torchvision, Detectron2, supervision and Matterport.
RESULT = {
    **dict.fromkeys(["xyxy", "bboxes", "bbox", "pred_boxes", "rois", "xywh"], "result.boxes"),
    **dict.fromkeys(["conf", "confs", "confidence", "probs"], "result.scores"),
    **dict.fromkeys(["cls", "class_id", "class_ids", "pred_classes", "classes"], "result.labels"),
    **dict.fromkeys(["pred_masks", "segmentations", "data"], "result.masks"),
    **dict.fromkeys(["xy", "contours", "segments", "segmentation"], "result.polygons()"),
    **dict.fromkeys(["orig_img", "img"], "result.image"),
    **dict.fromkeys(["orig_shape", "shape", "size", "width", "height"], "result.image.shape"),
    "instances": "result.boxes, result.scores, result.labels and result.masks",
    **dict.fromkeys(["class_name", "label_names"], "result.names"),
    **dict.fromkeys(["to_df", "pandas", "df", "to_dataframe"], "result.to_pandas()"),
    **dict.fromkeys(["to_json", "tojson", "to_dict"], "result.to_coco()"),
    **dict.fromkeys(["show", "visualize", "display"], "result.plot().show()"),
    **dict.fromkeys(["draw", "overlay", "render", "annotate"], "result.plot()"),
    **dict.fromkeys(["save_csv", "export"], 'result.to_csv("objects.csv")'),
    **dict.fromkeys(["file", "filename", "file_name"], "result.path"),
    **dict.fromkeys(["objects", "detections", "predictions"], "[one for one in result]"),
    **dict.fromkeys(["n", "num", "num_instances"], "len(result)"),
    "save_crop": "result.crop()",
    **dict.fromkeys(["verbose", "info"], "result.summary()"),
    **dict.fromkeys(["filter", "where"], 'result[result.scores > 0.7] or result.of("cat")'),
    "save_labels": "result.label_image()",
    "sort": "result[result.scores.argsort()[::-1]]",
    "areas": "[one.area for one in result]",
    **dict.fromkeys(["center", "centroid", "centroids"], "result.to_pandas()"),
}
# Keywords of predictions and of loading.
OPTIONS = {
    **dict.fromkeys(
        ["conf", "confidence", "threshold", "thresh", "score", "min_score", "score_thresh"],
        "score_threshold=...",
    ),
    **dict.fromkeys(["iou", "nms", "iou_threshold"], "mrcnn.load(path, nms_threshold=...)"),
    **dict.fromkeys(
        ["imgsz", "img_size", "image_size", "size", "min_size", "max_size"],
        "mrcnn.load(path, min_size=..., max_size=...)",
    ),
    **dict.fromkeys(
        ["max_det", "max_dets", "max_detections", "topk"], "mrcnn.load(path, max_detections=...)"
    ),
    **dict.fromkeys(["device", "gpu"], 'mrcnn.load(path, device="cuda")'),
    **dict.fromkeys(["half", "fp16", "bf16"], "mrcnn.load(path, amp=True)"),
    "amp": "mrcnn.load(path, amp=True)",
    **dict.fromkeys(["augment", "augmentation"], "tta=True"),
    **dict.fromkeys(["batch", "bs"], "batch_size=..."),
    **dict.fromkeys(["classes", "class_names", "filter"], 'result.of("cat")'),
    **dict.fromkeys(["save", "save_path", "out", "project"], 'result.save("overlay.png")'),
    **dict.fromkeys(["save_txt", "save_csv", "csv"], 'result.to_csv("objects.csv")'),
    "save_crop": "result.crop()",
    "show": "result.plot().show()",
    "stream": "model.stream(images)",
    **dict.fromkeys(["recursive", "recurse"], 'the pattern "photos/**/*.jpg"'),
    "tile": "tiles=...",
    **dict.fromkeys(["verbose", "source"], "the images alone"),
}
# Keywords of overlays.
PLOT = {
    **dict.fromkeys(["color", "colour", "colours", "palette"], "colors=..."),
    **dict.fromkeys(["opacity", "transparency", "mask_alpha"], "alpha=..."),
    **dict.fromkeys(["thickness", "line_thickness", "linewidth", "width"], "line_width=..."),
    **dict.fromkeys(["names", "text", "label", "conf", "scores"], "labels=False or labels=True"),
    **dict.fromkeys(["show", "display"], "result.plot().show()"),
    **dict.fromkeys(["save", "filename", "path"], 'result.save("overlay.png")'),
    **dict.fromkeys(["size", "scale", "max_size"], "longest_side=..."),
}
# Attributes and methods of models.
MODEL = {
    **dict.fromkeys(["names", "classes", "labels", "CLASSES"], "model.class_names"),
    **dict.fromkeys(["to", "cuda", "half"], 'mrcnn.load(path, device="cuda")'),
    "cpu": "mrcnn.load(path)",
    "eval": "model.predict(image), which always runs in inference mode",
    "save": 'shutil.copy("runs/1/best.safetensors", path)',
    **dict.fromkeys(
        ["train", "fit"], "from mrcnn.training import train; train(data=..., weights=...)"
    ),
    **dict.fromkeys(["val", "validate", "test"], "model.evaluate(data)"),
    "export": "mrcnn export --weights ... in a shell",
    **dict.fromkeys(["info", "summary"], "print(model) or print(model.config)"),
    **dict.fromkeys(
        ["parameters", "state_dict", "forward"], "model.model, which is a torch module"
    ),
    **dict.fromkeys(["segment", "infer", "inference", "__getitem__"], "model.predict(image)"),
    "track": 'model.stream("clip.mp4"); objects are not tracked',
}


def advice(name: str, known: Iterable[str], elsewhere: Mapping[str, str]) -> str:
    """Return what to write instead of a name that does not exist, as the end of a message.

    Args:
        name: that was used.
        known: the names that exist.
        elsewhere: names of other libraries, and what to write.
    """
    if name in elsewhere:
        return f"; write {elsewhere[name]}"
    known = sorted(name for name in known if not name.startswith("_"))
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"


def refuse_unknown(
    function: str, options: Mapping[str, Any], known: Iterable[str], elsewhere: Mapping[str, str]
) -> None:
    """Refuse options that a function does not have.

    Raises:
        TypeError: with the name of the right one.
    """
    for name in options.keys() - set(known):
        raise TypeError(f"{function}: has no option {name!r}{advice(name, known, elsewhere)}")
