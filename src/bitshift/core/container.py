"""The outer layer of a model file: a strict reader and writer of safetensors (docs/model-file.md, section 1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from bitshift.core.strictjson import JsonError, dump, parse_object

DTYPES: dict[str, np.dtype] = {
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "F32": np.dtype("<f4"),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER = 100_000_000
MAX_AXES = 8
MAX_LENGTH = (1 << 31) - 1


class ModelFileError(ValueError):
    """A file that breaks docs/model-file.md; the message says where and what is allowed."""


def is_name(text: Any) -> bool:
    """Whether ``text`` is 1 to 200 printable ASCII characters."""
    return isinstance(text, str) and 1 <= len(text) <= 200 and all(" " <= c <= "~" for c in text)


def read_container(data: bytes) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata and tensors of a safetensors file; the arrays are read-only views of ``data``.

    Raises:
        ModelFileError: every deviation from section 1 of docs/model-file.md.
    """
    size = len(data)
    if size < 8:
        raise ModelFileError(f"{size} bytes: too short for the length of the header (8 bytes)")
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(MAX_HEADER, size - 8):
        raise ModelFileError(
            f"header of {length} bytes in a file of {size}: allowed are 2 to {MAX_HEADER}, within the file; "
            "is this a model file?"
        )
    raw = data[8 : 8 + length]
    if raw[:1] != b"{" or raw.rstrip(b" ")[-1:] != b"}":
        raise ModelFileError("the header must be one JSON object, padded with spaces at most; is this a model file?")
    try:
        header = parse_object(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ModelFileError(f"the header is not UTF-8: {error}") from None
    except JsonError as error:
        raise ModelFileError(f"header: {error}") from None
    metadata = _metadata(header.pop("__metadata__", None))
    return metadata, _tensors(header, memoryview(data)[8 + length :])


def _metadata(found: Any) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise ModelFileError("__metadata__ must map strings to strings; is this a bitshift model?")
    return found


def _tensors(header: dict[str, Any], data: memoryview) -> dict[str, np.ndarray]:
    spans: list[tuple[int, int, str]] = []
    tensors: dict[str, np.ndarray] = {}
    for name, entry in header.items():
        if not is_name(name):
            raise ModelFileError(f"tensor name {name[:80]!r}: allowed are 1 to 200 printable ASCII characters")
        where = f"tensor {name!r}"
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ModelFileError(f"{where}: needs exactly dtype, shape and data_offsets")
        dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
        if dtype is None:
            raise ModelFileError(f"{where}: dtype {str(entry['dtype'])[:40]!r}: allowed are {', '.join(DTYPES)}")
        shape = int_list(entry["shape"], f"{where}: shape", lo=0, hi=MAX_LENGTH, at_most=MAX_AXES)
        offsets = int_list(entry["data_offsets"], f"{where}: data_offsets", lo=0, hi=len(data), at_most=2)
        if len(offsets) != 2 or offsets[0] > offsets[1]:
            raise ModelFileError(f"{where}: data_offsets {list(offsets)} must be [begin, end]")
        begin, end = offsets
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise ModelFileError(f"{where}: {end - begin} bytes of data for shape {list(shape)} of {entry['dtype']}")
        if end == begin and math.prod(n for n in shape if n) > MAX_LENGTH:  # numpy has no such array, even an empty one
            raise ModelFileError(
                f"{where}: shape {list(shape)} is too large; its axes over 0 may make {MAX_LENGTH} at most"
            )
        if begin % dtype.itemsize:
            raise ModelFileError(f"{where}: begins at {begin}, not on a multiple of {dtype.itemsize}")
        spans.append((begin, end, name))
        array = np.frombuffer(data[begin:end], dtype=dtype).reshape(shape) if end > begin else np.zeros(shape, dtype)
        array.setflags(write=False)
        tensors[name] = array
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            raise ModelFileError(
                f"tensor {name!r}: begins at {begin}, expected {at}: the data has a hole or an overlap"
            )
        at = end
    if at != len(data):
        raise ModelFileError(f"the tensors cover {at} of {len(data)} bytes of data")
    return tensors


def int_list(found: Any, where: str, *, lo: int, hi: int, at_most: int) -> tuple[int, ...]:
    """``found`` as a tuple if it is a list of at most ``at_most`` integers from ``lo`` to ``hi``."""
    if not isinstance(found, list) or len(found) > at_most or not all(type(x) is int and lo <= x <= hi for x in found):
        raise ModelFileError(
            f"{where} {str(found)[:80]}: allowed is a list of at most {at_most} integers from {lo} to {hi}"
        )
    return tuple(found)


def write_container(metadata: Mapping[str, str], tensors: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a safetensors file: tensors by falling item size, then name; data aligned to 8 bytes."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    chunks: list[bytes] = []
    at = 0
    for name, array in sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        chunk = little.tobytes()
        header[name] = {
            "dtype": _NAMES[little.dtype],
            "shape": list(array.shape),
            "data_offsets": [at, at + len(chunk)],
        }
        at += len(chunk)
        chunks.append(chunk)
    text = dump(header).encode("ascii")
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *chunks])
