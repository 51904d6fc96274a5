#!/usr/bin/env bash
# From nothing to a trained, evaluated network and its masks, on synthetic images, in about two minutes after the install.
set -euo pipefail
source "$(dirname "$0")/install.sh"
install ""
segkit=.venv/bin/segkit
out=outputs/quickstart
run=$(date +%Y-%m-%d_%H-%M-%S)

echo "1/4  a synthetic data set: fetal heads in ultrasound speckle"
$segkit phantom data=phantom output=$out/data n=60 seed=0
echo "2/4  training"
$segkit train experiment=quickstart data.root=$out/data run="$run"
echo "3/4  evaluating its best checkpoint"
$segkit evaluate ckpt="$out/$run"
echo "4/4  predicting masks"
$segkit predict ckpt="$out/$run" input=$out/data/images output="$out/$run/masks" overlays=true

cat <<EOF

done. Everything lies in $out/$run
  checkpoints/best.ckpt   the network, with all that is needed to use it
  cases.csv summary.json  Dice and IoU of each validation image, and their means
  report.html             all of it on one page
  curves.png samples.png  learning curves; validation images with reference and prediction
  masks/                  masks and overlays of all images
  events.out.tfevents.*   .venv/bin/tensorboard --logdir $out
next: your own images      $segkit train data=folder data.root=FOLDER   (FOLDER/images, FOLDER/masks)
EOF
