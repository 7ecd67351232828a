"""Which Ascend card this is: none."""
from enum import Enum, auto


class NPUDevice(Enum):
    """Generations of Ascend cards."""

    UNDEFINED = auto()
    A2 = auto()
    A3 = auto()
    A5 = auto()
    Duo = auto()


def get_npu_device() -> NPUDevice:
    """UNDEFINED: aerogel runs elsewhere."""
    return NPUDevice.UNDEFINED


def is_a5_device() -> bool:
    """False: aerogel runs elsewhere."""
    return get_npu_device() is NPUDevice.A5
