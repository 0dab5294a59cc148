"""Draws a model's detections on pictures and writes them as JSON.

    python scripts/predict.py photo.jpg FOLDER clip.mp4 --model outputs/digits --output_dir outputs/predictions
    python scripts/predict.py FOLDER --model outputs/digits --output_dir outputs/predictions --report predictions.html
    python scripts/predict.py photo.jpg --model outputs/digits --output_dir outputs/predictions --explain
    python scripts/predict.py clip.mp4 --model outputs/digits --output_dir outputs/tracks --track --formats csv yolo
    python scripts/predict.py rtsp://camera/stream --model outputs/digits --output_dir outputs/live --json

Folders are searched to any depth. Videos and streams need `pip install av`. Exits with 1 if a file could not be read.
"""

import sys

from transformers_samdetr.commands.predict import main

if __name__ == "__main__":
    sys.exit(main(__doc__))
