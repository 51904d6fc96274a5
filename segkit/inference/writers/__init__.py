"""Files that a prediction leaves on disk. Imports data, metrics, the rest of inference, and what lies below them.

`masks` writes masks, probabilities, overlays and sizes; `formats` chooses among the formats beside the masks: `labelme`
(polygons), `dicom_seg` (DICOM-SEG) and `submissions` (challenges), all subclasses of `base.Writer`; `tables` keeps CSV tables
that several shards of a prediction fill together.
"""
