"""The paper's models (Tables 1 and 2) and a small one for two CPU cores, as fields. Without PyTorch, for commands."""

_NAMES_FROM_1 = (
    "person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant - stop_sign "
    "parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe - backpack umbrella - - "
    "handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat baseball_glove skateboard "
    "surfboard tennis_racket bottle - wine_glass cup fork knife spoon bowl banana apple sandwich orange "
    "broccoli carrot hot_dog pizza donut cake chair couch potted_plant bed - dining_table - - toilet - tv "
    "laptop mouse remote keyboard cell_phone microwave oven toaster sink refrigerator - book clock vase "
    "scissors teddy_bear hair_drier toothbrush"
).split()

COCO_ID2LABEL: dict[int, str] = {0: "N/A"} | {
    index: "N/A" if name == "-" else name.replace("_", " ") for index, name in enumerate(_NAMES_FROM_1, start=1)
}
"""COCO's 91 class names by category id; the 11 ids that its annotations do not use are called `N/A`."""

_MULTI_SCALE = {"num_feature_levels": 3, "encoder_ffn_dim": 1024}
_SMCA, _DC5, _DENOISING = {"smca": True}, {"dilation": True}, {"num_denoising_groups": 5}
_TINY = {
    # stride 16: small pictures keep enough positions
    "backbone_config": {"model_type": "timm_backbone", "backbone": "tf_efficientnet_lite0", "out_indices": [3]},
    "d_model": 128,
    "num_queries": 60,
    # a choice for few pictures and short runs, not an ablation: the runs that were compared differed in more than this
    "encoder_layers": 0,
    "decoder_layers": 3,
    "decoder_ffn_dim": 512,
    "smca": True,
    "num_denoising_groups": 5,  # boxes are learned from the first step on, not after queries have found objects
}

PRESETS: dict[str, dict] = {
    "sam-detr-r50": {},
    "sam-detr-r50-smca": _SMCA,
    "sam-detr-r50-dc5": _DC5,
    "sam-detr-r50-dc5-smca": _DC5 | _SMCA,
    "sam-detr-pp-r50": _MULTI_SCALE,
    "sam-detr-pp-r50-smca": _MULTI_SCALE | _SMCA,
    "sam-detr-pp-r50-dn": _MULTI_SCALE | _DENOISING,
    "sam-detr-pp-r50-smca-dn": _MULTI_SCALE | _SMCA | _DENOISING,
    "sam-detr-tiny": _TINY,
}

PRESET_IMAGE_SIZES = {"sam-detr-tiny": 256}
"""Height and width in pixels that a preset is meant for, where they are not the paper's 800 to 1333."""


def preset_fields(name: str) -> dict:
    """The fields in which preset `name` differs from the defaults, COCO's 91 classes included; or a ValueError."""
    if name not in PRESETS:
        raise ValueError(f"There is no preset {name!r}. Choose one of: {', '.join(PRESETS)}.")
    id2label = dict(COCO_ID2LABEL)
    # unused ids share a name, so only the used ones can be looked up by it
    label2id = {label: index for index, label in id2label.items() if label != "N/A"}
    return {"id2label": id2label, "label2id": label2id, **PRESETS[name]}
