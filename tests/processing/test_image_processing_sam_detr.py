"""The image processors of both backends: pictures in, pixels, mask and labels out, and outputs back to boxes."""

import base64
import json
import math
import re
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_samdetr.annotations import shown
from transformers_samdetr.image_processing_sam_detr import (
    SamDetrImageProcessor,
    SamDetrImageProcessorPil,
    resized_size,
)

PARITY = Path(__file__).resolve().parents[2] / "../shared/parity"
RAW = {"do_resize": False, "do_rescale": False, "do_normalize": False}
"""Options that leave the values as they are read."""


@pytest.fixture(params=[SamDetrImageProcessor, SamDetrImageProcessorPil], ids=["torchvision", "pil"])
def processor_class(request):
    return request.param


@pytest.fixture
def processor(processor_class):
    return processor_class()


def target(*objects, image_id=7):
    return {"image_id": image_id, "annotations": list(objects)}


def thing(bbox=(10, 20, 30, 40), category_id=3, **more):
    return {"bbox": list(bbox), "category_id": category_id, **more}


def picture(height=48, width=64, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pixels_of(processor, image, **options):
    """`(3, H, W)` values as the processor reads them."""
    return processor(image, return_tensors="pt", **{**RAW, **options}).pixel_values[0]


# --- pictures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode", ["RGB", "RGBA", "P", "L", "LA", "1", "CMYK", "YCbCr", "HSV", "LAB", "RGBa", "La", "PA"]
)
def test_every_mode_becomes_rgb(processor, mode):
    base = Image.new("RGB", (20, 10), (255, 255, 255))
    if mode == "LAB":
        image = Image.new("LAB", base.size, (255, 128, 128))  # lightness 100, no colour
    elif mode in ("RGBa", "La"):
        image = base.convert(mode[:-1] + "A" if mode == "RGBa" else "LA").convert(mode)
    else:
        image = base.convert("P").convert("PA") if mode == "PA" else base.convert(mode)
    assert image.mode == mode
    values = pixels_of(processor, image)
    assert values.shape == (3, 10, 20)
    assert values.min() >= 253


def test_transparent_parts_are_white(processor):
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 255))
    image.putpixel((1, 0), (10, 20, 30, 0))
    values = pixels_of(processor, image)
    assert values[:, 0, 1].tolist() == [255, 255, 255]
    assert values[:, 0, 0].tolist() == [10, 20, 30]


