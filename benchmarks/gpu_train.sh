#!/bin/bash
# A training run of `tiny` sized for a few minutes of one large GPU: bash benchmarks/gpu_train.sh PACK OUTPUT 00:08:00
# Starts from the shipped weights. The cosine schedule follows the clock, so the run ends well whatever the speed.
set -eu
pack=$1 output=$2 time=$3
exec lmvic train scenes --data "$pack" --output "$output" --init lmvic_ns/codec/weights/tiny.safetensors \
    --optimizer muon --batch 128 --views 2 --view-weights 1 1 --depth-coding given --level-skew 1.5 --photo-share 0.35 --pair-share 0.25 \
    --validation-scene sceaux --validation-chains 8 --learning-rate 0.0012 --transform-rate 0.5 --final-ratio 0.01 \
    --warmup-steps 100 --ema-decay 0.995 --schedule-by time --schedule-time "$time" \
    --workers 14 --report-every 10 --validate-every 110 --checkpoint-every 120 --seed 11
