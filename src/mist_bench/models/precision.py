"""Where bfloat16 ends: what networks return is float32 again before anything is made of it."""

import torch
from torch import Tensor


def widened(tensor: Tensor) -> Tensor:
    """Return a tensor of 16 bits, as autocast leaves it, in float32; any other as it is.

    Eight or eleven bits are too coarse for what is compared, selected, summed or a coordinate.
    """
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