def test_palette_with_transparent_entry(processor):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([200, 0, 0, 0, 100, 0])
    image.putpixel((1, 0), 1)
    image.info["transparency"] = 1
    assert pixels_of(processor, image)[:, 0].T.tolist() == [[200, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize("kind", ["I;16", "I;16B", "I", "array", "big-endian array", "tensor"])
def test_sixteen_bits_keep_their_tones(processor, kind):
    tones = np.array([[0, 257, 12850, 32768, 65535, 300]] * 5, dtype=np.uint16)
    expected = [0, 1, 50, 128, 255, 1]
    if kind == "I":
        image = Image.fromarray(tones.astype(np.int32))
    elif kind == "I;16B":
        image = Image.frombytes("I;16B", (6, 5), tones.astype(">u2").tobytes())
    else:
        image = {
            "I;16": lambda: Image.fromarray(tones),
            "array": lambda: tones[..., None].repeat(3, -1),
            "big-endian array": lambda: tones.astype(">u2")[..., None].repeat(3, -1),
            "tensor": lambda: torch.from_numpy(tones[None].repeat(3, 0)),
        }[kind]()
    assert kind not in ("I;16", "I") or image.mode == kind
    values = pixels_of(processor, image)
    assert values.shape == (3, 5, 6)
    for row in values.flatten(0, 1):
        assert row.tolist() == expected


def test_thirty_two_bit_grey_of_eight_bit_tones_and_floats(processor):
    assert pixels_of(processor, Image.fromarray(np.array([[0, 200]], np.int32)))[0, 0].tolist() == [0, 200]
    assert pixels_of(processor, Image.fromarray(np.array([[0, 0.5, 1]], np.float32)))[0, 0].tolist() == [0, 128, 255]
    assert pixels_of(processor, Image.fromarray(np.array([[0, 200.4]], np.float32)))[0, 0].tolist() == [0, 200]
    for wrong in (np.array([[-1, 5]], np.int32), np.array([[np.nan, 1]], np.float32)):
        with pytest.raises(ValueError, match="have no meaning as grey"):
            processor(Image.fromarray(wrong))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "list of images is empty"),
        ([[]], "list of images is empty"),
        (np.zeros((0, 3, 8, 8)), "(0, 3, 8, 8) is a batch"),
    ],
)
def test_no_images_are_refused(processor, images, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        processor(images, return_tensors="pt")


def test_grey_arrays_without_channel(processor):
    grey = np.random.default_rng(0).integers(0, 256, (9, 11), dtype=np.uint8)
    for image in (grey, torch.from_numpy(grey)):
        values = pixels_of(processor, image)
        assert values.shape == (3, 9, 11)
        assert torch.equal(values[2], torch.from_numpy(grey).to(values.dtype))


def exif_picture(orientation):
    image = picture(6, 10)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = BytesIO()
    image.save(buffer, "PNG", exif=exif)
    return image, buffer.getvalue()


def test_arrays_with_reversed_axes(processor):
    array = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    reversed_ones = array[..., ::-1], array[::-1], array[:, ::-1].astype(">u2") * 257
    for given in reversed_ones:  # as OpenCV's BGR pictures become RGB
        same = processor(given.copy(), return_tensors="pt")["pixel_values"]
        assert torch.equal(processor(given, return_tensors="pt")["pixel_values"], same)


@pytest.mark.parametrize("source", ["pil", "str", "path", "base64"])
def test_exif_orientation_is_applied(processor, tmp_path, source):
    image, content = exif_picture(6)  # to be shown turned by a quarter, clockwise
    (tmp_path / "turned.png").write_bytes(content)
    given = {
        "pil": lambda: Image.open(BytesIO(content)),
        "str": lambda: str(tmp_path / "turned.png"),
        "path": lambda: tmp_path / "turned.png",
        "base64": lambda: "data:image/png;base64," + base64.b64encode(content).decode(),
    }[source]()
    batch = processor(given, target(thing((0, 0, 6, 5))), return_tensors="pt", **RAW)
    shown = np.asarray(image.transpose(Image.Transpose.ROTATE_270))
    assert torch.equal(batch.pixel_values[0].byte(), torch.from_numpy(shown.copy()).permute(2, 0, 1))
    # the box is one of the displayed picture, 10 high and 6 wide
    assert batch.labels[0]["orig_size"].tolist() == [10, 6]
    assert batch.labels[0]["boxes"].tolist() == [[0.5, 0.25, 1.0, 0.5]]


def test_sixteen_bit_file_from_its_path(processor, tmp_path):
    Image.fromarray(np.full((3, 4), 32768, np.uint16)).save(tmp_path / "deep.png")
    assert pixels_of(processor, str(tmp_path / "deep.png")).unique().tolist() == [128]


@pytest.mark.parametrize("source", ["/no/such/file.png", "", "not base64 !"])
def test_no_picture_is_refused(processor, source):
    with pytest.raises(ValueError, match="is not a picture"):
        processor(source)
    with pytest.raises(TypeError, match="An image must be"):
        processor(3)


def test_kinds_of_input_agree(processor):
    image = picture(30, 40)
    array = np.array(image)
    expected = processor(image, return_tensors="pt").pixel_values
    for same in (array, array.transpose(2, 0, 1), torch.from_numpy(array), [image], [[image]], array[None]):
        assert torch.equal(processor(same, return_tensors="pt").pixel_values, expected)


# --- size, values, padding ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image_size", "size", "expected"),
    [
        ((480, 640), {"shortest_edge": 800, "longest_edge": 1333}, (800, 1066)),
        ((427, 640), {"shortest_edge": 800, "longest_edge": 1333}, (800, 1199)),
        ((333, 500), {"shortest_edge": 800, "longest_edge": 1333}, (800, 1201)),
        ((300, 1000), {"shortest_edge": 800, "longest_edge": 1333}, (400, 1333)),
        ((1000, 300), {"shortest_edge": 800, "longest_edge": 1333}, (1333, 400)),
        ((800, 900), {"shortest_edge": 800, "longest_edge": 1333}, (800, 900)),
        ((1, 5000), {"shortest_edge": 800, "longest_edge": 1333}, (1, 1333)),
        ((100, 50), {"height": 32, "width": 48}, (32, 48)),
        ((100, 50), {"max_height": 40, "max_width": 40}, (40, 20)),
        ((100, 50), {"longest_edge": 40}, (40, 20)),
        ((100, 50), {"shortest_edge": 40}, (80, 40)),
    ],
)
def test_resized_size(processor, image_size, size, expected):
    batch = processor(
        picture(*image_size), target(image_id=1), size=size, return_tensors="pt", do_normalize=False, do_rescale=False
    )
    assert tuple(batch.pixel_values.shape[-2:]) == expected
    assert batch.labels[0]["size"].tolist() == list(expected)
    assert batch.labels[0]["orig_size"].tolist() == list(image_size)


