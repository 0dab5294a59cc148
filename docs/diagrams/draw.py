"""Draws the diagrams of docs/how_it_works.md:  python docs/diagrams/draw.py  (needs the extras train and docs)."""

from pathlib import Path

from aligner import aligner_figure
from blocks import layer_figure, model_figure
from scene import make_scene
from smca import smca_figure
from style import save

IMAGES = Path(__file__).parents[1] / "images"


def main(folder: Path = IMAGES) -> None:
    scene = make_scene()
    figures = {
        "model": model_figure(scene),
        "layer": layer_figure(),
        "aligner": aligner_figure(scene),
        "smca": smca_figure(scene),
    }
    for name, figure in figures.items():
        save(figure, folder / f"how_{name}.svg")


if __name__ == "__main__":
    main()
