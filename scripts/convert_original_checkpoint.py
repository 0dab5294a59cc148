"""Convert a checkpoint of SAM-DETR's authors to a folder that Transformers loads.

    python scripts/convert_original_checkpoint.py --checkpoint FILE.pth --output_dir outputs/sam-detr-r50

Which model it is, is read from the file; where an R50 file without stored arguments may be a DC5 model, say so with
--dilation or --no-dilation. Nothing in the file is run. The result is loaded and compared before the script ends.
"""

from transformers_samdetr.commands.convert import main

if __name__ == "__main__":
    main(__doc__)