def test_resized_size_of_detr():
    from transformers.image_transforms import get_size_with_aspect_ratio
    from transformers.image_utils import SizeDict

    rng = np.random.default_rng(0)
    for height, width in rng.integers(50, 2500, (300, 2)).tolist():
        size = SizeDict(shortest_edge=800, longest_edge=1333)
        assert resized_size((height, width), size) == get_size_with_aspect_ratio((height, width), 800, 1333)
    with pytest.raises(ValueError, match="is not supported"):
        resized_size((4, 4), SizeDict(height=4))


def test_values_are_those_of_transformers_detr(processor_class):
    from transformers import DetrImageProcessor
    from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

    theirs = DetrImageProcessor() if processor_class is SamDetrImageProcessor else DetrImageProcessorPil()
    images = [picture(48, 64), picture(60, 40, seed=1)]
    ours, theirs = processor_class()(images, return_tensors="pt"), theirs(images, return_tensors="pt")
    assert torch.equal(ours.pixel_mask, theirs["pixel_mask"])
    torch.testing.assert_close(ours.pixel_values, theirs["pixel_values"], rtol=0, atol=1e-6)


def test_backends_agree():
    image = picture(200, 300).resize((600, 400), Image.Resampling.BICUBIC)
    annotations = target(thing((5, 6, 70, 80), area=90, id=4), thing((5, 6, 700, 80)))
    one, other = (
        cls()(image, annotations, return_tensors="pt") for cls in (SamDetrImageProcessor, SamDetrImageProcessorPil)
    )
    torch.testing.assert_close(one.pixel_values, other.pixel_values, rtol=0, atol=0.05)
    assert one.labels[0].keys() == other.labels[0].keys()
    for key, value in one.labels[0].items():
        assert torch.equal(value, other.labels[0][key]) and value.dtype == other.labels[0][key].dtype


def test_padding_at_bottom_and_right(processor):
    images = [picture(20, 30), picture(25, 12), picture(20, 30, seed=2)]
    batch = processor(images, return_tensors="pt", do_resize=False)
    assert batch.pixel_values.shape == (3, 3, 25, 30) and batch.pixel_values.dtype == torch.float32
    assert batch.pixel_mask.shape == (3, 25, 30) and batch.pixel_mask.dtype == torch.int64
    for pixels, mask, image in zip(batch.pixel_values, batch.pixel_mask, images, strict=True):
        assert mask.sum() == image.width * image.height
        assert mask[: image.height, : image.width].all()
        assert (pixels * (1 - mask)).abs().sum() == 0
        alone = processor(image, return_tensors="pt", do_resize=False).pixel_values[0]
        assert torch.equal(pixels[:, : image.height, : image.width], alone)


def test_pad_size(processor):
    batch = processor(picture(20, 30), pad_size={"height": 40, "width": 50}, do_resize=False, return_tensors="pt")
    assert batch.pixel_values.shape == (1, 3, 40, 50) and batch.pixel_mask.sum() == 600
    with pytest.raises(ValueError, match="pad_size"):
        processor(picture(20, 30), pad_size={"height": 40, "width": 29}, do_resize=False)


def test_without_padding(processor):
    batch = processor([picture(20, 30), picture(20, 30)], do_pad=False, do_resize=False, return_tensors="pt")
    assert batch.pixel_values.shape == (2, 3, 20, 30) and "pixel_mask" not in batch
    with pytest.raises(ValueError, match="do_pad=True"):
        processor([picture(20, 30), picture(20, 31)], do_pad=False, do_resize=False)
    fixed = processor([picture(20, 30), picture(9, 31)], do_pad=False, size={"height": 8, "width": 6})
    assert tuple(fixed.pixel_values.shape) == (2, 3, 8, 6)


