"""A page in the browser to try a model on: drop a picture, move the sliders, see what the model looked at.

    python scripts/demo.py --model outputs/digits
    python scripts/demo.py --model outputs/digits --examples one.jpg two.jpg

Works without a network where the model is a folder. Needs `pip install ".[demo]"`.
"""

from transformers_samdetr.commands.demo import main

if __name__ == "__main__":
    main(__doc__)
