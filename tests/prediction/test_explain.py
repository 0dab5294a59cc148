"""What a model looked at: numbers against the model's own, and figures that have what they promise."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_samdetr import SamDetrImageProcessor
from transformers_samdetr.visualization.explain import (
    MARKS,
    alignment_figure,
    attention_figure,
    box_path_figure,
    explanation_figure,
    figure_to_picture,
    find_best,
    observe,
    same_object,
    spread,
    window_around,
)

from ..models import SMALL_BACKBONE, tiny_model

PROCESSOR = SamDetrImageProcessor(size={"height": 64, "width": 96})
VARIANTS = {
    "single": {},
    "multi-scale smca": {
        "num_feature_levels": 3,
        "backbone_config": SMALL_BACKBONE | {"out_indices": [2, 3, 4]},
        "smca": True,
    },
    "two keypoints": {"num_keypoints": 2},
    "average": {"query_resampling": "average"},
    "none": {"query_resampling": "none"},
    "last layer loss": {"auxiliary_loss": False},
}


def small_model(**fields):
    return tiny_model(**{"backbone_config": SMALL_BACKBONE, **fields})


def picture(width=90, height=60, seed=0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def detections_of(observation, count=3):
    image = observation.image
    sizes = [(image.height, image.width)]
    (found,) = PROCESSOR.post_process_object_detection(observation.outputs, threshold=0.0, target_sizes=sizes)
    return {name: values[:count] for name, values in found.items()}


@pytest.fixture(scope="module", params=VARIANTS)
def seen(request):
    model = small_model(**VARIANTS[request.param])
    return model, observe(model, PROCESSOR, picture())


def test_outputs_are_the_models_own(seen):
    model, observation = seen
    with torch.no_grad():
        outputs = model(**PROCESSOR(picture(), return_tensors="pt"))
    assert torch.allclose(observation.outputs.pred_boxes, outputs.pred_boxes, atol=1e-5)
    assert torch.allclose(observation.outputs.logits, outputs.logits, atol=1e-4)
    assert model.config._attn_implementation != "eager", "observing changes the model"
    assert not any(module._forward_hooks for module in model.modules())


def test_attention_is_what_the_model_returns(seen):
    model, observation = seen
    model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = model(**PROCESSOR(picture(), return_tensors="pt"), output_attentions=True)
    model.set_attn_implementation("sdpa")
    for layer, expected in enumerate(outputs.cross_attentions):
        maps = observation.attention(4, layer)
        assert maps.ndim == 3 and np.allclose(maps.reshape(len(maps), -1), expected[0, :, 4], atol=1e-6)
        assert np.allclose(maps.sum((1, 2)), 1, atol=1e-4)  # nothing is cut off without padding
        stride_is_a_power_of_two = 96 / maps.shape[2] == 64 / maps.shape[1]
        assert stride_is_a_power_of_two, maps.shape


def test_points_lie_in_their_boxes(seen):
    model, observation = seen
    if not observation.has_points:
        with pytest.raises(ValueError, match="no salient points"):
            observation.points(0)
        return
    points, boxes = observation.points(5, 1), observation.boxes()[1, 5]
    assert points.shape == (model.config.num_keypoints, 2)
    assert (points >= boxes[:2] - 1e-3).all() and (points <= boxes[2:] + 1e-3).all()
    heads = [observation.point_of_head(head) for head in range(model.config.decoder_attention_heads)]
    assert heads == sorted(heads) and set(heads) == set(range(model.config.num_keypoints))


def test_boxes_are_pixels_and_end_with_the_prediction(seen):
    model, observation = seen
    boxes = observation.boxes()
    layers = model.config.decoder_layers
    expected = layers + 1 if observation.has_reference else layers
    assert boxes.shape == (expected, 12, 4)
    cx, cy, width, height = observation.outputs.pred_boxes[0, 3].tolist()
    assert np.allclose(
        boxes[-1, 3],
        [90 * (cx - width / 2), 60 * (cy - height / 2), 90 * (cx + width / 2), 60 * (cy + height / 2)],
        atol=1e-3,
    )


def test_a_detection_finds_its_query(seen):
    _, observation = seen
    scores = observation.outputs.logits[0].sigmoid()
    for one in find_best(observation, detections_of(observation, 12), 12):
        assert float(scores[one.query, one.label]) == pytest.approx(one.score, abs=1e-6)
        assert np.allclose(observation.boxes()[-1, one.query], one.box, atol=1e-3)
        assert one.title == f"{one.name}: {one.score:.2f}"
    with pytest.raises(ValueError, match="count=0"):
        find_best(observation, detections_of(observation), 0)


def test_figures(seen):
    """Each has its panels, and can be drawn."""
    model, observation = seen
    found = find_best(observation, detections_of(observation), 1)
    heads = attention_figure([observation], *same_object([observation], ["a model $"], found[0]))
    drawn = [axes for axes in heads.axes if axes.axison]
    assert len(drawn) == 2 + model.config.decoder_attention_heads
    figures = [heads, box_path_figure(observation, found), explanation_figure(observation, found)]
    if observation.has_reference:
        figures.append(alignment_figure(observation, found))
    else:
        with pytest.raises(ValueError, match="no aligner"):
            alignment_figure(observation, found)
    if observation.config.query_resampling == "none":  # drawing takes a second: the others are drawn below
        assert np.asarray(figure_to_picture(figures[-1], dots_per_inch=40)).std() > 20, "an empty page"


def test_no_text_covers_another():
    """Titles, labels and legends of every figure, measured as they are drawn."""
    observation = observe(small_model(), PROCESSOR, picture())
    found = find_best(observation, detections_of(observation), 2)
    queries, titles = same_object([observation] * 2, ["model with a name", "other"], found[0])
    assert queries == [found[0].query] * 2
    figures = [
        attention_figure([observation] * 2, queries, titles),
        box_path_figure(observation, found),
        alignment_figure(observation, found),
        explanation_figure(observation, found),
    ]
    for figure in figures:
        assert_texts_apart(figure)


@pytest.mark.parametrize("size", [(40, 200), (200, 40)])
def test_no_text_covers_another_on_long_pictures_with_long_names(size):
    model = small_model()
    model.config.id2label = {label: f"a class {label}$ with a name that says\neverything$" for label in range(5)}
    observation = observe(model, PROCESSOR, picture(*size))
    found = find_best(observation, detections_of(observation), 2)
    assert found[0].title.startswith("a class ") and len(found[0].title) < 34
    assert_texts_apart(explanation_figure(observation, found))


def assert_texts_apart(figure):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    texts = [text for text in texts if text.axes is None or text.axes.axison]
    # matplotlib thins out the numbers along an axis itself, and holds some that it does not draw
    numbers = [text for axes in figure.axes for text in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    texts = [text for text in texts if text not in numbers]
    places = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    for index, (name, place) in enumerate(places):
        for other_name, other in places[index + 1 :]:
            overlap_x = min(place.x1, other.x1) - max(place.x0, other.x0)
            overlap_y = min(place.y1, other.y1) - max(place.y0, other.y0)
            assert overlap_x <= 1 or overlap_y <= 1, f"{name!r} covers {other_name!r}"


def test_padding_is_cut_off():
    processor = SamDetrImageProcessor(size={"height": 64, "width": 64}, pad_size={"height": 96, "width": 128})
    observation = observe(small_model(), processor, picture(60, 60))
    assert observation.attention(0).shape[1:] == (2, 2)  # of 3 x 4 cells


def test_what_cannot_be_drawn_is_refused():
    model = small_model()
    observation = observe(model, PROCESSOR, picture())
    with pytest.raises(ValueError, match="training mode"):
        observe(model.train(), PROCESSOR, picture())
    for draw in (box_path_figure, alignment_figure, explanation_figure):
        with pytest.raises(ValueError, match="lower the threshold"):
            draw(observation, [])
    with pytest.raises(ValueError, match="1 observations, 2 queries and 1 titles"):
        attention_figure([observation], [1, 2], ["a"])


def test_spread_and_windows():
    assert spread(np.ones((4, 5))) == 20 and spread(np.array([0, 3.0, 0])) == 1
    window = window_around(np.array([[50.0, 30, 60, 40]]), (200, 100))
    assert np.allclose(window[2:] - window[:2], [60, 30]) and (window[:2] <= [50, 30]).all() and window[3] >= 40
    assert window_around(np.array([[-9.0, -9, 300, 200]]), (200, 100)).tolist() == [0, 0, 200, 100]
    assert len({shape for shape, _ in MARKS}) == len({color for _, color in MARKS}) == 8


def test_a_missing_package_is_named(monkeypatch):
    for name in list(sys.modules):
        if name.startswith("transformers_samdetr.visualization.explain"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"transformers-samdetr\[explain\]"):
        import transformers_samdetr.visualization.explain  # noqa: F401
