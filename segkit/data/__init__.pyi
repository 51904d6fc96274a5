from .case import Case as Case
from .case import Manifest as Manifest
from .datamodule import SegmentationData as SegmentationData
from .labels import LabelMap as LabelMap
from .splits import Split as Split
