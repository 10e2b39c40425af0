"""A picture that code draws in the sandbox, and how to know it again."""

from __future__ import annotations

import struct

WIDTH, HEIGHT = 137, 91
"""Unlikely to come from anything else."""

DRAW = f"""
from PIL import Image
Image.new("RGB", ({WIDTH}, {HEIGHT}), "orange")
"""


def drawn(image: bytes) -> bool:
    """`image` is the PNG that `DRAW` makes."""
    if image[:8] != b"\x89PNG\r\n\x1a\n":
        return False
    size: tuple[int, int] = struct.unpack(">II", image[16:24])
    return size == (WIDTH, HEIGHT)
