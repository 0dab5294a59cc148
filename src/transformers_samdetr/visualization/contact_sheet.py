"""Several pictures on one."""

from collections.abc import Sequence

from PIL import Image, ImageOps

GAP = 6


def contact_sheet(pictures: Sequence[Image.Image], columns: int = 4, width: int = 320) -> Image.Image:
    """Pictures row by row, in cells of the first one's shape, each as large as its cell allows, on white.

    Args:
        pictures: at least one.
        columns: pictures of a row.
        width: of a cell, in pixels.

    Raises:
        ValueError: there is no picture.

    >>> contact_sheet([Image.new("RGB", (64, 32))] * 5, columns=4, width=100).size
    (418, 106)
    """
    if not pictures:
        raise ValueError("There are no pictures to put on a sheet.")
    columns = min(columns, len(pictures))
    cell = (width, max(1, round(width * pictures[0].height / pictures[0].width)))
    rows = -(-len(pictures) // columns)
    step_x, step_y = cell[0] + GAP, cell[1] + GAP
    sheet = Image.new("RGB", (columns * step_x - GAP, rows * step_y - GAP), "white")
    for index, picture in enumerate(pictures):
        fitted = ImageOps.pad(picture, cell, Image.Resampling.LANCZOS, color="white")
        sheet.paste(fitted, (index % columns * step_x, index // columns * step_y))
    return sheet
