"""Lines a file, a folder and in all, and what a change adds.

python tools/size.py              the longest files, and the sum of every folder
python tools/size.py --base REF   lines added and removed since REF, file by file
"""

from __future__ import annotations

import argparse
import subprocess
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = {".py", ".pyi", ".c", ".h", ".cpp", ".hpp", ".inc", ".md", ".toml", ".yml"}


def tracked() -> list[Path]:
    """Text files of the checkout that a person writes."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True)
    paths = [Path(name) for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.suffix in SUFFIXES and (ROOT / path).is_file()]


def totals() -> None:
    """Print the sums and the twenty longest files."""
    lines = {path: (ROOT / path).read_text().count("\n") for path in tracked()}
    folders: Counter[str] = Counter()
    for path, count in lines.items():
        folders[
            "/".join(path.parts[:3] if path.parts[0] == "src" else path.parts[:1]) if len(path.parts) > 1 else "."
        ] += count
    for folder, count in sorted(folders.items()):
        print(f"{count:7,}  {folder}")
    print(f"{sum(lines.values()):7,}  in {len(lines)} files; the longest:")
    for path, count in sorted(lines.items(), key=lambda item: -item[1])[:20]:
        print(f"{count:7,}  {path}")


def change(base: str) -> None:
    """Print lines added and removed since ``base``."""
    diff = subprocess.run(
        ["git", "-C", str(ROOT), "diff", "--numstat", base], capture_output=True, text=True, check=True
    )
    added = removed = 0
    for line in diff.stdout.splitlines():
        plus, minus, name = line.split("\t", 2)
        if plus == "-":
            continue
        added, removed = added + int(plus), removed + int(minus)
        print(f"{'+' + plus:>7} {'-' + minus:>7}  {name}")
    print(f"{'+' + str(added):>7} {'-' + str(removed):>7}  in all since {base}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", metavar="REF", help="a commit, branch or tag to compare with")
    options = parser.parse_args()
    if options.base:
        change(options.base)
    else:
        totals()