@pytest.mark.parametrize("return_tensors", ["pt", "np", None])
def test_return_tensors(processor, return_tensors):
    batch = processor([picture(), picture()], [target(thing()), target(image_id=8)], return_tensors=return_tensors)
    assert tuple(batch.pixel_values.shape) == (2, 3, 800, 1066)
    assert tuple(batch.labels[0]["boxes"].shape) == (1, 4) and tuple(batch.labels[1]["boxes"].shape) == (0, 4)
    if return_tensors is not None:
        kind = torch.Tensor if return_tensors == "pt" else np.ndarray
        assert isinstance(batch.pixel_values, kind) and isinstance(batch.labels[0]["boxes"], kind)


# --- labels ---------------------------------------------------------------------------------------------------------


def test_labels(processor):
    objects = [
        thing((10, 20, 30, 40), 3, area=600, iscrowd=0, id=100),
        thing((0, 0, 64, 48), 5, area=10, iscrowd=1, id=101),  # crowd
        thing((50, 40, 30, 40), 4, area=77, id=102),  # passes the corner: clipped to 14 x 8
        thing((5, 5, 0, 8), 6, area=3, id=103),  # no width
        thing((64, 3, 5, 5), 6, area=3, id=104),  # outside
        thing((-5, -5, 10, 10), 1, id=105),  # clipped to 5 x 5, its area too
    ]
    size = {"height": 96, "width": 256}  # twice as high, four times as wide
    (labels,) = processor(picture(48, 64), target(*objects), size=size, return_tensors="pt").labels
    assert labels["class_labels"].tolist() == [3, 4, 1] and labels["class_labels"].dtype == torch.int64
    expected = [
        [25 / 64, 40 / 48, 30 / 64, 16 / 48 + 16 / 48],
        [57 / 64, 44 / 48, 14 / 64, 8 / 48],
        [2.5 / 64, 2.5 / 48, 5 / 64, 5 / 48],
    ]
    expected[0] = [25 / 64, 34 / 48, 30 / 64, 28 / 48]  # 20 to 60 is cut at 48
    torch.testing.assert_close(labels["boxes"], torch.tensor(expected))
    assert labels["boxes"].dtype == torch.float32
    assert labels["area"].tolist() == [600 * 8, 77 * 8, 25 * 8] and labels["area"].dtype == torch.float32
    assert labels["iscrowd"].tolist() == [0, 0, 0]
    assert labels["annotation_ids"].tolist() == [100, 102, 105]
    assert labels["image_id"].tolist() == [7]
    assert labels["orig_size"].tolist() == [48, 64] and labels["size"].tolist() == [96, 256]


def test_label_boxes_do_not_depend_on_the_batch(processor):
    """Boxes are normalised by the picture without its padding, unlike in Transformers' DETR processors."""
    pair = [target(thing(), image_id=1), target(thing(), image_id=2)]
    together = processor([picture(48, 64), picture(100, 50)], pair, return_tensors="pt").labels
    alone = processor(picture(48, 64), pair[0], return_tensors="pt").labels
    for key, value in alone[0].items():
        assert torch.equal(value, together[0][key])
    padded = processor(picture(48, 64), pair[0], pad_size={"height": 1400, "width": 1400}, return_tensors="pt").labels
    assert torch.equal(padded[0]["boxes"], alone[0]["boxes"]) and padded[0]["size"].tolist() == [800, 1066]


def test_boxes_in_pixels(processor):
    options = {"do_convert_annotations": False, "size": {"height": 96, "width": 256}, "return_tensors": "pt"}
    (labels,) = processor(picture(48, 64), target(thing((10, 20, 30, 20))), **options).labels
    assert labels["boxes"].tolist() == [[40, 40, 160, 80]]


def test_labels_of_transformers_detr_without_padding(processor):
    from transformers import DetrImageProcessor

    rng = np.random.default_rng(0)
    objects = []
    for index in range(20):
        x, y, w, h = (rng.uniform(0, 60, 4)).tolist()
        objects.append(thing((x, y, w, h), index, area=w * h, iscrowd=int(index % 5 == 4)))
    ours = processor(picture(48, 64), target(*objects), return_tensors="pt").labels[0]
    theirs = DetrImageProcessor()(picture(48, 64), target(*objects), return_tensors="pt")["labels"][0]
    for key in ("class_labels", "iscrowd", "image_id", "orig_size", "size"):
        assert torch.equal(ours[key], theirs[key]), key
    torch.testing.assert_close(ours["boxes"], theirs["boxes"], rtol=0, atol=1e-6)
    torch.testing.assert_close(ours["area"], theirs["area"], rtol=1e-6, atol=1e-4)


