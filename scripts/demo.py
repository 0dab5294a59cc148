"""A page in the browser to try a model on: drop pictures, move sliders, click on a box to see what the model looked at.

    python scripts/demo.py --model outputs/digits
    python scripts/demo.py --model outputs/digits --compare_with OTHER

Works without a network where the model is a folder. Needs `pip install ".[demo]"`.
"""

from transformers_samdetr.commands.demo import main

if __name__ == "__main__":
    main(__doc__)
