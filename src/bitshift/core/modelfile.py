"""Reader and writer of the model file; docs/model-file.md is the law, and this file follows its sections."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bitshift import __version__
from bitshift.core.container import (
    MAX_LENGTH,
    ModelFileError,
    int_list,
    is_name,
    read_container,
    write_container,
)
from bitshift.core.fixed import FixedPoint, Float32, ValueType
from bitshift.core.formats import FORMATS
from bitshift.core.graph import Graph, GraphError, Node, Value
from bitshift.core.ops import get_op
from bitshift.core.packing import pack, packed_size, unpack
from bitshift.core.roles import DEFAULTS, ROLE_DTYPES, ROLES, stored, stored_dtypes
from bitshift.core.strictjson import JsonError, dump, is_text, parse_object

FORMAT_VERSIONS = ("1", "2")
MAX_NODES = 100_000
MAX_RANK = 6
_LARGEST = sys.float_info.max
_TYPE = re.compile(r"([su])([1-9][0-9]?)\.(0|-?[1-9][0-9]?)", re.ASCII)


def dumps(graph: Graph) -> bytes:
    """The model file of ``graph``.

    Constants that equal their default and constants that no node uses are left out.

    Raises:
        GraphError: the graph does not pass :func:`bitshift.core.check.check`.
        ModelFileError: a name that the file cannot hold.
    """
    from bitshift.core.check import check

    check(graph)
    tensors: dict[str, np.ndarray] = {}
    codes: dict[str, Any] = {}
    nodes = [_encode_node(graph, node, tensors, codes) for node in graph.nodes]
    for name in (*graph.values, *tensors):
        if not is_name(name):
            raise ModelFileError(f"name {name[:80]!r}: allowed are 1 to 200 printable ASCII characters")
    if "__metadata__" in tensors:
        raise ModelFileError("constant '__metadata__': the file keeps its description under that name; use another one")
    tree = {
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
        "values": {v.name: {"shape": list(v.shape), "type": str(v.type)} for v in graph.values.values()},
        "nodes": nodes,
        "codes": codes,
        "meta": dict(graph.meta),
    }
    check_meta(graph.meta)
    metadata = {
        "format": "bitshift",
        "format_version": needed_version(graph),
        "producer": f"bitshift {__version__}",
        "graph": dump(tree),
    }
    return write_container(metadata, tensors)


def loads(data: bytes) -> Graph:
    """The graph in the bytes of a model file, checked by :func:`bitshift.core.check.check`.

    Raises:
        ModelFileError: everything that docs/model-file.md does not allow.
    """
    from bitshift.core.check import check

    metadata, tensors = read_container(bytes(data))
    if set(metadata) != {"format", "format_version", "producer", "graph"} or metadata["format"] != "bitshift":
        raise ModelFileError(
            "metadata needs exactly format (bitshift), format_version, producer and graph; is this a bitshift model?"
        )
    if metadata["format_version"] not in FORMAT_VERSIONS:
        raise ModelFileError(
            f"format version {metadata['format_version'][:20]!r}; "
            f"this program reads the versions {' and '.join(FORMAT_VERSIONS)}: use a matching bitshift"
        )
    try:
        tree = parse_object(metadata["graph"])
    except JsonError as error:
        raise ModelFileError(f"graph: {error}") from None
    try:
        graph = _decode_graph(tree, tensors)
        check(graph)
    except GraphError as error:
        raise ModelFileError(str(error)) from error
    if metadata["format_version"] != needed_version(graph):
        raise ModelFileError(
            f"format version {metadata['format_version']}; the ops of the graph ask for version {needed_version(graph)}"
        )
    return graph


def needed_version(graph: Graph) -> str:
    """The lowest version of the model file that has all of ``graph``: what its file says."""
    newest = max((get_op(node.op).since for node in graph.nodes), default=1)
    volumes = any(
        n.op in ("conv", "max_pool", "avg_pool") and len(graph.values[n.inputs[0]].shape) == 4 for n in graph.nodes
    )
    return str(max(newest, 2 if volumes else 1))


def save(graph: Graph, path: str | os.PathLike[str]) -> int:
    """Write ``graph`` to ``path`` atomically (a reader sees the old file or the whole new one); returns the bytes."""
    target = Path(path)
    data = dumps(graph)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return len(data)


def load(path: str | os.PathLike[str]) -> Graph:
    """The graph in the file ``path``.

    Raises:
        OSError: the file cannot be read.
        ModelFileError: it is not a valid model file; the message begins with the path.
    """
    data = Path(path).read_bytes()
    try:
        return loads(data)
    except ModelFileError as error:
        raise ModelFileError(f"{os.fspath(path)}: {error}") from error


def read_meta(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The ``meta`` of a model file that a reader has accepted: labels, preprocessing, name. Reads the header alone."""
    with Path(path).open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return json.loads(header["__metadata__"]["graph"])["meta"]


