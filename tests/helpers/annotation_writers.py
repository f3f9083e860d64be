"""Small writers of annotation formats, from the records of a COCO file."""

import base64
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle_codec

from mrcnn.data.formats.cityscapes import CLASSES
from mrcnn.ops.rle import from_segmentation

Record = dict


def bitmap(annotation: Record, image: Record) -> np.ndarray:
    """The mask of an annotation, (h, w) bool."""
    size = image["height"], image["width"]
    return rle_codec.decode(from_segmentation(annotation["segmentation"], *size)).astype(bool)


def runs(mask: np.ndarray) -> Record:
    """The run lengths of a bitmap."""
    encoded = rle_codec.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def by_image(content: Record) -> list[tuple[Record, list[Record]]]:
    """Every image with its annotations."""
    return [
        (image, [a for a in content["annotations"] if a["image_id"] == image["id"]])
        for image in content["images"]
    ]


def names_of(content: Record) -> dict[int, str]:
    return {category["id"]: category["name"] for category in content["categories"]}


def place_image(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk
        shutil.copy(source, target)


def write_text(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")


def save_values(values: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def png_text(mask: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def pairs(ring: list[float]) -> list[list[float]]:
    return [[x, y] for x, y in zip(ring[::2], ring[1::2], strict=True)]


def disjoint(content: Record) -> Record:
    """The data set as label maps can hold it: an earlier instance hides the later ones."""
    annotations = []
    for image, drawn in by_image(content):
        taken = np.zeros((image["height"], image["width"]), bool)
        for annotation in drawn:
            mask = bitmap(annotation, image) & ~taken
            taken |= mask
            if mask.any():
                annotations.append({**annotation, "segmentation": runs(mask)})
    return {**content, "annotations": annotations}


def without_crowd(content: Record) -> Record:
    annotations = [a for a in content["annotations"] if not a.get("iscrowd")]
    return {**content, "annotations": annotations}


def parts_as_runs(content: Record) -> Record:
    """Masks of several rings as run lengths."""
    images = {image["id"]: image for image in content["images"]}
    annotations = []
    for annotation in content["annotations"]:
        if isinstance(rings := annotation["segmentation"], list) and len(rings) > 1:
            mask = bitmap(annotation, images[annotation["image_id"]])
            annotation = {**annotation, "segmentation": runs(mask)}
        annotations.append(annotation)
    return {**content, "annotations": annotations}


def one_ring(annotation: Record, image: Record) -> list[float]:
    """A mask as a single ring.

    Of a bitmap it goes around every run of a column and comes back
    by the way it went: pixels on that way are crossed twice, which takes nothing from the mask.
    """
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list) and len(segmentation) == 1:
        return segmentation[0]
    ring = []
    columns = bitmap(annotation, image).T.astype(np.int8)
    for x, column in enumerate(columns):
        edges = np.flatnonzero(np.diff(column, prepend=0, append=0)).tolist()
        for top, bottom in zip(edges[::2], edges[1::2], strict=True):
            ring.append([x, top, x + 1, top, x + 1, bottom, x, bottom, x, top])
    home = ring[0][:2]
    return [value for part in ring for value in (*home, *part)] + home


def labelme(folder: Path, content: Record, images: Path) -> None:
    """Images and JSON files side by side; parts of an instance share a group."""
    names = names_of(content)
    for image, drawn in by_image(content):
        place_image(images / image["file_name"], folder / image["file_name"])
        shapes = []
        for annotation in drawn:
            common = {"label": names[annotation["category_id"]], "group_id": None, "flags": {}}
            if isinstance(rings := annotation["segmentation"], list):
                if len(rings) > 1:
                    common["group_id"] = annotation["id"]
                shapes += [
                    {**common, "shape_type": "polygon", "points": pairs(ring)} for ring in rings
                ]
            else:
                mask = bitmap(annotation, image)
                ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                (y1, y2), (x1, x2) = (int(v) for v in ys[[0, -1]]), (int(v) for v in xs[[0, -1]])
                text = png_text(mask[y1 : y2 + 1, x1 : x2 + 1])
                corners = [[x1, y1], [x2, y2]]
                shapes.append({**common, "shape_type": "mask", "points": corners, "mask": text})
        path = (folder / image["file_name"]).with_suffix(".json")
        size = {"imageHeight": image["height"], "imageWidth": image["width"]}
        write_text(path, {"version": "5.5.0", "flags": {}, "shapes": shapes, "imageData": None,
                          "imagePath": Path(image["file_name"]).name, **size})  # fmt: skip


def mask_files(folder: Path, content: Record, images: Path) -> None:
    """A folder an image, a file an instance."""
    for image, drawn in by_image(content):
        own = folder / str(image["id"])
        place_image(images / image["file_name"], own / "images" / Path(image["file_name"]).name)
        (own / "masks").mkdir()
        for annotation in drawn:
            mask = bitmap(annotation, image).astype(np.uint8) * 255
            save_values(mask, own / "masks" / f"{annotation['id']:012}.png")


def indexed_masks(folder: Path, content: Record, images: Path) -> None:
    """An image, and a mask of 16 bits whose pixels count its instances, which share none."""
    for image, drawn in by_image(content):
        name = Path(image["file_name"])
        place_image(images / name, folder / "PNGImages" / name)
        values = np.zeros((image["height"], image["width"]), np.uint16)
        for number, annotation in enumerate(drawn, start=1):
            values[bitmap(annotation, image)] = number
        save_values(values, folder / "PedMasks" / name.parent / f"{name.stem}_mask.png")


def yolo(folder: Path, content: Record, images: Path) -> None:
    """images/, labels/ and data.yaml, coordinates with the six digits that tools write."""
    label_of = {c["id"]: i for i, c in enumerate(content["categories"])}
    for image, drawn in by_image(content):
        name = Path(image["file_name"])
        place_image(images / name, folder / "images" / name)
        lines = []
        for annotation in drawn:
            ring = one_ring(annotation, image)
            parts = [v / (image["height"] if i % 2 else image["width"]) for i, v in enumerate(ring)]
            numbers = " ".join(f"{part:.6f}" for part in parts)
            lines.append(f"{label_of[annotation['category_id']]} {numbers}\n")
        write_text((folder / "labels" / name).with_suffix(".txt"), "".join(lines))
    names = [f"  {i}: {json.dumps(n, ensure_ascii=False)}\n"
             for i, n in enumerate(names_of(content).values())]  # fmt: skip
    write_text(folder / "data.yaml", "names:\n" + "".join(names))


def via_1(folder: Path, content: Record, images: Path) -> None:
    """One file beside the images; regions are an object."""
    entries = {}
    for key, entry in via_entries(folder, content, images).items():
        entry["regions"] = {str(i): region for i, region in enumerate(entry["regions"])}
        entries[key] = {"fileref": "", "base64_img_data": "", **entry}
    write_text(folder / "via_region_data.json", entries)


def via_2(folder: Path, content: Record, images: Path) -> None:
    """A project: regions are a list, and the classes are declared."""
    options = dict.fromkeys(names_of(content).values(), "")
    declared = {"region": {"class": {"type": "dropdown", "options": options}}, "file": {}}
    metadata = via_entries(folder, content, images)
    project = {"_via_settings": {}, "_via_img_metadata": metadata, "_via_attributes": declared}
    write_text(folder / "via_project.json", project)


def via_entries(folder: Path, content: Record, images: Path) -> Record:
    names, entries = names_of(content), {}
    for image, drawn in by_image(content):
        place_image(images / image["file_name"], folder / image["file_name"])
        regions = []
        for annotation in drawn:
            ring = one_ring(annotation, image)
            shape = {"name": "polygon", "all_points_x": ring[::2], "all_points_y": ring[1::2]}
            attributes = {"class": names[annotation["category_id"]]}
            regions.append({"shape_attributes": shape, "region_attributes": attributes})
        size = (folder / image["file_name"]).stat().st_size
        entry = {"filename": image["file_name"], "size": size, "regions": regions}
        entries[f"{image['file_name']}{size}"] = {**entry, "file_attributes": {}}
    return entries


def palette_image(values: np.ndarray, path: Path) -> None:
    """Indices with a palette, as VOC has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8), "P")
    image.putpalette(list(range(256)) * 3)
    image.save(path)


def voc(folder: Path, content: Record, images: Path) -> None:
    """Label maps, lists of splits, and a list of classes."""
    label_of = {c["id"]: i for i, c in enumerate(content["categories"], start=1)}
    keys = []
    for image, drawn in by_image(content):
        name = Path(image["file_name"])
        keys.append(name.stem)
        place_image(images / name, folder / "JPEGImages" / name.name)
        objects = np.zeros((image["height"], image["width"]), np.uint8)
        classes = np.zeros_like(objects)
        for number, annotation in enumerate(drawn, start=1):
            mask = bitmap(annotation, image)
            objects[mask], classes[mask] = number, label_of[annotation["category_id"]]
        objects[0, 0] = objects[0, 0] or 255  # void
        palette_image(objects, folder / "SegmentationObject" / f"{name.stem}.png")
        palette_image(classes, folder / "SegmentationClass" / f"{name.stem}.png")
    lists = folder / "ImageSets" / "Segmentation"
    write_text(lists / "train.txt", "".join(f"{key}\n" for key in keys[::2]))
    write_text(lists / "val.txt", "".join(f"{key}\n" for key in keys[1::2]))
    names = ["_background_", *names_of(content).values()]
    write_text(folder / "class_names.txt", "\n".join(names))


def with_classes_of_cityscapes(content: Record) -> Record:
    """The same masks, of classes by turns; crowd regions of a class are one in every image."""
    ids = {c["id"]: [*CLASSES][i % 8] for i, c in enumerate(content["categories"])}
    annotations = [{**a, "category_id": ids[a["category_id"]]} for a in content["annotations"]]
    crowd = {(a["image_id"], a["category_id"]): a["id"] for a in annotations if a.get("iscrowd")}
    annotations = [a for a in annotations if not a.get("iscrowd") or a["id"] in crowd.values()]
    categories = [{"id": id, "name": name} for id, name in CLASSES.items()]
    return {**content, "annotations": annotations, "categories": categories}


def cityscapes(folder: Path, content: Record, images: Path) -> None:
    """instanceIds of 16 bits; categories must have the ids of Cityscapes."""
    for position, (image, drawn) in enumerate(by_image(content)):
        split = ("train", "val")[position % 2]
        base = f"{split}/city/{Path(image['file_name']).stem}"
        place_image(images / image["file_name"], folder / f"leftImg8bit/{base}_leftImg8bit.png")
        values = np.zeros((image["height"], image["width"]), np.uint16)
        for number, annotation in enumerate(drawn):
            id = annotation["category_id"]
            value = id if annotation.get("iscrowd") else 1000 * id + number
            values[bitmap(annotation, image)] = value
        save_values(values, folder / f"gtFine/{base}_gtFine_instanceIds.png")


def lvis(folder: Path, content: Record, images: Path) -> None:
    """A file a split, with addresses for names, and what the images are annotated for."""
    categories = [{**c, "frequency": "f", "synset": "a.n.01"} for c in content["categories"]]
    for number, split in enumerate(("train", "val")):
        records, annotations = [], []
        for image, drawn in by_image(content)[number::2]:
            name = Path(image["file_name"]).name
            place_image(images / image["file_name"], folder / "train2017" / name)
            record = {key: image[key] for key in ("id", "width", "height")}
            record["coco_url"] = f"http://images.cocodataset.org/train2017/{name}"
            record["neg_category_ids"] = [c["id"] for c in categories[:2]]
            record["not_exhaustive_category_ids"] = []
            records.append(record)
            annotations += drawn
        truth = {"images": records, "annotations": annotations, "categories": categories}
        write_text(folder / f"lvis_v1_{split}.json", truth)
