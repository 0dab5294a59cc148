"""Measures a model on the evaluation set of a data set: AP, errors, confusion, pictures.

    python scripts/evaluate.py --model outputs/digits --data digits --report outputs/digits/evaluation.html
    accelerate launch --num_processes 2 scripts/evaluate.py --model FOLDER --data FOLDER --batch_size 4

Prints the table and writes metrics.json and pictures to --output_dir; with --report also one page with all of it.
"""

from transformers_samdetr.commands.evaluate import main

if __name__ == "__main__":
    main(__doc__)