def parse_type(text: Any, where: str) -> ValueType:
    """``f32``, ``sB.F`` or ``uB.F`` as a value type; ModelFileError names ``where``."""
    if text == "f32":
        return Float32()
    match = _TYPE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ModelFileError(f"{where}: type {str(text)[:40]!r}: allowed are f32, sB.F and uB.F, e.g. s8.7")
    try:
        return FixedPoint(int(match[2]), int(match[3]), match[1] == "s")
    except ValueError as error:
        raise ModelFileError(f"{where}: {error}") from None


def check_meta(meta: Any) -> None:
    """Refuse a ``meta`` that section 3 or 5 does not allow (ModelFileError)."""
    if not isinstance(meta, Mapping) or set(meta) - {"labels", "preprocess", "name"}:
        found = str(sorted(meta) if isinstance(meta, Mapping) else meta)[:80]
        raise ModelFileError(f"meta: allowed is an object with the keys labels, preprocess and name, found {found}")
    labels = meta.get("labels", [])
    if not isinstance(labels, list | tuple) or not all(isinstance(x, str) for x in labels):
        raise ModelFileError("meta: labels must be a list of strings")
    if not isinstance(meta.get("name", ""), str):
        raise ModelFileError("meta: name must be a string")
    for text in (*labels, meta.get("name", "")):
        if not is_text(text):
            raise ModelFileError(
                f"meta: {ascii(text)[:80]} holds a lone surrogate; allowed is text that UTF-8 can hold"
            )
    if "preprocess" in meta:
        _check_preprocess(meta["preprocess"])


def _check_preprocess(found: Any) -> None:
    if not isinstance(found, Mapping) or set(found) != {"kind", "channels", "size", "mean", "scale"}:
        raise ModelFileError("preprocess: needs exactly kind, channels, size, mean and scale")
    if found["kind"] != "image":
        raise ModelFileError(f"preprocess: kind {str(found['kind'])[:40]!r}: allowed is 'image'")
    channels, size = found["channels"], found["size"]
    if type(channels) is not int or channels not in (1, 3):
        raise ModelFileError(f"preprocess: channels {str(channels)[:40]}: allowed are 1 and 3")
    if (
        not isinstance(size, list | tuple)
        or len(size) != 2
        or not all(type(s) is int and 1 <= s <= 65535 for s in size)
    ):
        raise ModelFileError(f"preprocess: size {str(size)[:40]}: allowed is [height, width], each 1 to 65535")
    for key in ("mean", "scale"):
        floats = found[key]
        if (
            not isinstance(floats, list | tuple)
            or len(floats) != channels
            or not all(type(x) in (int, float) and abs(x) <= _LARGEST for x in floats)
        ):
            raise ModelFileError(f"preprocess: {key} must be a list of {channels} finite numbers")
    if any(x == 0 for x in found["scale"]):
        raise ModelFileError("preprocess: a scale is 0")


def _encode_node(graph: Graph, node: Node, tensors: dict[str, np.ndarray], codes: dict[str, Any]) -> dict[str, Any]:
    consts = {}
    for role, name in node.consts.items():
        array = graph.constants[name]
        if role == "codes":
            form = FORMATS[node.attrs["format"]]
            if codes.get(name, {}).get("format", form.name) != form.name:
                raise ModelFileError(f"{node}: codes {name!r} are shared by nodes of two formats")
            codes[name] = {"format": form.name, "shape": list(array.shape)}
            tensors[name] = pack(array, form.bits)
        elif role in DEFAULTS and (array == DEFAULTS[role]).all():
            continue
        else:
            tensors[name] = stored(role, array)
        consts[role] = name
    return {
        "op": node.op,
        "inputs": list(node.inputs),
        "output": node.output,
        "attrs": {key: _plain(value) for key, value in node.attrs.items()},
        "consts": consts,
        "source": node.source,
    }


def _plain(attr: Any) -> Any:
    return [_plain(x) for x in attr] if isinstance(attr, tuple | list) else attr


def _decode_graph(tree: dict[str, Any], tensors: dict[str, np.ndarray]) -> Graph:
    if set(tree) != {"inputs", "outputs", "values", "nodes", "codes", "meta"}:
        raise ModelFileError(
            f"graph: needs exactly inputs, outputs, values, nodes, codes and meta, found {str(sorted(tree))[:80]}"
        )
    _expect(isinstance(tree["values"], dict), "values must be an object")
    _expect(isinstance(tree["codes"], dict), "codes must be an object")
    _expect(
        isinstance(tree["nodes"], list) and len(tree["nodes"]) <= MAX_NODES,
        f"nodes must be a list of at most {MAX_NODES}",
    )
    values = {name: _decode_value(name, found) for name, found in tree["values"].items()}
    nodes = tuple(_decode_node(i, found) for i, found in enumerate(tree["nodes"]))
    check_meta(tree["meta"])
    constants = _decode_constants(tree["codes"], tensors, values, nodes)
    inputs, outputs = _names(tree["inputs"], "inputs"), _names(tree["outputs"], "outputs")
    return Graph(inputs, outputs, values, nodes, constants, tree["meta"])


