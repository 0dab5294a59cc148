#!/usr/bin/env bash
# Several machines without a scheduler. Run this on each of them, rank 0 first:
#   bash examples/multi_node.sh RANK MACHINES GPUS_EACH FIRST_MACHINE --recipe sam-detr-r50-12e --output_dir /shared/r50 …
# The output folder and the data must be on a file system that all machines share. When a machine is lost the others stop
# within a minute; run the same command again on all: it goes on from the last checkpoint.
#
# Not run on machines: the tests run two launchers with the same arguments over loopback, on the CPU.
set -euo pipefail
if [ $# -lt 4 ]; then
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
rank=$1 machines=$2 gpus=$3 first=$4
shift 4
# a launcher that is told to stop gives its processes this long to save before it kills them; 30 would be its default
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600
exec accelerate launch --config_file "$(dirname "$0")/accelerate_configs/multi_node.yaml" \
    --num_machines "$machines" --num_processes $((machines * gpus)) --machine_rank "$rank" \
    --main_process_ip "$first" "$(dirname "$0")/../scripts/train.py" --resume auto "$@"
