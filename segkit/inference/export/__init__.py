"""A checkpoint as a file for other programs: ONNX, OpenVINO, TorchScript, torch.export; and such a file in the place of a checkpoint.

`graph.py` is what is exported, `formats.py` writes it, `precisions.py` makes the file smaller, `card.py` describes it, `runtime.py` opens
it again, `parity.py` compares it with torch, `samples.py` finds images for that, and `exporter.py` does all of it in order.

No format's package is imported before it is used, so that training and prediction from a checkpoint need none of them.
"""
