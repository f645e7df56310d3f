"""Run torch.export on a frozen model and describe each call by the words of the user's model."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from bitshift.lower.errors import LoweringError
from bitshift.nn.plan import NO_GRAPH


@dataclass(frozen=True)
class Captured:
    """An exported, functional aten graph: no in-place ops, every parameter and buffer a known tensor.

    ``calls`` are the op nodes in order; ``inputs`` the placeholders of the user's inputs; ``outputs`` what the
    model returns; ``tensors`` the value of every other placeholder.
    """

    calls: tuple[fx.Node, ...]
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    tensors: dict[fx.Node, Tensor]


def module_path(node: fx.Node) -> str:
    """Path of the user's module that made this call, ``""`` for the model itself.

    The innermost module of the stack; paths of called lambdas and of torch's own wrappers carry an ``@`` suffix.
    """
    stack = node.meta.get("nn_module_stack") or {}
    for path, kind in reversed(list(stack.values())):
        if "metadata_hook" not in str(path) and "metadata_hook" not in str(kind):
            return _own_path(path)
    return ""


def _own_path(path: Any) -> str:
    """A path as torch.export writes it, in the user's words."""
    return str(path).split("@")[0].removeprefix("L['self'].")


def source_line(node: fx.Node) -> str:
    """``file:line `text``` of the call in the user's code, or ``""`` when torch did not record it."""
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").strip().splitlines()]
    for at in range(len(lines) - 1, -1, -1):
        if lines[at].startswith('File "'):
            file, _, rest = lines[at].removeprefix('File "').partition('", line ')
            text = f" `{lines[at + 1]}`" if at + 1 < len(lines) else ""
            return f"{file}:{rest.split(',')[0]}{text}"
    return ""


def describe(node: fx.Node) -> str:
    """How a message names a call: the op, the module path and the line of the source."""
    path, line = module_path(node), source_line(node)
    where = f" in module {path!r}" if path else " in the model's own forward"
    return f"{node.target}{where}" + (f" ({line})" if line else "")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch.export trips over deprecations of its own pytree, and over what its own recurrent layers do."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, message=r".*LeafSpec.*")
        warnings.filterwarnings("ignore", category=UserWarning, message=r"(?s).*_flat_weights.*assigned during export")
        yield


def _two_rows(x: Tensor) -> Tensor:
    """At least two samples, as a tensor of their own.

    torch.export would take a batch of one for a constant, and one tensor that is given for two inputs for one input.
    """
    if x.ndim == 0 or x.shape[0] == 0:
        raise LoweringError(f"sample input of shape {list(x.shape)}: the first axis must be a batch of at least one")
    return x.detach() if x.shape[0] > 1 else torch.cat([x, x])


def capture(model: nn.Module, inputs: Sequence[Tensor]) -> Captured:
    """Export ``model`` (in eval mode) for sample ``inputs`` (batch axis first, free in the result).

    Raises:
        LoweringError: the model is in training mode, cannot be traced, changes its buffers, or works for one batch
            size only.
    """
    if model.training:
        raise LoweringError("the model is in training mode: call model.eval() before it is lowered")
    samples = tuple(_two_rows(x) for x in inputs)
    try:
        captured = _capture(model, samples)
    except LoweringError as error:
        if cause := _called(model, samples):
            raise LoweringError(f"{cause}. (The trace failed: {error})") from error
        raise
    _refuse_modules(model, captured)
    return captured


def _capture(model: nn.Module, samples: tuple[Tensor, ...]) -> Captured:
    program = _export(model, samples)
    tensors: dict[fx.Node, Tensor] = {}
    users: list[fx.Node] = []
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder"]
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind == InputKind.USER_INPUT:
            users.append(node)
        else:
            tensors[node] = _tensor(program, str(spec.target))
    for spec in program.graph_signature.output_specs:
        if spec.kind != OutputKind.USER_OUTPUT:
            raise LoweringError(f"forward changes {spec.target!r}; evaluation must be pure: move the change out of it")
    for node in users:
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            raise LoweringError(f"input {node.name!r} is no tensor; give constants to the constructor instead")
        if str(value.shape[0]).isdigit():  # a symbol that torch.export had to replace by the sample's number
            raise LoweringError(
                f"the model only works for a batch of {value.shape[0]}: it uses the batch size as a constant; "
                "take it from x.shape[0], or write flatten(1) instead of view"
            )
        _check_batch(program, value.shape[0])
    outputs = _outputs(program)
    calls = tuple(n for n in program.graph.nodes if n.op == "call_function")
    return Captured(calls, tuple(users), outputs, tensors)


