"""`pipeline("object-detection")`: batches of any number and sizes give each picture what it gets alone."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessor, pipeline

from tests.models import SMALL_BACKBONE, tiny_model
from transformers_samdetr import SamDetrImageProcessor

SIZES = {
    "one size": [(100, 80)] * 7,
    "all sizes": [(100, 80), (60, 90), (100, 80), (120, 50), (90, 60), (60, 90), (40, 40)],
}


def pictures(sizes: list[tuple[int, int]]) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)) for size in sizes]


def detector(folder, **fields):
    model = tiny_model(backbone_config=SMALL_BACKBONE, **{"decoder_layers": 6, **fields})
    for head in model.class_heads:
        torch.nn.init.normal_(head.weight, std=0.5)
    model.save_pretrained(folder)
    SamDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(folder)
    return pipeline("object-detection", model=str(folder))


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("fields", [{}, {"auxiliary_loss": False}, {"mask_padding": True}], ids=str)
def test_batches_give_each_picture_what_it_gets_alone(sizes, fields, tmp_path):
    detect, images = detector(tmp_path, **fields), pictures(sizes)
    alone = [detect(image, threshold=0.0) for image in images]
    assert all(alone) and alone[0] != alone[1]
    for batch_size in (1, 2, 3, 6, 7, 8):
        together = detect(images, threshold=0.0, batch_size=batch_size)
        assert [[row["label"] for row in rows] for rows in together] == [
            [row["label"] for row in rows] for rows in alone
        ]
        scores = [[[row["score"] for row in rows] for rows in answer] for answer in (together, alone)]
        np.testing.assert_allclose(*scores, atol=1e-5)


def test_generators_and_paths_in_batches(tmp_path):
    detect, images = detector(tmp_path), pictures(SIZES["all sizes"][:3])
    files = [str(tmp_path / f"{index}.png") for index in range(3)]
    for image, file in zip(images, files, strict=True):
        image.save(file)
    alone = [detect(image, threshold=0.0) for image in images]
    assert [len(rows) for rows in detect(files, threshold=0.0, batch_size=2)] == [len(rows) for rows in alone]
    assert len(list(detect((image for image in images), threshold=0.0, batch_size=2))) == 3


def test_arrays_tensors_and_path_objects(tmp_path):
    detect, image = detector(tmp_path), pictures([(100, 80)])[0]
    image.save(tmp_path / "0.png")
    array, expected = np.array(image), detect(image, threshold=0.0)
    for same in (array, array / 255, torch.from_numpy(array).movedim(-1, 0), tmp_path / "0.png"):
        found = detect(same, threshold=0.0)
        assert [row["box"] for row in found] == [row["box"] for row in expected]
        np.testing.assert_allclose([row["score"] for row in found], [row["score"] for row in expected], atol=1e-5)
    assert len(detect([array, tmp_path / "0.png", image], threshold=0.0, batch_size=2)) == 3


def test_the_threshold_is_the_one_saved_with_the_model(tmp_path):
    detect, image = detector(tmp_path), pictures([(100, 80)])[0]
    scores = sorted(row["score"] for row in detect(image, threshold=0.0))
    above_half = [score for score in scores if score > 0.5]
    assert len(detect(image)) == len(above_half)
    detect.model.config.detection_threshold = scores[len(scores) // 2]
    assert len(detect(image)) == len([score for score in scores if score > scores[len(scores) // 2]])
    assert len(detect(image, threshold=0.0)) == len(scores)


def test_the_processor_of_another_model(tmp_path):
    detect = detector(tmp_path)
    detect.image_processor = DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    assert len(detect(pictures(SIZES["all sizes"][:2]), threshold=0.0, batch_size=2)) == 2
    with pytest.raises(TypeError, match="Incorrect format used for image"):
        detect(np.zeros((8, 8, 3), np.uint8))


def test_every_output_is_indexed_by_picture(tmp_path):
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}] * 2
    outputs = tiny_model(backbone_config=SMALL_BACKBONE)(torch.randn(2, 3, 64, 64), labels=labels)
    for name, value in outputs.items():
        if not name.startswith("loss"):
            assert isinstance(value, torch.Tensor) and len(value) == 2, name


def test_other_models_are_left_to_the_pipeline_of_transformers():
    backbone = {"model_type": "timm_backbone", "backbone": "test_resnet", "out_indices": [4]}
    config = DetrConfig(
        backbone_config=backbone, use_pretrained_backbone=False, d_model=32, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=5,
    )  # fmt: skip
    processor = DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    detect = pipeline("object-detection", model=DetrForObjectDetection(config), image_processor=processor)
    answers = detect(pictures([(100, 80)] * 3), batch_size=2, threshold=0.0)
    assert len(answers) == 3 and all(answers)