def test_image_without_objects(processor):
    (labels,) = processor(picture(), target(), return_tensors="pt").labels
    assert labels["boxes"].shape == (0, 4) and labels["boxes"].dtype == torch.float32
    assert labels["class_labels"].shape == labels["area"].shape == (0,)
    assert labels["class_labels"].dtype == torch.int64


def test_labels_have_the_same_keys_in_every_picture(processor):
    """Trainer.evaluate concatenates the labels of all batches key by key."""
    targets = [target(thing(id=4), thing()), target(thing()), target(), target(thing(id=6))]
    labels = [processor(picture(), one).labels[0] for one in targets]
    assert all(row.keys() == labels[0].keys() for row in labels)
    assert [row["annotation_ids"].tolist() for row in labels] == [[4, -1], [-1], [], [6]]


def test_numpy_and_tensor_annotations(processor):
    objects = [
        {"bbox": np.array([1.0, 2, 3, 4]), "category_id": np.int64(2), "area": np.float32(12), "iscrowd": False},
        {"bbox": torch.tensor([1, 2, 3, 4]), "category_id": torch.tensor(2), "area": None, "iscrowd": None},
    ]
    (labels,) = processor(picture(), {"image_id": torch.tensor([5]), "annotations": objects}).labels
    assert labels["class_labels"].tolist() == [2, 2] and labels["image_id"].tolist() == [5]
    assert labels["area"][0] == labels["area"][1]
    assert labels["annotation_ids"].tolist() == [-1, -1]


def test_category_ids(processor_class, tmp_path):
    mapped = processor_class(category_id_to_label={18: 0, 90: 1}, id2label={0: "dog", 1: "brush"})
    mapped.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["category_id_to_label"] == {"18": 0, "90": 1}
    for processor in (mapped, processor_class.from_pretrained(tmp_path)):
        assert processor.category_id_to_label == {18: 0, 90: 1} and processor.id2label == {0: "dog", 1: "brush"}
        labels = processor(picture(), target(thing(category_id=90), thing(category_id=18))).labels[0]
        assert labels["class_labels"].tolist() == [1, 0]
        with pytest.raises(ValueError, match=r"Image 7, annotation 0 \(bbox \[10.*category_id 1.*category_id_to_label"):
            processor(picture(), target(thing(category_id=1)))
    with pytest.raises(ValueError, match="label 3, which is not in id2label"):
        processor_class(id2label={0: "dog"})(picture(), target(thing(category_id=3)))
    for wrong in ({"dog": 1}, {1: "dog"}, [1, 2]):
        with pytest.raises(ValueError, match="category_id_to_label="):
            processor_class(category_id_to_label=wrong)


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([{"bbox": [1, 2, 3, 4]}], r"bbox \[1, 2, 3, 4\]\) has no 'category_id'"),
        ([{"category_id": 3}], "has no 'bbox', only"),
        ([{"bbox": None, "category_id": 3}], "has no 'bbox'"),
        ([thing(), thing((1, 2, 3))], r"annotation 1 \(bbox \[1, 2, 3\]\) must have four numbers"),
        ([thing((1, 2, 3, 4, 5))], "must have four numbers"),
        ([thing("1234")], "must have four numbers"),
        ([{"bbox": "1234", "category_id": 1}], "must have four numbers"),
        ([{"bbox": 12, "category_id": 1}], "must have four numbers"),
        ([thing((1, 2, math.nan, 4))], r"nan, 4\]\) is not finite"),
        ([thing((math.inf, 2, 3, 4))], "is not finite"),
        ([thing((1, 2, -3, 4))], r"\[1, 2, -3, 4\]\) has a negative width or height.*x2 - x1"),
        ([thing((1, 2, 3, -0.5), iscrowd=1)], "negative"),
        ([thing(category_id="cat")], "has category_id 'cat': give the integer id"),
        ([thing(category_id=1.5)], "has category_id 1.5"),
        ([thing(category_id=True)], "has category_id True"),
        ([thing(category_id=-1)], "labels start at 0"),
        ([thing(area=-1)], "has area -1"),
        ([thing(area="big")], "has area 'big'"),
        ([thing(area=math.nan)], "has area nan"),
        ([thing(iscrowd=2)], "has iscrowd 2"),
        ([thing(id="a")], "has id 'a'"),
        ([11, 12], r"annotation 0 is of type int \(11\): give the annotation's dict"),
    ],
)
def test_refused_objects(processor, objects, message):
    with pytest.raises(ValueError, match=message) as error:
        processor(picture(), target(*objects))
    assert "Image 7, annotation" in str(error.value)


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ([39769], "position 0 is of type int"),
        (39769, "must be a dict, or a list of dicts"),
        ({"annotations": []}, "has no 'image_id'"),
        ({"image_id": "a.png", "annotations": []}, "image_id='a.png' must be an integer"),
        ({"image_id": 3}, "Image 3: no key 'annotations'"),
        ({"image_id": 3, "objects": {"bbox": []}}, "one dict per object"),
        ({"image_id": 3, "annotations": {"bbox": []}}, "Image 3: 'annotations' is of type dict"),
        ([target(), target()], "1 images but 2 annotations"),
        ([], "1 images but 0 annotations"),
    ],
)
def test_refused_annotations(processor, annotations, message):
    with pytest.raises(ValueError, match=message):
        processor(picture(), annotations)


