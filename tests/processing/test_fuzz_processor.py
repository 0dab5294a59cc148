"""Image processors: any bytes, pictures, arrays and annotations give a batch, or an error that names what is wrong."""

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import strategies as st
from PIL import Image

from transformers_samdetr import SamDetrImageProcessor, SamDetrImageProcessorPil
from transformers_samdetr.image_processing_sam_detr import MOST_PIXELS
from transformers_samdetr.pictures import (
    MOST_BYTES,
    UnreadablePictureError,
    open_picture,
    picture_to_array,
    read_picture,
)

from ..fuzzing import BOMBS, JSON, PICTURES, changed, ends_well, fuzz, png, run_cases, strip, whole_pictures

SIZE = {"shortest_edge": 32, "longest_edge": 64}
PROCESSORS = {"torchvision": SamDetrImageProcessor, "pil": SamDetrImageProcessorPil}
BATCH = [
    {
        "image_id": 7,
        "annotations": [
            {"bbox": [1, 2, 8, 9], "category_id": 1, "area": 30.5, "iscrowd": 0, "id": 4},
            {"bbox": [0, 0, 3, 4], "category_id": 0},
        ],
    },
    {"image_id": 8, "annotations": []},
]


@pytest.fixture(params=PROCESSORS)
def processor(request):
    return PROCESSORS[request.param](size=SIZE)


def is_batch(batch, count: int) -> bool:
    """Whether it is one that a model takes."""
    pixels, mask = batch["pixel_values"], batch["pixel_mask"]
    shapes = pixels.shape[:2] == (count, 3) and mask.shape == (count, *pixels.shape[2:])
    # a picture of one pixel's height may come out at two and so at twice the longest edge
    return shapes and pixels.dtype == torch.float32 and max(pixels.shape[2:]) <= 128 and bool(pixels.isfinite().all())


@fuzz(many=300)
def test_bytes_of_pictures(processor, examples, tmp_path):
    file = tmp_path / "picture.jpg"

    def check(case):
        content, way = case
        file.write_bytes(content)
        if way == "lazy":  # opened by the user, so that decoding, and its errors, happen in the processor
            try:
                given = Image.open(file)
            except Exception:
                return  # Pillow's own, and before ours
        else:
            given = {"path": file, "text": str(file), "base64": base64.b64encode(content).decode()}[way]
        batch = ends_well(lambda: processor(given, return_tensors="pt"), "picture", "base64", "PIL")
        assert batch is None or is_batch(batch, 1)

    ways = st.sampled_from(["path", "text", "base64", "lazy"])
    run_cases("image processor, bytes", st.tuples(PICTURES, ways), check, examples)


DTYPES = "uint8 bool int16 uint16 >u2 int64 float16 float64 complex64 object U3".split()
ARRAYS = st.tuples(
    st.lists(st.integers(0, 9), min_size=0, max_size=5).map(tuple) | st.sampled_from([(3, 7, 9), (7, 9, 3), (1, 5, 5)]),
    st.sampled_from(DTYPES),
    st.sampled_from([0, 1, 255, -5, 70000, float("nan"), float("inf")]),
    st.sampled_from(["numpy", "torch", "list of numpy"]),
)


@fuzz(many=300)
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_arrays(processor, examples):
    def check(case):
        shape, dtype, value, kind = case
        with np.errstate(all="ignore"):
            array = np.full(shape, value).astype(dtype) if dtype != "bool" else np.full(shape, bool(value))
        if kind == "torch":
            if dtype in (">u2", "object", "U3"):
                return
            array = torch.from_numpy(array)
        given = [array] if kind == "list of numpy" else array
        batch = ends_well(
            lambda: processor(given, return_tensors="pt"), "picture", "image", "shape", "channel", "dimension"
        )
        assert batch is None or bool(batch["pixel_values"].isfinite().all())

    run_cases("image processor, arrays", ARRAYS, check, examples)


@fuzz(many=400)
def test_annotations(processor, examples):
    images = [Image.new("RGB", (23, 17)), Image.new("RGB", (9, 30))]

    def check(annotations):
        batch = ends_well(
            lambda: processor(images, annotations=annotations, return_tensors="pt"), "image", "annotation", "Image"
        )
        if batch is None:
            return
        assert is_batch(batch, 2) and (annotations is None or len(batch["labels"]) == 2)
        for labels in batch.get("labels", ()):
            boxes = labels["boxes"]
            assert boxes.shape == (len(labels["class_labels"]), 4) and bool(((boxes >= 0) & (boxes <= 1)).all())
            assert bool(labels["area"].isfinite().all()) and bool((labels["class_labels"] >= 0).all())

    run_cases("image processor, annotations", changed(BATCH) | JSON, check, examples)


