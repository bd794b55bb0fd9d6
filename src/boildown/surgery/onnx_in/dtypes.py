"""Types of a file's tensors, and what they are computed as."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor

HALF: Mapping[int, str] = {
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}
"""Types that are computed as float32."""

_DTYPES: Mapping[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    **dict.fromkeys(HALF, torch.float32),
    TensorProto.BOOL: torch.bool,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT16: torch.int32,
    TensorProto.UINT32: torch.int64,
    TensorProto.UINT64: torch.int64,
    TensorProto.INT4: torch.int8,
    TensorProto.UINT4: torch.uint8,
}


def dtype_of(code: int) -> torch.dtype:
    """What a type of a file is computed as. Raises ValueError for one that is no number."""
    if code not in _DTYPES:
        known = TensorProto.DataType.values()
        name = TensorProto.DataType.Name(code) if code in known else str(code)
        raise ValueError(f"values of type {name} are not read")
    return _DTYPES[code]


def as_tensor(proto: TensorProto) -> Tensor:
    """A tensor of a file whose bytes are in it. Raises ValueError where they do not fit its type and shape."""
    dtype = dtype_of(proto.data_type)
    if any(size < 0 for size in proto.dims):
        raise ValueError(f"its shape is {list(proto.dims)}")
    array: Any = onnx.numpy_helper.to_array(proto)
    plain = np.dtype(str(dtype).removeprefix("torch."))
    array = np.array(array.astype(plain, copy=False), copy=not array.flags.writeable, order="C")
    return torch.from_numpy(array)
