from .cli.api import evaluate as evaluate
from .cli.api import predict as predict
from .cli.api import train as train
from .config.compose import compose as compose
from .data.case import Case as Case
from .data.case import Manifest as Manifest
from .data.labels import LabelMap as LabelMap
from .inference.predictor import load as load
from .models.hub import push as push
from .models.hub import save as save
from .system.errors import SegkitError as SegkitError

__version__: str
