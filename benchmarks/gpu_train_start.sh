#!/bin/bash
# Trains `tiny` from the DCT start in one go, in two stages: bash benchmarks/gpu_train_start.sh PACK OUTPUT PHOTO_SECONDS SCENE_SECONDS
# Photographs first, because a step on them takes half the time; the second stage goes on at the first one's last learning rate.
# Sized for ten minutes of one large GPU. Further options of both stages (for a rehearsal, --batch 4 --workers 0): EXTRA="..."
set -eu
pack=$1 output=$2 photos=$3 scenes=$4
shared="--data $pack --optimizer muon --ema-decay 0.995 --schedule-by time --workers 14 --report-every 20 --checkpoint-every 600 --seed 12"
lmvic train photos $shared --output "$output/photos" --batch 192 --learning-rate 0.003 --final-ratio 0.4 --warmup-steps 150 \
    --level-skew 1.3 --validate-every 80 --schedule-time "$photos" ${EXTRA:-}
lmvic train scenes $shared --output "$output/scenes" --init "$output/photos/last.safetensors" --batch 128 --learning-rate 0.0012 --final-ratio 0.01 \
    --warmup-steps 40 --views 2 --view-weights 1 1 --depth-coding given --level-skew 1.5 --photo-share 0.35 --pair-share 0.3 \
    --validation-scene sceaux --validation-chains 8 --validate-every 100 --schedule-time "$scenes" ${EXTRA:-}
