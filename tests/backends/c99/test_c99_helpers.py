"""The shared C functions at the ends of their ranges, against Python's integers."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import numpy as np

from bitshift.backends.c99.helpers import PRELUDE, bucket_levels, buckets, text_of
from bitshift.backends.c99.rule4 import WIDE_NEEDS, simplified
from bitshift.backends.c99.text import literal
from bitshift.core.formats import FORMATS
from bitshift.core.packing import pack
from c99_host import CC, FLAGS, SANITIZE, needs_cc

FORMS = [form for form in FORMATS.values() if not form.float_only]


def run(folder: Path, needs: list[str], main: str) -> list[int]:
    """The integers that ``main`` prints."""
    headers = "#include <inttypes.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n"
    (folder / "t.c").write_text(f"{headers}{PRELUDE}{text_of(needs)}{main}")
    subprocess.run([CC, *FLAGS, *SANITIZE, "t.c", "-o", "t"], cwd=folder, check=True)
    done = subprocess.run(["./t"], cwd=folder, check=True, capture_output=True, text=True)
    return [int(word) for word in done.stdout.split()]


@needs_cc
def test_wide_sums_and_shifts_are_those_of_64_bits_and_saturate_to_32(tmp_path: Path) -> None:
    ends = [-(1 << 31), -(1 << 31) + 1, -65537, -1, 0, 1, 65536, (1 << 31) - 1]
    offsets = [0, 1, -1, 1 << 31, -(1 << 31), (1 << 32) - 1, -(1 << 32), 1 << 61, -(1 << 61)]
    shifts = [0, 1, 15, 31, 32, 33, 62]
    cases = [
        (v, left, offset, right)
        for v, left, offset, right in itertools.product(ends, shifts, offsets, shifts)
        if abs(v << left) + abs(offset) < 1 << 63
    ]
    rows = ",\n".join(f"{{{literal(v)}, {n}, {o % (1 << 64)}u, {m}}}" for v, n, o, m in cases)
    main = f"""
static const struct {{ int32_t v; uint8_t left; uint64_t offset; uint8_t right; }} cases[] = {{
{rows}
}};
int main(void) {{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {{
        bs_wide w = bs_wide_shl(cases[i].v, cases[i].left);
        w = bs_wide_add(w, (uint32_t)(cases[i].offset >> 32), (uint32_t)cases[i].offset);
        printf("%" PRId32 "\\n", bs_wide_sar(w, cases[i].right));
    }}
    return 0;
}}
"""
    expected = [max(-(1 << 31), min((1 << 31) - 1, ((v << n) + o) >> m)) for v, n, o, m in cases]
    assert len(cases) > 2000
    assert run(tmp_path, list(WIDE_NEEDS), main) == expected


@needs_cc
def test_rows_of_codes_of_every_width_are_unpacked_and_the_next_row_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts, calls, expected = [], [], []
    for bits, count in itertools.product(range(1, 9), (1, 7, 8, 13)):
        codes = rng.integers(0, 1 << bits, (2, count))
        packed = pack(codes.astype(np.uint8), bits)
        name = f"row{bits}_{count}"
        parts.append(f"static const uint8_t {name}[] = {{{', '.join(map(str, packed))}}};")
        row = f"p = bs_unpack{bits}(p, codes, {count}); show(codes, {count});"
        calls.append(f'p = {name}; {row} {row} printf("%d\\n", (int)(p - {name}));')
        expected += [*codes.reshape(-1).tolist(), packed.size]
    show = (
        "static void show(const uint8_t *codes, size_t count) {\n"
        '    for (size_t i = 0; i < count; i++) { printf("%d ", codes[i]); }\n}\n'
    )
    main = "\n".join(
        [*parts, show, "int main(void) {", "uint8_t codes[13]; const uint8_t *p;", *calls, "return 0; }\n"]
    )
    assert run(tmp_path, [f"bs_unpack{bits}" for bits in range(1, 9)], main) == expected


@needs_cc
def test_the_sum_of_each_format_is_level_times_bucket_modulo_32_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    parts, calls, expected = [], [], []
    for form in FORMS:
        values = rng.integers(0, 1 << 32, buckets(form))
        listed = ", ".join(f"{v}u" for v in values.tolist())
        parts.append(f"static const uint32_t b_{form.name}[] = {{{listed}}};")
        calls.append(f'printf("%" PRIu32 "\\n", bs_sum_{form.name}(b_{form.name}));')
        expected.append(
            sum(v * level for v, level in zip(values.tolist(), bucket_levels(form), strict=True)) % (1 << 32)
        )
    main = "\n".join([*parts, "int main(void) {", *calls, "return 0; }\n"])
    assert run(tmp_path, [f"bs_sum_{form.name}" for form in FORMS], main) == expected


def test_the_buckets_of_a_code_add_up_to_its_level() -> None:
    for form in FORMS:
        levels = bucket_levels(form)
        for code, level in enumerate(form.levels):
            if code in form.reserved:
                continue
            parts = [code] if len(levels) == len(form.levels) else [code & 15, 16 + (code >> 4)]
            assert sum(levels[part] for part in parts) == level


def test_the_simplified_rule_is_the_same_function() -> None:
    rng = np.random.default_rng(2)
    count = 500
    left, shift, res_shift = (rng.integers(0, 17, count) for _ in range(3))
    offset = rng.integers(-(1 << 40), 1 << 40, count)
    acc, residual = rng.integers(-(1 << 20), 1 << 20, count), rng.integers(-128, 128, count)
    mult, low, right, res_left = simplified(np.int64(1) << left, offset, shift, res_shift)
    assert res_left is not None
    before = ((acc << left) + offset + (residual << res_shift)) >> shift
    np.testing.assert_array_equal((acc * mult + low + (residual << res_left)) >> right, before)
    assert (np.minimum(np.minimum(np.log2(mult), right), res_left) == 0).all()
    alone = simplified(np.int64(1) << left, offset, shift, None)
    np.testing.assert_array_equal((acc * alone[0] + alone[1]) >> alone[2], ((acc << left) + offset) >> shift)
