"""Every refusal names the op, the module path, the line and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bitshift as bs
from bitshift.core.graph import GraphError
from bitshift.core.modelfile import ModelFileError, load
from bitshift.lower import LoweringError, export, lower
from bitshift.nn.activations import calibrate
from lower_models import Layer, Quantize


class Inner(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def model(function: Callable[[Tensor], Tensor]) -> nn.Module:
    return nn.Sequential(nn.Identity(), nn.ModuleDict({"head": Inner(function)})["head"]).eval()


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "no rule": (
        lambda x: torch.cumsum(x, 1),
        r"aten\.cumsum.*module '1'.*test_messages\.py:\d+ `return self.*Supported: .*, conv2d,"
    ),
    "softmax": (lambda x: x.softmax(1), "Remedy: leave it out of the deployed model"),
    "layer norm": (lambda x: F.layer_norm(x, [6]), "Remedy: use a batch norm"),
    "attention": (lambda x: x @ x.transpose(1, 2), "only products with fixed weights"),
    "two factors": (lambda x: x * x.relu(), "256-entry table"),
    "gate": (
        lambda x: x * x.mean(2, keepdim=True).sigmoid(),
        r"module '1'.*multiplies two activations, of shapes \['N', 4, 6\] and \['N', 4, 1\].*without the gate",
    ),
    "function for tables only": (lambda x: x.exp(), "256-entry table"),
    "mixed samples": (lambda x: x + x.mean(0, keepdim=True), "along the batch axis"),
    "batch in the shape": (lambda x: x.reshape(-1, 6), "its first axis must be the batch"),
    "part of the batch": (lambda x: x[1:], "takes part of the batch"),
    "turned batch": (lambda x: x.transpose(0, 1), "moves the batch axis"),
    "mean over the batch": (lambda x: x.mean((0, 1)), "along the batch axis"),
    "some of the batch": (lambda x: x.sigmoid()[: x.shape[0] // 2], "end depends on the size of the batch"),
    "all but one of the batch": (lambda x: x[: x.shape[0] - 1], "end depends on the size of the batch"),
    "an index over 8 bits": (
        lambda x: F.pad(x, (0, 251)).argmax(2).to(torch.uint8), r"casts to torch\.uint8; only .* behind clamp or argmax"
    ),
    "random attention": (
        lambda x: x + F.scaled_dot_product_attention(*[torch.ones(2, 3, 4)] * 3, dropout_p=0.5).sum(),
        "draws random numbers",
    ),
    "a sample of the batch's size": (lambda x: F.pad(x, (0, x.shape[0])), "pad depends on the size of the batch"),
    "an operand torch repeats": (lambda x: x.sigmoid() * torch.ones(1, 1, 1, 1), "first axis must be the batch"),
    "random numbers": (lambda x: x.sigmoid() + torch.rand(4, 1), r"aten\.rand.*draws random numbers.*register_buffer"),
    "class token": (
        lambda x: torch.cat([torch.ones(1, 1, 6).expand(x.shape[0], -1, -1), x], 1),
        r"aten\.expand\.default in module '1'.*test_messages\.py:\d+.*class token.*keep this part in torch",
    ),
    "initial state": (
        lambda x: torch.cat([torch.zeros(x.shape[0], 1, 6), x], 1),
        r"aten\.zeros\.default in module '1'.*test_messages\.py:\d+.*1 in place of the batch.*keep that part in torch",
    ),
    "difference": (lambda x: x - x.relu(), r"subtracts an activation.*a \+ \(-b\)"),
    "infinite padding": (
        lambda x: F.pad(torch.ops.bitshift.quantize(x, 8, 5, True, "half_up"), (1, 1), value=-float("inf")),
        r"pads with -inf, which s8\.5 cannot hold",
    ),
    "reflected padding": (lambda x: F.pad(x, (1, 1), mode="reflect"), "reflection_pad1d|mode 'reflect'"),
    "matrix of constants": (
        lambda x: x + torch.ones(4, 6), r"constant of shape \[4, 6\].*one per channel: shape \[4, 1\]"
    ),
    "repeated elements": (lambda x: x[:, :1].expand(-1, 4, -1).relu(), "no broadcast"),
    "half": (lambda x: x.half().float(), "only float32 and float64 stay exact"),
    "argmax of everything": (lambda x: x.argmax(), "first axis must be the batch|argmax\\(1\\)"),
    "batch statistics": (lambda x: F.batch_norm(x, None, None, training=True), "track_running_stats"),
    "broken norm": (
        lambda x: F.batch_norm(x, torch.zeros(4), torch.full((4,), -1.0)), "no finite mean and variance"
    ),
    "constant output": (lambda x: torch.ones(3), "does not depend on the input|constant"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_says_where_and_what_to_do(name: str) -> None:
    function, message = REFUSED[name]
    with pytest.raises(LoweringError, match=rf"(?s){message}"):
        lower(model(function), sample=torch.randn(3, 4, 6))


class Outermost(nn.Module):
    """Calls ``part`` on a sequence (N, 5, 8), as modules of torch take one; ``called`` False only has it."""

    def __init__(self, part: nn.Module, *, called: bool = True) -> None:
        super().__init__()
        self.part, self.called = part, called

    def forward(self, x: Tensor) -> Tensor:
        if not self.called:
            return x.relu()
        if isinstance(self.part, (nn.MultiheadAttention, nn.Transformer, nn.TransformerDecoderLayer)):
            result = self.part(x, x, x) if isinstance(self.part, nn.MultiheadAttention) else self.part(x, x)
        else:
            result = self.part(x[:, 0] if isinstance(self.part, nn.RNNCellBase) else x)
        return result[0] if isinstance(result, tuple) else result


NO_GRAPH: list[Callable[[], nn.Module]] = [
    *(lambda cls=cls: cls(8, 8, batch_first=True) for cls in (nn.RNN, nn.GRU, nn.LSTM)),
    *(lambda cls=cls: cls(8, 8) for cls in (nn.RNNCell, nn.GRUCell, nn.LSTMCell)),
    lambda: nn.MultiheadAttention(8, 2, batch_first=True),
    lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 1),
    lambda: nn.TransformerDecoderLayer(8, 2, 8, batch_first=True),
    lambda: nn.Transformer(8, 2, 1, 1, 8, batch_first=True),
]


@pytest.mark.filterwarnings("error:.*_flat_weights.*")
@pytest.mark.parametrize("build", NO_GRAPH)
def test_a_recurrent_or_attention_module_is_refused_by_its_path(build: Callable[[], nn.Module]) -> None:
    part = build()
    message = rf"module '1\.part' \({type(part).__name__}\): the graph has no recurrent.*Keep that part in torch"
    with pytest.raises(LoweringError, match=message):
        lower(nn.Sequential(nn.ReLU(), Outermost(part)).eval(), sample=torch.randn(2, 5, 8))


def test_a_recurrent_module_that_forward_does_not_call_stops_nothing() -> None:
    graph = lower(Outermost(nn.GRU(8, 8), called=False).eval(), sample=torch.randn(2, 5, 8))
    assert [n.op for n in graph.nodes] == ["clamp"]


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(LoweringError, match=r"model\.eval\(\)"):
        lower(nn.Linear(2, 2), sample=torch.zeros(1, 2))


def test_a_branch_on_values_is_refused_with_the_reason() -> None:
    with pytest.raises(LoweringError, match=r"(?s)cannot trace the model.*no branch on tensor values"):
        lower(model(lambda x: x if x.sum() > 0 else -x), sample=torch.zeros(2, 3))


def test_a_fixed_batch_size_is_refused() -> None:
    with pytest.raises(LoweringError, match=r"only works for a batch of 2.*x\.shape\[0\]"):
        lower(model(lambda x: x.view(2, 12).relu()), sample=torch.zeros(2, 3, 4))


@pytest.mark.parametrize(
    ("function", "sizes"),
    [
        (lambda x: x.sigmoid() if x.shape[0] > 2 else x.tanh(), "of at least 3"),
        (lambda x: x.sigmoid() if x.shape[0] < 9 else x.tanh(), "of 2 to 8"),
    ],
)
def test_a_branch_on_the_batch_size_is_refused(function: Callable[[Tensor], Tensor], sizes: str) -> None:
    with pytest.raises(LoweringError, match=f"works only for batches {sizes}: its forward depends on the batch size"):
        lower(model(function), sample=torch.zeros(4, 3))


def test_an_assert_of_a_large_batch_size_is_no_branch() -> None:
    def limited(x: Tensor) -> Tensor:
        assert x.shape[0] < 100_000
        return x.relu()

    assert [n.op for n in lower(model(limited), sample=torch.zeros(4, 3)).nodes] == ["clamp"]


def test_constants_of_functions_that_draw_nothing_in_eval_are_computed() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, dropout=0.5)
            self.register_buffer("x", torch.linspace(-1, 1, 40).view(2, 5, 4))

        def forward(self, x: Tensor) -> Tensor:
            more = F.rrelu(self.attention(self.x, self.x, self.x)[0], training=self.training)
            return x + F.scaled_dot_product_attention(more, more, more).sum()

    net, x = Constant().eval(), torch.zeros(2, 3)
    graph = lower(net, sample=x)
    assert torch.allclose(torch.from_numpy(graph.const(graph.nodes[0], "bias").copy()), net(x)[0, 0])


ID = torch.tensor([[300, 2, 2**24 + 1]] * 2)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int16])
def test_a_cast_to_fewer_bits_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(LoweringError, match=rf"casts to {dtype}; only .* stay exact"):
        lower(model(lambda ids: ids.to(dtype)), sample=ID)


WRAPPING: dict[str, Callable[[Tensor], Tensor]] = {
    "add": lambda x: (x + 200).float(),
    "sum": lambda x: (x + x).float(),
    "subtract": lambda x: (x - 3).float(),
    "subtract from": lambda x: (3 - x).float(),
    "negative": lambda x: (-x).float(),
    "times": lambda x: (x * 3).float(),
    "clamp": lambda x: x.clamp(min=-1).float(),
}


@pytest.mark.parametrize("name", WRAPPING)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16])
def test_arithmetic_that_wraps_around_in_torch_is_refused(name: str, dtype: torch.dtype) -> None:
    with pytest.raises(LoweringError, match=rf"{dtype}.*wraps around.*x\.float\(\)"):
        lower(model(WRAPPING[name]), sample=torch.full((2, 3), 100, dtype=dtype))


def test_an_integer_result_that_the_graph_has_no_integers_for_is_refused() -> None:
    with pytest.raises(LoweringError, match=r"computes in torch\.int64.*cast first"):
        lower(model(lambda ids: -ids), sample=ID)


def test_a_module_without_a_sample_is_refused() -> None:
    with pytest.raises(LoweringError, match="sample=x"):
        lower(nn.Linear(2, 2).eval())


def test_a_forward_that_counts_is_refused() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen.add_(1)
            return x.relu()

    with pytest.raises(LoweringError, match="forward changes 'seen'"):
        lower(Counter().eval(), sample=torch.zeros(2, 3))


def test_an_integer_layer_without_a_quantiser_is_refused_by_path() -> None:
    net = nn.Sequential(nn.ReLU(), Layer(3, 2, seed=0, frac_in=4)).eval()
    with pytest.raises(LoweringError, match=r"bitshift\.linear.*module '1'.*needs an activation quantiser"):
        lower(net, sample=torch.zeros(2, 3))


def test_a_value_finer_than_the_layer_expects_is_refused() -> None:
    net = nn.Sequential(Quantize(8, 6), Layer(3, 2, seed=0, frac_in=4)).eval()
    with pytest.raises(LoweringError, match=r"frac 4.*finer grid s8\.6"):
        lower(net, sample=torch.zeros(2, 3))


def test_an_unrounded_output_over_int32_is_refused_by_path() -> None:
    net = nn.Sequential(Quantize(8, 4), Layer(400, 3, seed=0, frac_in=4, multiplier=True)).eval()
    with pytest.raises(LoweringError, match=r"module '1'.*over int32.*the model's output.*Remedy"):
        lower(net, sample=torch.zeros(2, 400))


def test_an_accumulator_over_int32_is_refused_by_path() -> None:
    net = nn.Sequential(
        Quantize(8, 4), Layer(5000, 3, seed=0, frac_in=4, format="pot5d", frac=9), Quantize(8, 0)
    ).eval()
    with pytest.raises(GraphError, match=r"layer '1': accumulator bound [\d_]+ for channel \d exceeds int32; use "):
        lower(net, sample=torch.zeros(2, 5000))


IMAGE = {"kind": "image", "channels": 1, "size": [2, 2], "mean": [0.0], "scale": [1 / 255]}


def test_export_writes_labels_and_preprocessing(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    path = tmp_path / "net.safetensors"
    graph = export(net, path, labels=("a", "b", "c"), preprocess=IMAGE, name="tiny", sample=torch.zeros(1, 1, 2, 2))
    assert dict(load(path).meta) == dict(graph.meta) == {"labels": ["a", "b", "c"], "preprocess": IMAGE, "name": "tiny"}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"labels": ["a"]}, LoweringError, r"1 labels, but the model's output has 3 classes"),
        ({"preprocess": {**IMAGE, "size": [3, 2]}}, LoweringError, r"1 channels of \[3, 2\].*shape \[1, 2, 2\]"),
        ({"preprocess": {"kind": "sound"}}, ModelFileError, "preprocess"),
        ({"preprocess": "image"}, LoweringError, "preprocess is 'image'; give a dict"),
        ({"preprocess": {**IMAGE, "mean": [None]}}, ModelFileError, "mean must be a list of 1 finite"),
        ({"preprocess": {**IMAGE, "mean": [10**400]}}, ModelFileError, "mean must be a list of 1 finite"),
        ({"labels": "abc"}, LoweringError, "labels is the text 'abc'; give a list"),
    ],
)
def test_wrong_descriptions_are_refused(given: dict, error: type[Exception], message: str) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    with pytest.raises(error, match=message):
        lower(net, sample=torch.zeros(1, 1, 2, 2), **given)


@pytest.mark.parametrize(("channels", "shape"), [(1, (4,)), (1, (2, 2)), (1, (1, 2, 2)), (3, (12,)), (3, (3, 2, 2))])
def test_a_picture_may_be_a_row_of_numbers(channels: int, shape: tuple[int, ...]) -> None:
    picture = {**IMAGE, "channels": channels, "mean": [0.0] * channels, "scale": [1.0] * channels}
    net = nn.Sequential(nn.Flatten(), nn.Linear(4 * channels, 3)).eval()
    assert lower(net, sample=torch.zeros(1, *shape), preprocess=picture).meta["preprocess"] == picture


def test_channels_that_do_not_come_first_are_refused() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()
    picture = {**IMAGE, "channels": 3, "mean": [0.0] * 3, "scale": [1.0] * 3}
    with pytest.raises(LoweringError, match=r"input has shape \[2, 2, 3\]; it must be \[3, 2, 2\], channels first"):
        lower(net, sample=torch.zeros(1, 2, 2, 3), preprocess=picture)


def test_two_inputs_and_a_repeated_output_keep_their_order() -> None:
    class Two(nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            y = left + right
            return y, right, y

    graph = lower(Two().eval(), sample=(torch.zeros(1, 3), torch.zeros(1, 3)))
    assert graph.inputs == ("left", "right")
    assert len(set(graph.outputs)) == 3


def test_one_tensor_given_for_two_inputs_stays_two_inputs() -> None:
    class Two(nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return left.relu() + right

    x = torch.zeros(2, 3)
    graph = lower(Two().eval(), sample=(x, x))
    assert graph.inputs == ("left", "right")
    assert [n.inputs for n in graph.nodes] == [("left",), (graph.nodes[0].output, "right")]


def test_inputs_that_never_meet_are_one_batch() -> None:
    class Two(nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
            return left.relu(), right.tanh()

    graph = lower(Two().eval(), sample=(torch.zeros(2, 3), torch.zeros(2, 4)))
    assert [graph.values[o].shape for o in graph.outputs] == [(3,), (4,)]


def test_inputs_may_come_as_a_list_of_any_length() -> None:
    class All(nn.Module):
        def forward(self, first: Tensor, *others: Tensor) -> Tensor:
            return torch.cat([first, *others], 1)

    graph = lower(All().eval(), sample=(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, 5)))
    assert len(graph.inputs) == 3
    assert graph.values[graph.outputs[0]].shape == (12,)
    assert len(lower(All().eval(), sample=torch.zeros(2, 3)).inputs) == 1


def test_a_bfloat16_layer_keeps_its_weights() -> None:
    net = nn.Linear(4, 3).bfloat16().eval()
    graph = lower(net, sample=torch.zeros(2, 4, dtype=torch.bfloat16))
    weight = graph.const(graph.nodes[0], "weight")
    assert torch.equal(torch.from_numpy(weight.copy()), net.weight.detach().float())


def test_an_input_of_a_long_name_can_be_written(tmp_path: Path) -> None:
    name = "pixels" * 35
    space: dict = {"nn": nn}
    exec(f"class Net(nn.Module):\n    def forward(self, {name}):\n        return {name}.relu()", space)
    export(space["Net"]().eval(), tmp_path / "net", sample=torch.zeros(2, 3))
    assert load(tmp_path / "net").inputs[0].startswith("pixelspixels")


def test_modules_with_any_name_become_constants_that_a_file_can_hold(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.schön = nn.Linear(4, 3)
            self.add_module("block" * 60, nn.Linear(3, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.get_submodule("block" * 60)(self.schön(x))

    model, _ = bs.convert(Net().eval(), bs.ShiftConfig(activations=8, init="pretrained"), sample=torch.rand(2, 4))
    calibrate(model, [torch.rand(2, 4)])
    for name, net in {"kept": Net().eval(), "converted": bs.freeze(model.eval(), torch.rand(2, 4))}.items():
        export(net, tmp_path / name, sample=torch.rand(2, 4))
        names = load(tmp_path / name).constants
        assert any(n.startswith(r"sch\xf6n.") for n in names)
        assert any(n.startswith("blockblock") and "..." in n for n in names)
