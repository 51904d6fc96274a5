from .averaging import WeightAveraging as WeightAveraging
from .checkpoints import EarlyStopping as EarlyStopping
from .checkpoints import ModelCheckpoint as ModelCheckpoint
from .ending import Timer as Timer
from .logging import Pictures as Pictures
from .throughput import Throughput as Throughput
from .validation import ValidationCurves as ValidationCurves
