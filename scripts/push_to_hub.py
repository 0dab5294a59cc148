r"""Write the model card and the code that a saved model needs on the Hub, check the folder, and upload it.

    python scripts/push_to_hub.py --model outputs/model --repo_id USER/NAME --licence apache-2.0 \
        --training_data "COCO train2017" --metric "COCO AP=41.9" --evaluation_data "COCO val2017"

What is not given reads "not stated" in the card. `--dry_run` writes and checks without uploading.
"""

from transformers_samdetr.commands.push import main

if __name__ == "__main__":
    main(__doc__)
