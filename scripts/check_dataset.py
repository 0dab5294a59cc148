"""Checks a data set before it costs hours: files, boxes, classes, duplicates, leaks, rotation, and how much of what.

    python scripts/check_dataset.py --data FOLDER
    python scripts/check_dataset.py --data FOLDER --report check.html --augmented strong --image_size 384

Prints what was found and exits with 1 if an error is among it, 2 if the data cannot be read, otherwise 0. With --report
a page shows all of it with pictures; with --augmented also what training makes of them.
"""

import sys

from transformers_samdetr.commands.check import main

if __name__ == "__main__":
    sys.exit(main(__doc__))
