"""The category names of COCO, by the ids its annotations use (0 and ten others are unused)."""

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
"""91 entries: label index = COCO category id; ids that COCO never uses are called `N/A`."""
