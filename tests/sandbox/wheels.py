"""Small wheels, made by hand."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    files: Mapping[str, str | bytes],
    *,
    needs: tuple[str, ...] = (),
    tag: str = "py3-none-any",
) -> Path:
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {need}" for need in needs]
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in files.items():
            archive.writestr(member, content)
        archive.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(lines) + "\n")
        archive.writestr(f"{name}-{version}.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
    return path


def fill(folder: Path) -> None:
    """`apple` (two versions; the newer needs `seed`, and `worm` for an extra), and one for another
    Python."""
    make_wheel(folder, "apple", "1.0", {"apple.py": "taste = 'old'\n"})
    make_wheel(
        folder,
        "apple",
        "2.0",
        {"apple.py": "import seed\ntaste = seed.taste\n", "apple-2.0.data/scripts/apple": "#!x"},
        needs=("seed>=1", 'worm; extra == "bad"', 'absent; python_version < "3"'),
    )
    make_wheel(folder, "seed", "1.5", {"seed-1.5.data/purelib/seed.py": "taste = 'sweet'\n"})
    make_wheel(folder, "worm", "1", {"worm.py": ""})
    make_wheel(folder, "pear", "1", {"pear.py": ""}, tag="cp27-none-any")
