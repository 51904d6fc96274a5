"""From an image as it is read to the network's input: `geometry` (invertible), `intensity`, `preprocess` (both), `patches`, `augment`.

Imports `config`, `system`, and cases, labels and slices of `data`; `augment` alone knows albumentations.
"""
