#!/usr/bin/env bash
# The main job on a fresh machine: environment, a small detection set, a fine-tune, AP, predictions.
#
#   bash scripts/quickstart.sh                                  digit scenes, no download
#   bash scripts/quickstart.sh --data FOLDER --epochs 30        your pictures, in COCO's layout, or a Hub name
#
# Everything after the script's name goes to scripts/train.py and overrides the settings below. A run that was
# interrupted goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
recipe=digits
for argument in "$@"; do
    case "$argument" in --data | --data=*) recipe=tiny ;; esac
done
OUTPUT="${OUTPUT:-outputs/$recipe}"
echo "1/3  Environment in ${VENV:-.venv}"
. scripts/environment.sh train,quickstart
cores=$(python -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')
device=$(python -c 'import torch; print("" if torch.cuda.is_available() else "--cpu")')
echo "2/3  Fine-tuning sam-detr-tiny from a pretrained EfficientNet-Lite0; each line is an epoch"
accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
    --num_cpu_threads_per_process "$cores" $device scripts/train.py \
    --recipe "$recipe" --output_dir "$OUTPUT" --resume "$@"
echo "3/3  Predictions on held-out pictures"
python scripts/show_predictions.py --model "$OUTPUT" --output_dir "$OUTPUT/predictions" "$@"
