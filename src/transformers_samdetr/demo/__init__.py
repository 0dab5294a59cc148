"""A page in the browser to try a model on; `page.serve` shows it. Needs the extra `demo`."""

import os
from dataclasses import dataclass

# before Gradio is imported, which reads it then: nothing on this page goes to others
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


@dataclass(frozen=True)
class UploadLimits:
    """Bounds of uploads.

    Attributes:
        pictures: in one upload.
        megabytes: of a file.
        megapixels: of a picture, read from its header before anything is decoded.
        seconds: for one upload; no further picture is started after that.
        waiting: requests in the queue.
    """

    pictures: int = 100
    megabytes: int = 25
    megapixels: float = 50.0
    seconds: float = 120.0
    waiting: int = 32

    def __post_init__(self):
        for name, value in vars(self).items():
            if not 0 < value < float("inf"):
                raise ValueError(f"{name}={value} must be a finite number above 0.")
