"""The registries as tables: what a name on the command line may be."""

from __future__ import annotations

from collections.abc import Callable

from bitshift.cli.output import Output

_Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0].replace("``", "")


def _formats() -> _Table:
    from bitshift.core.formats import FORMATS

    rows = []
    for f in FORMATS.values():
        magnitudes = sorted({abs(v) for v in f.valid_levels})
        few = magnitudes if len(magnitudes) <= 9 else [*magnitudes[:4], "...", magnitudes[-1]]
        free = "yes" if f.multiplication_free else "no"
        rows.append((f.name, str(f.bits), ", ".join(map(str, few)), free, f.used_by))
    return ("format", "bits", "magnitudes of the levels", "multiplication-free", "used by"), rows


def _ops() -> _Table:
    from bitshift.core.ops import OPS

    return ("op", "what it is"), [(name, _first_line(type(op))) for name, op in sorted(OPS.items())]


def _methods() -> _Table:
    import bitshift.nn.methods  # noqa: F401 - fills the registry
    from bitshift.nn.method import METHODS

    rows = []
    for name, cls in sorted(METHODS.items()):
        formats = ", ".join(f"{b}: {cls.format_for(b)}" for b in cls.bits)
        options = ", ".join(f"{k}={v!r}" for k, v in cls.options.items())
        rows.append((name, formats, options, _first_line(cls)))
    return ("method", "bits: format", "options", "what it is"), rows


def _models() -> _Table:
    from bitshift.train.models import MODELS

    return ("model", "input", "what it is"), [
        (name, "x".join(map(str, entry.input_size)), entry.about) for name, entry in MODELS.items()
    ]


def _recipes() -> _Table:
    from bitshift.cli.recipes import recipe_rows

    return ("recipe", "data", "model", "published", "reached here", "what it is"), recipe_rows()


def _backends() -> _Table:
    from bitshift.backends import BACKENDS, get_backend

    rows = []
    for name in BACKENDS:
        reason = get_backend(name).available()
        rows.append((name, "yes" if reason is None else f"no: {reason}"))
    return ("backend", "available"), rows


REGISTRIES: dict[str, Callable[[], _Table]] = {
    "formats": _formats,
    "ops": _ops,
    "methods": _methods,
    "models": _models,
    "recipes": _recipes,
    "backends": _backends,
}


def show(name: str, out: Output) -> None:
    """Print the registry called ``name`` as a table, or as JSON a list of rows by column name."""
    columns, rows = REGISTRIES[name]()
    out.table("", columns, rows)
    out.result({name: [dict(zip(columns, row, strict=True)) for row in rows]})