def _decode_value(name: str, found: Any) -> Value:
    where = f"value {name[:80]!r}"
    _expect(is_name(name), f"{where}: a name has 1 to 200 printable ASCII characters")
    _expect(isinstance(found, dict) and set(found) == {"shape", "type"}, f"{where}: needs exactly shape and type")
    shape = int_list(found["shape"], f"{where}: shape", lo=1, hi=MAX_LENGTH, at_most=MAX_RANK)
    _expect(math.prod(shape) <= MAX_LENGTH, f"{where}: shape {list(shape)} has more than {MAX_LENGTH} elements")
    return Value(name, shape, parse_type(found["type"], where))


def _decode_node(index: int, found: Any) -> Node:
    where = f"node {index}"
    keys = {"op", "inputs", "output", "attrs", "consts", "source"}
    _expect(isinstance(found, dict) and set(found) == keys, f"{where}: needs exactly {', '.join(sorted(keys))}")
    _expect(
        isinstance(found["op"], str) and isinstance(found["source"], str), f"{where}: op and source must be strings"
    )
    _expect(is_name(found["output"]), f"{where}: output must be a name")
    _expect(isinstance(found["attrs"], dict), f"{where}: attrs must be an object")
    consts = found["consts"]
    _expect(
        isinstance(consts, dict) and all(is_name(v) for v in consts.values()),
        f"{where}: consts must map roles to names",
    )
    unknown = sorted(set(consts) - set(ROLES))
    _expect(not unknown, f"{where}: unknown role {str(unknown)[:80]}; roles are {', '.join(ROLES)}")
    return Node(
        found["op"],
        _names(found["inputs"], f"{where}: inputs"),
        found["output"],
        found["attrs"],
        consts,
        found["source"],
    )


def _names(found: Any, where: str) -> tuple[str, ...]:
    _expect(isinstance(found, list) and all(is_name(x) for x in found), f"{where}: must be a list of names")
    return tuple(found)


def _decode_constants(
    codes: dict[str, Any], tensors: dict[str, np.ndarray], values: dict[str, Value], nodes: tuple[Node, ...]
) -> dict[str, np.ndarray]:
    """Unpacked codes, and every other tensor in the dtype that its role has in memory."""
    constants = {name: _decode_codes(name, found, tensors) for name, found in codes.items()}
    roles: dict[str, str] = {}
    for node in nodes:
        for role, name in node.consts.items():
            _expect(name in tensors, f"{node}: constant {name!r} ({role}) is not in the file")
            _expect(
                (role == "codes") == (name in codes),
                f"{node}: constant {name!r} ({role}): exactly the codes are listed in 'codes'",
            )
            if role == "codes":
                roles[name] = role
                form = codes[name]["format"]
                _expect(
                    node.attrs.get("format") == form, f"{node}: codes {name!r} are {form}, the node's format is another"
                )
                continue
            out = values.get(node.output)
            if out is None:
                raise ModelFileError(f"{node}: its output has no description")
            dtype, allowed = tensors[name].dtype, stored_dtypes(role, out.type)
            wanted = " or ".join(map(str, allowed)) or "none"
            _expect(dtype in allowed, f"{node}: constant {name!r} ({role}) is {dtype}: allowed is {wanted}")
            _expect(
                roles.setdefault(name, role) == role,
                f"{node}: constant {name!r} is used as {role} and as {roles[name]}",
            )
            if name not in constants:
                constants[name] = tensors[name].astype(ROLE_DTYPES.get(role, tensors[name].dtype))
    for name in tensors:
        _expect(name in roles, f"tensor {name!r} is used by no node")
    return constants


def _decode_codes(name: str, found: Any, tensors: dict[str, np.ndarray]) -> np.ndarray:
    where = f"codes {name[:80]!r}"
    _expect(isinstance(found, dict) and set(found) == {"format", "shape"}, f"{where}: needs exactly format and shape")
    form = FORMATS.get(found["format"]) if isinstance(found["format"], str) else None
    if form is None:
        raise ModelFileError(f"{where}: unknown format {str(found['format'])[:40]!r}; known: {', '.join(FORMATS)}")
    shape = int_list(found["shape"], f"{where}: shape", lo=1, hi=MAX_LENGTH, at_most=8)
    _expect(
        len(shape) >= 1 and math.prod(shape) <= MAX_LENGTH,
        f"{where}: shape {list(shape)}: 1 to 8 axes, at most {MAX_LENGTH} codes",
    )
    tensor = tensors.get(name)
    if tensor is None:
        raise ModelFileError(f"{where}: no tensor of that name")
    if tensor.dtype != np.uint8 or tensor.ndim != 1 or tensor.size != packed_size(shape, form.bits):
        raise ModelFileError(
            f"{where}: a {tensor.dtype} tensor of shape {list(tensor.shape)}; "
            f"shape {list(shape)} in {form.name} needs uint8 of shape [{packed_size(shape, form.bits)}]"
        )
    try:
        unpacked = unpack(tensor, form.bits, shape)
        form.check(unpacked)
    except ValueError as error:
        raise ModelFileError(f"{where}: {error}") from None
    return unpacked


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise ModelFileError(message)