def _refuse_modules(model: nn.Module, captured: Captured) -> None:
    """Refuse what a module that no graph can hold computes from the inputs; what it makes of constants is one."""
    modules = dict(model.named_modules(remove_duplicate=False))
    reached = set(captured.inputs)
    for node in captured.calls:
        if not any(n in reached for n in node.all_input_nodes):
            continue
        reached.add(node)
        for path, _ in (node.meta.get("nn_module_stack") or {}).values():
            path = _own_path(path)
            # a subclass may do without: what it computes is looked at call by call
            if isinstance(found := modules.get(path), NO_GRAPH) and type(found).__module__.startswith("torch.nn."):
                raise LoweringError(_no_graph(path, found))


def _no_graph(path: str, module: nn.Module) -> str:
    where = f"module {path!r}" if path else "the model itself"
    return (
        f"{where} ({type(module).__name__}): the graph has no recurrent layers and no attention, for it keeps no state "
        "from step to step and multiplies no activation by another. Keep that part in torch, and convert and export "
        "the rest as a module of its own"
    )


def _called(model: nn.Module, samples: tuple[Tensor, ...]) -> str:
    """What to say of the first module that no graph can hold and that forward calls, or ``""``."""
    found: list[str] = []
    paths: dict[nn.Module, str] = {
        module: path for path, module in model.named_modules() if isinstance(module, NO_GRAPH)
    }
    hooks = [m.register_forward_pre_hook(lambda m, _: found.append(_no_graph(paths[m], m))) for m in paths]
    if hooks:
        with torch.no_grad(), contextlib.suppress(Exception):  # the trace has failed already, and says why
            model(*samples)
    for hook in hooks:
        hook.remove()
    return found[0] if found else ""


def _check_batch(program: ExportedProgram, batch: Any) -> None:
    """Refuse a ``batch`` that torch.export could keep free within narrow limits only: forward branches on its size.

    An upper limit of 65,536 or more is taken for an assert.
    """
    allowed = program.range_constraints.get(batch.node.expr)
    if allowed is None:
        sizes = f"of the form {batch}"
    elif allowed.upper < 1 << 16:
        sizes = f"of {allowed.lower} to {allowed.upper}"
    elif allowed.lower > 2:  # torch.export takes every free size for at least 2
        sizes = f"of at least {allowed.lower}"
    else:
        return
    raise LoweringError(
        f"the model works only for batches {sizes}: its forward depends on the batch size, as by a branch or "
        "an assert on x.shape[0]; take that out, the graph runs one sample at a time"
    )


def _dynamic_shapes(model: nn.Module, count: int) -> Any:
    """A free batch axis for each of ``count`` inputs, in the structure of forward's parameters."""
    shapes: list[Any] = [{0: Dim.AUTO} for _ in range(count)]
    for at, parameter in enumerate(inspect.signature(model.forward).parameters.values()):
        if parameter.kind == inspect.Parameter.VAR_POSITIONAL and at < count:
            return (*shapes[:at], tuple(shapes[at:]))
    return tuple(shapes)


def _export(model: nn.Module, samples: tuple[Tensor, ...]) -> ExportedProgram:
    with _quiet(), torch.no_grad():
        try:
            shapes = _dynamic_shapes(model, len(samples))
            # An empty table keeps aten's own ops (conv2d, max_pool2d, ...) and only removes in-place ones.
            return torch.export.export(model, samples, dynamic_shapes=shapes, strict=False).run_decompositions({})
        except Exception as error:  # torch raises many kinds; all mean that the model is not one static graph
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise LoweringError(
                f"torch.export cannot trace the model: {first}\nRemedy: forward must be one static graph: "
                "no branch on tensor values, no loop whose length depends on them, no numpy calls"
            ) from error


def _tensor(program: ExportedProgram, target: str) -> Tensor:
    found = program.state_dict.get(target)
    if found is None:
        found = program.constants.get(target)
    if not isinstance(found, Tensor):
        raise LoweringError(f"constant {target!r} of the model is a {type(found).__name__}, not a tensor")
    return found.detach()


def _outputs(program: ExportedProgram) -> tuple[fx.Node, ...]:
    output = next(n for n in reversed(list(program.graph.nodes)) if n.op == "output")
    returned = output.args[0]
    nodes = tuple(returned) if isinstance(returned, (tuple, list)) else (returned,)
    for at, node in enumerate(nodes):
        if not isinstance(node, fx.Node):
            raise LoweringError(f"output {at} of the model is the constant {node!r}; return tensors that depend on x")
    return nodes  # type: ignore[return-value]
