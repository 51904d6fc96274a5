from .module import SegmentationModule as SegmentationModule
from .run_folder import RunFolder as RunFolder
