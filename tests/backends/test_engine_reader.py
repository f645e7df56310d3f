"""The two readers of the model file, core/modelfile.py and cpp/src/modelfile.cpp, accept and refuse the same files."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from bitshift.backends import engine
from bitshift.core.bounds import check_bounds
from bitshift.core.container import ModelFileError
from bitshift.core.graph import GraphError
from bitshift.core.modelfile import loads

pytestmark = pytest.mark.skipif(engine.available() is not None, reason=str(engine.available()))
DATA = Path(__file__).resolve().parents[2] / "cpp" / "tests" / "data"
NO_LIMIT = {"memory_limit": 1 << 40, "op_limit": 1 << 63}
# fmt: off
VALUES: list[Any] = [
    0, 1, 2, 3, -1, 7, 8, 31, 32, 62, 63, 64, 255, 65535, 65536, 2**31 - 1, 2**31, 2**62, 2**63 - 1, -(2**63), 2**63,
    0.5, 1e30, 1e300, -0.0, 1.0, "", "x", "f32", "s8.7", "u8.0", "s33.0", "u31.0", "u1.3", "s2.64", "s8.65", "s08.1",
    "s8.-3", "s8.-0", "pot3d", "pot6d", "int8", "half_up", "gelu", None, [], {}, [1], [0], [1, 1], [2, 2],
    [[0, 0], [0, 0]], [[1, 0], [0, 1]], [[0, 0]], True, float("nan"), "\ud800", "é", "\U0001f600",
]
# fmt: on


def paths(tree: Any, path: tuple = ()) -> list[tuple]:
    """The paths of all items under ``tree``."""
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    return [found for key in keys for found in [(*path, key), *paths(tree[key], (*path, key))]]


def mutate(tree: Any, rng: random.Random) -> None:
    """One random change of one item of ``tree``, in place."""
    known = paths(tree)
    if not known:
        return
    path = rng.choice(known)
    parent, key = tree, path[-1]
    for step in path[:-1]:
        parent = parent[step]
    found, value = parent[key], copy.deepcopy(rng.choice(VALUES))
    kind = rng.randrange(10)
    if kind == 0:
        del parent[key]
    elif kind == 1:
        other = tree
        for step in rng.choice(known):
            other = other[step]
        parent[key] = copy.deepcopy(other)
    elif kind == 2 and isinstance(parent, list):
        parent.insert(key, value)
    elif kind == 2:
        parent[rng.choice(["clamp", "alpha", "shape", "x", "lo", "format", "scale", "res_shift"])] = value
    elif kind == 3 and isinstance(found, list):
        rng.shuffle(found)
    elif kind in (3, 4) and isinstance(found, int):
        parent[key] = found + rng.choice([-1, 1, 2])
    else:
        parent[key] = value


def mutated(file: bytes, rng: random.Random) -> bytes:
    """``file`` with one to three changes of graph, header or data, put together again."""
    end = 8 + int.from_bytes(file[:8], "little")
    header, data = json.loads(file[8:end]), bytearray(file[end:])
    graph = json.loads(header["__metadata__"]["graph"])
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        kind = rng.randrange(10)
        if kind < 7:
            mutate(graph, rng)
        elif kind < 8:
            mutate(header, rng)
        elif data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    if isinstance(header.get("__metadata__"), dict):
        header["__metadata__"]["graph"] = json.dumps(graph)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def python_verdict(file: bytes) -> str:
    """Empty if the Python reader takes ``file``, else its message."""
    try:
        check_bounds(loads(file))
    except (ModelFileError, GraphError) as error:
        return str(error)
    return ""


def engine_verdict(file: bytes) -> str:
    """Empty if the engine takes ``file``, else its message; what the limits refuse is a good file."""
    try:
        engine._engine.Model(file, **NO_LIMIT)
    except engine._engine.EngineFileError as error:
        return str(error)
    except engine._engine.EngineUsageError as error:
        assert "limit" in str(error)  # noqa: PT017
    return ""


def compare(count: int, seed: int) -> tuple[int, int]:
    """Both verdicts on ``count`` mutated files; how many were taken and how many refused."""
    files = [path.read_bytes() for path in sorted(DATA.glob("*.safetensors"))]
    assert len(files) > 30
    taken = 0
    for i in range(count):
        rng = random.Random(seed * 1_000_003 + i)
        file = mutated(files[i % len(files)], rng)
        ours, theirs = python_verdict(file), engine_verdict(file)
        assert bool(ours) == bool(theirs), f"mutation {i}: Python: {ours or 'ok'!r}; engine: {theirs or 'ok'!r}"
        taken += not ours
    return taken, count - taken


def test_both_readers_take_the_files_of_the_c_tests() -> None:
    for path in sorted(DATA.glob("*.safetensors")):
        assert python_verdict(path.read_bytes()) == "", path.name
        assert engine_verdict(path.read_bytes()) == "", path.name


def test_both_readers_give_the_same_verdict_on_changed_files() -> None:
    taken, refused = compare(2000, seed=1)
    assert taken > 50
    assert refused > 1000


@pytest.mark.slow
def test_both_readers_give_the_same_verdict_on_many_changed_files() -> None:
    taken, refused = compare(60_000, seed=2)
    assert taken > 1500
    assert refused > 30_000


def test_both_readers_refuse_every_truncation() -> None:
    file = (DATA / "small_cnn.safetensors").read_bytes()
    for length in range(len(file)):
        assert python_verdict(file[:length]), length
        assert engine_verdict(file[:length]), length


# fmt: off
# Texts that are one JSON object to some parsers and not to others.
DOUBTFUL = [
    '{"a":01}', '{"a":1.}', '{"a":.5}', '{"a":1e}', '{"a":+1}', '{"a":-}', '{"a":-0}', '{"a":1e999}', '{"a":-1e999}',
    '{"a":1e-999}', '{"a":9223372036854775807}', '{"a":9223372036854775808}', '{"a":-9223372036854775808}',
    '{"a":00000000000000000000001}', '{"a":NaN}', '{"a":Infinity}', '{"a":-Infinity}', '{"a":true}', '{"a":nul}',
    '{"a":1,}', '{,}', '{"a" 1}', '{"a":1 "b":2}', "{'a':1}", '{"a":1}x', '{"a":"\t"}', '{"a":"\\x"}', '{"a":"\\u12"}',
    '{"a":"\\ud800"}', '{"a":"\\ud800\\u0041"}', '{"a":"\\udc00"}', '{"a":"\\ud83d\\ude00"}', '{"\\u0061":1,"a":2}',
    '{"a":' + "[" * 31 + "]" * 31 + "}", '{"a":' + "[" * 32 + "]" * 32 + "}", '{"a":1}\x00', '{"a":"\x7f"}', "[]", '""',
    '{"a":"\\u0000"}', '\ufeff{"a":1}', "{}", "{ }\n", '{"a":[1,]}', '{"a":[,1]}', '{"a":/**/1}', '{"a":1.0E+2}',
]
# fmt: on


@pytest.mark.parametrize("text", DOUBTFUL)
def test_both_readers_agree_on_doubtful_json(text: str) -> None:
    """The text stands where the graph stands: a syntax error and a well-formed wrong graph have different messages."""
    header = json.dumps({"__metadata__": {"format": "bitshift", "format_version": "1", "producer": "", "graph": text}})
    file = len(header.encode()).to_bytes(8, "little") + header.encode()
    syntax = [verdict(file).startswith("graph: needs exactly") for verdict in (python_verdict, engine_verdict)]
    assert syntax[0] == syntax[1], (python_verdict(file), engine_verdict(file))


@pytest.mark.parametrize("tail", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\xc3\xa9"])
def test_both_readers_agree_on_utf8(tail: bytes) -> None:
    header = b'{"' + tail + b'":1,"__metadata__":{}}'
    file = len(header).to_bytes(8, "little") + header
    said = ["UTF-8" in verdict(file) for verdict in (python_verdict, engine_verdict)]
    assert said[0] == said[1]


@pytest.mark.parametrize("role", ["x" * 39 + "é", "x" + "\U0001f600" * 30, "code\u0000"])
def test_a_role_of_any_letters_is_refused_in_words(role: str) -> None:
    """The message cuts long roles, and what it holds is text all the same."""
    file = (DATA / "linear.safetensors").read_bytes()
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:end])
    graph = json.loads(header["__metadata__"]["graph"])
    consts = graph["nodes"][0]["consts"]
    consts[role] = consts.pop("codes")
    header["__metadata__"]["graph"] = json.dumps(graph)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    changed = len(text).to_bytes(8, "little") + text + file[end:]
    assert "role" in python_verdict(changed)
    assert "unknown role" in engine_verdict(changed)