def test_refused_formats(processor, processor_class):
    for format in ("coco_panoptic", "voc"):
        with pytest.raises(ValueError, match=f"format='{format}' is not supported"):
            processor_class(format=format)
        with pytest.raises(ValueError, match=f"format='{format}' is not supported"):
            processor(picture(), target(), format=format)
    with pytest.raises(ValueError, match="return_segmentation_masks"):
        processor(picture(), target(), return_segmentation_masks=True)


def test_save_and_load(processor_class, tmp_path):
    saved = processor_class(size={"height": 320, "width": 320}, do_pad=False, image_mean=[0.5, 0.5, 0.5])
    saved.save_pretrained(tmp_path)
    loaded = processor_class.from_pretrained(tmp_path)
    assert loaded.to_dict() == saved.to_dict()
    image = picture()
    assert torch.equal(loaded(image, return_tensors="pt").pixel_values, saved(image, return_tensors="pt").pixel_values)


# --- detections -----------------------------------------------------------------------------------------------------


def outputs_of(scores, boxes):
    """Model outputs of one image with these sigmoid scores `(Q, K)`."""
    return SimpleNamespace(logits=torch.tensor([scores]).logit(), pred_boxes=torch.tensor([boxes]))


TWO = outputs_of([[0.9, 0.6, 0.1], [0.2, 0.7, 0.8]], [[0.5, 0.5, 0.2, 0.4], [0.5, 0.5, 0.2, 0.44]])


def test_detections(processor):
    (found,) = processor.post_process_object_detection(TWO, threshold=0.5, target_sizes=[(100, 200)])
    torch.testing.assert_close(found["scores"], torch.tensor([0.9, 0.8, 0.7, 0.6]))
    assert found["labels"].tolist() == [0, 2, 1, 1]
    first, second = [80.0, 30, 120, 70], [80.0, 28, 120, 72]
    torch.testing.assert_close(found["boxes"], torch.tensor([first, second, second, first]))
    (normalised,) = processor.post_process_object_detection(TWO, threshold=0.85)
    torch.testing.assert_close(normalised["boxes"], torch.tensor([[0.4, 0.3, 0.6, 0.7]]))


def test_top_k_and_threshold(processor):
    assert len(processor.post_process_object_detection(TWO, threshold=0)[0]["scores"]) == 6
    assert processor.post_process_object_detection(TWO, threshold=0, top_k=3)[0]["labels"].tolist() == [0, 2, 1]
    assert processor.post_process_object_detection(TWO, threshold=0.95)[0]["boxes"].shape == (0, 4)
    half = outputs_of([[0.5]], [[0.5, 0.5, 1, 1]])
    assert len(processor.post_process_object_detection(half, threshold=0.5)[0]["scores"]) == 0
    with pytest.raises(ValueError, match="top_k=0"):
        processor.post_process_object_detection(TWO, top_k=0)


def test_one_label_per_query(processor):
    (found,) = processor.post_process_object_detection(TWO, one_label_per_query=True)
    assert found["labels"].tolist() == [0, 2]
    torch.testing.assert_close(found["scores"], torch.tensor([0.9, 0.8]))


