"""The strict safetensors reader: hand-made files that break one rule each."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from bitshift.core.container import ModelFileError, read_container, write_container
from bitshift.core.strictjson import JsonError, parse_object

META = {"format": "x"}


def raw(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A file with any header: text, bytes, or an object."""
    text = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: str = "U8", shape: Any = (4,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def file_of(data: bytes = b"abcd", **tensors: Any) -> bytes:
    return raw({"__metadata__": META, **tensors}, data)


def refuses(data: bytes, match: str) -> None:
    with pytest.raises(ModelFileError, match=match):
        read_container(data)


def test_tensors_come_back_with_dtype_shape_and_order() -> None:
    tensors = {
        "b": np.arange(3, dtype=np.uint8),
        "a": np.arange(4, dtype=np.int64).reshape(2, 2),
        "c": np.array([1.5, -2], dtype=np.float32),
        "empty": np.zeros((0, 3), dtype=np.int16),
    }
    data = write_container(META, tensors)
    metadata, read = read_container(data)
    assert metadata == META
    assert list(read) == ["a", "c", "empty", "b"]  # by falling item size, then name
    assert all(read[k].dtype == v.dtype and np.array_equal(read[k], v) for k, v in tensors.items())
    assert (8 + int.from_bytes(data[:8], "little")) % 8 == 0
    with pytest.raises(ValueError, match="read-only"):
        read["b"][0] = 1


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "too short"),
        (b"\x02\0\0\0\0\0\0", "too short"),
        (raw(b"{}", length=2**63), "header of 9223372036854775808 bytes"),
        (raw(b"{}", length=100_000_001), "header of 100000001"),
        (raw(b"{}", length=3), "header of 3 bytes in a file of 10"),
        (raw(b"{}", length=1), "header of 1 bytes"),
        (raw(b" {}"), "one JSON object"),
        (raw(b"[]"), "one JSON object"),
        (raw(b"{}\n"), "one JSON object"),
        (raw(b'{"\xff": 1}'), "not UTF-8"),
        (raw(b'{"a": 1, "a": 2}'), "'a' occurs twice"),
        (raw(b"{}"), "__metadata__"),
        (raw({"__metadata__": {"a": 1}}), "strings to strings"),
        (raw(b'{"__metadata__": {"a": "1", "a": "1"}}'), "occurs twice"),
        (raw('{"a":' * 40 + "1" + "}" * 40), "nested deeper"),
        (raw('{"a":' * 100_000 + "1" + "}" * 100_000), "nested deeper"),
        (raw('{"a": ' + "[" * 33 + "]" * 33 + "}"), "nested deeper"),
        (raw(b'{"a": NaN}'), "NaN is not allowed"),
        (raw(b'{"a": -Infinity}'), "Infinity is not allowed"),
        (raw(b'{"a": true}'), "true and false"),
        (raw(b'{"a": "\\ud800"}'), "lone surrogate"),
        (raw(b'{"a": 9223372036854775808}'), "does not fit 64 bits"),
        (raw('{"a": ' + "9" * 10_000 + "}"), "does not fit 64 bits"),
        (raw(b'{"a": 1e999}'), "not finite"),
    ],
)
def test_broken_headers_are_refused(data: bytes, match: str) -> None:
    refuses(data, match)


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"": entry()}, "tensor name"),
        ({"x" * 201: entry()}, "tensor name"),
        ({"ü": entry()}, "tensor name"),
        ({"a": entry() | {"more": 1}}, "exactly dtype"),
        ({"a": [1]}, "exactly dtype"),
        ({"a": {"dtype": "U8", "shape": [4]}}, "exactly dtype"),
        ({"a": entry("F64", (1,), (0, 8))}, "dtype 'F64'"),
        ({"a": entry("BOOL")}, "dtype 'BOOL'"),
        ({"a": entry(shape=(5,))}, "4 bytes of data for shape"),
        ({"a": entry(shape=(-4,))}, "shape"),
        ({"a": entry(shape=(4.0,))}, "shape"),
        ({"a": entry(shape=(1,) * 8 + (4,))}, "at most 8"),
        ({"a": entry(shape=(2**31, 0), offsets=(0, 0))}, "shape"),
        ({"a": entry(shape=(0, *[2**31 - 1] * 3), offsets=(0, 0))}, "too large"),
        ({"a": entry(offsets=(4, 0))}, "begin, end"),
        ({"a": entry(offsets=(0, 4, 4))}, "data_offsets"),
        ({"a": entry(offsets=(0, 5))}, "data_offsets"),
        ({"a": entry(offsets=(-1, 3))}, "data_offsets"),
        ({"a": entry(shape=(3,), offsets=(0, 3))}, "cover 3 of 4"),
        ({"a": entry(shape=(3,), offsets=(1, 4))}, "hole"),
        ({"a": entry(shape=(3,), offsets=(0, 3)), "b": entry(shape=(2,), offsets=(2, 4))}, "overlap"),
        ({"a": entry(shape=(1,), offsets=(0, 1)), "b": entry(shape=(1,), offsets=(3, 4))}, "hole"),
        ({"a": entry(shape=(2,), offsets=(0, 2)), "b": entry("I16", (1,), (2, 4)), "c": entry()}, "overlap"),
        ({"a": entry(shape=(1,), offsets=(0, 1)), "b": entry("I16", (1,), (1, 3))}, "multiple of 2"),
    ],
)
def test_broken_tensors_are_refused(tensors: dict[str, Any], match: str) -> None:
    refuses(file_of(**tensors), match)


def test_trailing_data_is_refused() -> None:
    refuses(file_of(b"abcde", a=entry()), "cover 4 of 5")


def test_spaces_behind_the_header_are_allowed() -> None:
    text = json.dumps({"__metadata__": META, "a": entry()}) + "     "
    assert read_container(raw(text, b"abcd"))[1]["a"].tobytes() == b"abcd"


def test_32_levels_of_nesting_are_allowed() -> None:
    assert parse_object('{"a": ' + "[" * 31 + "]" * 31 + "}")
    with pytest.raises(JsonError, match="deeper than 32"):
        parse_object('{"a": ' + "[" * 32 + "]" * 32 + "}")


def test_json_must_be_an_object() -> None:
    with pytest.raises(JsonError, match="found list"):
        parse_object("[1]")
    with pytest.raises(JsonError, match="no valid JSON"):
        parse_object("{")
