"""The training methods; importing this package fills the registry ``bitshift.nn.method.METHODS``."""

from bitshift.nn.methods.apot import APoT
from bitshift.nn.methods.deepshift_ps import DeepShiftPS
from bitshift.nn.methods.deepshift_q import DeepShiftQ
from bitshift.nn.methods.denseshift import DenseShift
from bitshift.nn.methods.inq import INQ
from bitshift.nn.methods.nearest import Nearest
from bitshift.nn.methods.s3 import S3
from bitshift.nn.methods.uniform import Uniform

__all__ = ["INQ", "S3", "APoT", "DeepShiftPS", "DeepShiftQ", "DenseShift", "Nearest", "Uniform"]