def test_class_wise_suppression(processor):
    (found,) = processor.post_process_object_detection(TWO, threshold=0, nms_threshold=0.8)
    assert found["labels"].tolist() == [0, 2, 1]  # the boxes overlap by 0.91: one per label stays
    assert len(processor.post_process_object_detection(TWO, threshold=0, nms_threshold=0.95)[0]["labels"]) == 6
    assert len(processor.post_process_object_detection(TWO, threshold=0.99, nms_threshold=0.5)[0]["labels"]) == 0


def test_target_sizes(processor):
    outputs = SimpleNamespace(logits=TWO.logits.repeat(2, 1, 1), pred_boxes=TWO.pred_boxes.repeat(2, 1, 1))
    sizes = [(100, 200), (50, 20)]
    expected = processor.post_process_object_detection(outputs, target_sizes=sizes)
    for same in (
        torch.tensor(sizes),
        np.array(sizes),
        [torch.tensor(size) for size in sizes],
        torch.tensor(sizes).int(),
    ):
        for one, other in zip(expected, processor.post_process_object_detection(outputs, 0.5, same), strict=True):
            assert torch.equal(one["boxes"], other["boxes"])
    for wrong in (
        sizes[:1],
        [(1, 2, 3)] * 2,
        torch.ones(3, 2),
        [],
        [80, 100],
        np.array([80, 100]),
        torch.tensor([80, 100]),
    ):
        with pytest.raises(ValueError, match=r"target_sizes has shape .*, such as \[\(480, 640\)\]"):
            processor.post_process_object_detection(outputs, target_sizes=wrong)
    for wrong in ([(1, 2), (1, 2, 3)], [(1, 2), 3], ["ab", "cd"], [None, None]):
        with pytest.raises(ValueError, match="target_sizes has rows that are no numbers, or of different lengths"):
            processor.post_process_object_detection(outputs, target_sizes=wrong)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(processor, dtype):
    logits = torch.tensor([[[12.0, 11.5], [-3.0, 11.75]]])  # in bfloat16 their sigmoids would all be 1
    outputs = SimpleNamespace(logits=logits.to(dtype), pred_boxes=torch.full((1, 2, 4), 0.5, dtype=dtype))
    (found,) = processor.post_process_object_detection(outputs, threshold=0.5, target_sizes=[(3001, 4001)])
    assert found["labels"].tolist() == [0, 1, 1]
    assert found["scores"].dtype == found["boxes"].dtype == torch.float32
    assert found["boxes"][0].tolist() == [1000.25, 750.25, 3000.75, 2250.75]


# --- the authors' numbers -------------------------------------------------------------------------------------------

PARITY_FILES = sorted(PARITY.glob("*.npz"))


@pytest.mark.skipif(not PARITY_FILES, reason=f"no reference outputs: {PARITY}/*.npz is missing")
@pytest.mark.parametrize("path", PARITY_FILES or [None], ids=lambda path: path.stem if path else "missing")
def test_post_processing_of_the_authors(processor, path):
    reference = np.load(path)
    sizes = json.loads(path.with_suffix(".json").read_text())["target_sizes_hw"]
    outputs = SimpleNamespace(
        logits=torch.from_numpy(reference["pred_logits"]), pred_boxes=torch.from_numpy(reference["pred_boxes"])
    )
    found = processor.post_process_object_detection(outputs, threshold=0, target_sizes=sizes)
    for index, ours in enumerate(found):
        scores = reference["post_scores"][index]
        np.testing.assert_allclose(ours["scores"].numpy(), scores, rtol=0, atol=1e-7)
        # rows of equal score may stand in another order: each of ours takes the nearest of theirs within its tie
        free = list(range(len(scores)))
        for score, label, box in zip(*(ours[key].numpy() for key in ("scores", "labels", "boxes")), strict=True):
            ties = [row for row in free if abs(scores[row] - score) <= 1e-7]
            same = [row for row in ties if reference["post_labels"][index, row] == label]
            distances = [np.abs(reference["post_boxes"][index, row] - box).max() for row in same]
            assert distances and min(distances) <= 1e-4, (score, label, box)
            free.remove(same[int(np.argmin(distances))])


def test_values_in_errors_are_cut_after_twenty_entries():
    assert shown(list(range(20))) == str(list(range(20)))
    assert shown(list(range(21))) == f"{str(list(range(20)))[:-1]}, ...]"
