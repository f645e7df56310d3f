"""The registry of lowering rules."""

from __future__ import annotations

from collections.abc import Callable

from bitshift.lower.context import Call, Context, Item

Rule = Callable[[Context, Call], Item]

RULES: dict[str, Rule] = {}
"""torch op (``str`` of the overload, such as ``aten.relu.default``) to its rule."""

_NO_SOFTMAX = "leave it out of the deployed model: it does not change the order of the classes"
_NO_NORM = "use a batch norm, which becomes one offset and scale per channel"
_NO_PRODUCT = "only products with fixed weights (nn.Linear, nn.Conv, nn.ConvTranspose, nn.Embedding) exist in the graph"

ALTERNATIVES: dict[str, str] = {
    **dict.fromkeys(("softmax", "log_softmax", "_softmax", "_log_softmax"), _NO_SOFTMAX),
    **dict.fromkeys(("layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "instance_norm"), _NO_NORM),
    **dict.fromkeys(("matmul", "bmm", "mm", "addmm", "scaled_dot_product_attention"), _NO_PRODUCT),
    **dict.fromkeys(
        ("upsample_bilinear2d", "upsample_bicubic2d"), "enlarge by mode='nearest', or by nn.ConvTranspose2d"
    ),
    "embedding_bag": "use nn.Embedding and a mean over the tokens",
    "_native_batch_norm_legit": "call model.eval(), and use batch norms with track_running_stats=True",
}
"""What to do instead of an op that has no rule, by the op's short name."""


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Decorator: files a rule under the names of torch ops."""

    def register(function: Rule) -> Rule:
        for op in ops:
            if op in RULES:
                raise ValueError(f"op {op!r} has two rules")
            RULES[op] = function
        return function

    return register


def supported() -> list[str]:
    """Short names of the public ops with a rule, sorted, without overloads, in-place forms and table-only functions."""
    names = {op.split(".")[1].rstrip("_") for op, found in RULES.items() if found.__name__ != "only_in_tables"}
    return sorted(n for n in names if not n.startswith("_"))


def unsupported(call: Call) -> str:
    """The message for a call without a rule, after its place."""
    short = call.op.split(".")[1]
    advice = ALTERNATIVES.get(short)
    remedy = f"Remedy: {advice}." if advice else "Remedy: replace it in the model, or run it outside."
    return f"this op has no integer or float form in the graph. {remedy} Supported: {', '.join(supported())}"
