from .multitask import MultiTaskUNet as MultiTaskUNet
from .segmentation import SegmentationModel as SegmentationModel
from .smp import SMP as SMP
from .unet import UNet as UNet
