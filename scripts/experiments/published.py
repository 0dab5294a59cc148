"""What the paper and the authors' logs report for each recipe of the paper."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """What the paper reports for a recipe on COCO val2017, in percent."""

    source: str  # the table, or the authors' log of the conference version
    gflops: int  # for an image, one multiply-add counted as one
    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float


PUBLISHED: dict[str, Published] = {  # by recipe
    "sam-detr-r50-12e": Published("Table 1", 107, 34.2, 55.8, 35.3, 15.0, 37.7, 52.5),
    "sam-detr-r50-smca-12e": Published("Table 1", 107, 37.0, 58.0, 38.5, 17.8, 40.3, 56.1),
    "sam-detr-r50-dc5-12e": Published("Table 1", 229, 39.1, 59.9, 41.2, 20.9, 42.8, 55.5),
    "sam-detr-r50-dc5-smca-12e": Published("Table 1", 229, 41.3, 61.6, 43.6, 22.1, 44.9, 59.2),
    "sam-detr-r50-dc5-dn-12e": Published("Table 1", 229, 42.3, 61.7, 45.2, 22.8, 45.7, 60.0),
    "sam-detr-r50-dc5-smca-dn-12e": Published("Table 1", 229, 43.7, 63.0, 46.8, 24.3, 47.4, 61.4),
    "sam-detr-pp-r50-12e": Published("Table 1", 203, 41.9, 60.5, 45.3, 24.6, 45.5, 57.4),
    "sam-detr-pp-r50-smca-12e": Published("Table 1", 203, 43.2, 61.5, 46.5, 25.5, 46.5, 58.6),
    "sam-detr-pp-r50-smca-dn-12e": Published("Table 1", 203, 44.8, 62.6, 47.9, 26.7, 48.2, 60.9),
    "detr-r50-12e": Published("Table 1", 86, 22.3, 39.5, 22.2, 6.6, 22.8, 36.6),
    "detr-r50-dc5-12e": Published("Table 1", 187, 25.9, 44.4, 26.0, 7.9, 27.1, 41.4),
    "sam-detr-pp-r50-50e": Published("Table 2", 203, 47.5, 66.5, 51.3, 29.3, 50.8, 62.7),
    "sam-detr-pp-r50-smca-50e": Published("Table 2", 203, 48.0, 66.6, 52.2, 29.9, 51.5, 64.6),
    "sam-detr-pp-r50-smca-dn-50e": Published("Table 2", 203, 49.1, 67.2, 53.2, 30.5, 52.6, 64.7),
    "detr-r50-50e": Published("Table 2", 86, 34.9, 55.5, 36.0, 14.4, 37.2, 54.5),
    "detr-r50-dc5-50e": Published("Table 2", 187, 36.7, 57.6, 38.2, 15.4, 39.8, 56.3),
    "sam-detr-r50-50e": Published("authors' log", 107, 39.8, 61.8, 41.6, 20.5, 43.4, 59.6),
    "sam-detr-r50-smca-50e": Published("authors' log", 107, 41.8, 63.2, 43.9, 22.1, 45.9, 60.9),
    "sam-detr-r50-dc5-50e": Published("authors' log", 229, 43.3, 64.4, 46.2, 25.1, 46.9, 61.0),
    "sam-detr-r50-dc5-smca-50e": Published("authors' log", 229, 45.0, 65.5, 47.9, 26.2, 49.0, 63.3),
}