@fuzz(many=100)
def test_mappings_of_categories(processor, examples):
    image = Image.new("RGB", (23, 17))

    def check(case):
        name, mapping = case
        # the second is how Transformers refuses an option of another type
        expected = (ValueError, StrictDataclassError)
        ends_well(lambda: processor(image, annotations=BATCH[0], **{name: mapping}), name, expected=expected)

    names = st.sampled_from(["category_id_to_label", "id2label"])
    values = changed({"0": 0, "1": 1}) | JSON
    run_cases("image processor, mappings", st.tuples(names, values), check, examples)


# what was found, one by one


@pytest.mark.parametrize("content", BOMBS, ids=["empty", "short", "wide", "none", "ppm"])
def test_a_decompression_bomb_is_refused_from_its_header(processor, content):
    with pytest.raises(UnreadablePictureError, match="cannot be read as a picture"):
        processor(base64.b64encode(content).decode())


@pytest.mark.parametrize("size", [(1, 1), (20000, 1), (1, 20000)])
def test_pictures_of_one_pixel_width(processor, size):
    batch = processor(read_picture(strip(*size), "strip"), return_tensors="pt")
    assert is_batch(batch, 1) and min(batch.pixel_values.shape[2:]) >= 1


def test_a_strip_without_a_longest_edge(processor):
    with pytest.raises(
        ValueError, match="1x20000 .* becomes 800x16000000 .* give less, and with shortest_edge a longest"
    ):
        processor(read_picture(strip(20000, 1), "strip"), size={"shortest_edge": 800})
    assert 800 * 16_000_000 > MOST_PIXELS


def test_what_a_programme_would_have_to_open_is_not_opened():
    """EPS goes from Pillow to Ghostscript."""
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    with pytest.raises(UnreadablePictureError, match="it is none of JPEG, PNG"):
        read_picture(content, "x.eps")


def test_pipes_and_endless_files_are_not_read(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    (tmp_path / "folder.jpg").mkdir()
    for name in ("pipe", "zero", "sparse", "folder"):
        with pytest.raises(UnreadablePictureError, match=f"{name}.jpg cannot be read as a picture: it "):
            open_picture(tmp_path / f"{name}.jpg")
    with pytest.raises(FileNotFoundError, match="nothing.jpg"):
        open_picture(tmp_path / "nothing.jpg")


def test_a_damaged_file_that_the_user_opened_is_named(processor, tmp_path):
    (tmp_path / "cut.jpg").write_bytes(whole_pictures()[0][:-40])
    with pytest.raises(UnreadablePictureError, match="cut.jpg cannot be read as a picture: .*truncated"):
        processor(Image.open(tmp_path / "cut.jpg"))


def test_damaged_exif_is_that_of_an_upright_picture():
    image = Image.new("RGB", (4, 2))
    buffer = BytesIO()
    image.save(buffer, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\xff\xff\xff\xff\0\0\0\0")
    assert picture_to_array(read_picture(buffer.getvalue(), "x.jpg")).shape == (2, 4, 3)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 5, 3), np.uint8), "shape .0, 5, 3. .* has no pixels"),
        (np.full((4, 5, 3), np.nan), "not finite"),
        (np.zeros((4, 5, 3), np.complex64), "complex64 is none: give uint8"),
        (np.full((4, 5, 3), None), "object is none"),
        (
            np.zeros((5, 6, 2), np.uint8),
            "shape .5, 6, 2. .* has not 1, 3 or 4 channels, first or last: leave",
        ),
        (np.zeros((6, 4, 5), np.uint8), "has not 1, 3 or 4 channels"),
    ],
)
def test_arrays_that_are_no_picture(processor, array, message):
    with pytest.raises(UnreadablePictureError, match=message):
        processor(array)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 10**30}, "category_id 1000.*at most 64 bits"),
        ({"category_id": 10**5000}, "category_id of type int, too large to show"),
        ({"bbox": [10**400, 0, 1, 1]}, "is not finite"),
        ({"area": 1e300}, "has area 1e.300"),
        ({"area": float("nan")}, "has area nan"),
        ({"id": 2**63}, "has id 9223372036854775808"),
    ],
)
def test_numbers_that_no_tensor_holds(processor, change, message):
    target = {"image_id": 1, "annotations": [{"bbox": [0, 0, 1, 1], "category_id": 0, **change}]}
    with pytest.raises(ValueError, match=message):
        processor(Image.new("RGB", (4, 4)), annotations=target)


def test_ids_of_images_that_no_tensor_holds(processor):
    with pytest.raises(ValueError, match="image_id=9223372036854775808 must be an integer of at most 64 bits"):
        processor(Image.new("RGB", (4, 4)), annotations={"image_id": 2**63, "annotations": []})
    with pytest.raises(ValueError, match="id2label="):
        processor(Image.new("RGB", (4, 4)), id2label={float("inf"): "cat"})


def test_a_png_larger_than_said_is_one_of_its_header():
    image = read_picture(png(2, 2, b"\0\xff" * 200), "x.png")
    assert image.size == (2, 2) and Path("x.png").suffix == ".png"
