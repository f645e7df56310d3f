"""Every python block of the README and the guides runs, page by page, from top to bottom."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.pages import PAGES, blocks, name

# bench/README.md shows the shape of a file that does not exist.
RUN = [page for page in PAGES if blocks(page, "python") and name(page) != "bench/README.md"]


@pytest.mark.parametrize("page", RUN, ids=name)
def test_the_python_blocks_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, code in blocks(page, "python"):
        padded = "\n" * (line - 1) + code  # so that a traceback shows the page's line
        exec(compile(padded, str(page), "exec"), namespace)


def test_the_readme_and_the_quickstart_are_among_them() -> None:
    assert {"README.md", "docs/quickstart.md", "docs/convert.md"} <= {name(page) for page in RUN}
