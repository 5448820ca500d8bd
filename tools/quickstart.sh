#!/usr/bin/env bash
# From a fresh clone to a trained guided-anchoring detector: makes .venv if it is missing, trains
# a small GA-Faster R-CNN on the embedded drawn data on a CPU, from ImageNet weights that come with
# the packages, scores it and draws its results.
# Further arguments go to tools/train_net.py: tools/quickstart.sh --resume SOLVER.MAX_ITER 2000
set -euo pipefail

folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
"$folder/setup_env.sh"
cd "$folder/.."

config=configs/quickstart_ga_faster_efficientnet.yaml
output=output/quickstart
start=$SECONDS
.venv/bin/python tools/train_net.py --config-file "$config" "$@" OUTPUT_DIR "$output"
.venv/bin/python tools/visualize_results.py --config-file "$config" --output "$output/pictures" \
    OUTPUT_DIR "$output"
echo "quickstart: $((SECONDS - start)) s for training, scoring and pictures. The model, its log and" \
    "its results are in $output, the pictures in $output/pictures (overview.png first)"
