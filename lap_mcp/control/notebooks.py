"""A sandbox's recorded cells as a Jupyter notebook, with what they showed.

Source of the format: nbformat 4.5, https://nbformat.readthedocs.io/en/latest/format_description.html
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lap_mcp.store.cells import Cell

_TEXT_TYPES = ("text/", "image/svg+xml")
_LEVELS = 100
"""JSON that is nested deeper is shown as text: who reads notebooks does it by recursion."""
_HALVES = re.compile("[\ud800-\udfff]")
"""Halves of characters, which no file can hold."""


def notebook(sandbox_id: str, cells: Sequence[Cell], blobs: Mapping[str, bytes]) -> str:
    """The notebook as text.  `blobs`: outputs that do not stand in their cell's row, by SHA-256."""
    document = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
            "lap_mcp": {"sandbox": sandbox_id},
        },
        "cells": [_cell(cell, blobs) for cell in cells],
    }
    text = json.dumps(document, ensure_ascii=False, indent=1) + "\n"
    return _HALVES.sub("\ufffd", text)


def _cell(cell: Cell, blobs: Mapping[str, bytes]) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "id": f"cell-{cell.number}",
        "execution_count": cell.number,
        "metadata": {},
        "source": _lines(cell.code),
        "outputs": _outputs(cell, blobs),
    }


def _outputs(cell: Cell, blobs: Mapping[str, bytes]) -> list[dict[str, Any]]:
    result = cell.result
    outputs: list[dict[str, Any]] = [
        {"output_type": "stream", "name": name, "text": _lines(result[name])}
        for name in ("stdout", "stderr")
        if result.get(name)
    ]
    for place, output in enumerate(result.get("outputs", ())):
        data = _data(cell, place, output, blobs)
        if data is not None:
            shown = {output["mime"]: _content(output["mime"], data)}
            outputs.append({"output_type": "display_data", "data": shown, "metadata": {}})
    if result.get("value") is not None:
        outputs.append(
            {
                "output_type": "execute_result",
                "execution_count": cell.number,
                "data": {"text/plain": _lines(result["value"])},
                "metadata": {},
            }
        )
    if error := result.get("error"):
        outputs.append(
            {
                "output_type": "error",
                "ename": error["name"],
                "evalue": error["value"],
                "traceback": error["traceback"].splitlines(),
            }
        )
    return outputs


def _data(
    cell: Cell, place: int, output: Mapping[str, str], blobs: Mapping[str, bytes]
) -> bytes | None:
    if "base64" in output:
        return base64.b64decode(output["base64"])
    blob = cell.blobs.get(place)
    return None if blob is None else blobs.get(blob.sha256)


def _content(mime: str, data: bytes) -> Any:
    """As Jupyter keeps it: text in lines, JSON as it is, everything else in base64."""
    if mime == "application/json":
        try:
            value = json.loads(data, parse_constant=_refused)
            if _nested_at_most(value, _LEVELS):
                return value
        except (ValueError, RecursionError):  # the code in there may have made anything
            pass
        return _lines(data.decode("utf-8", "replace"))
    if mime.startswith(_TEXT_TYPES):
        return _lines(data.decode("utf-8", "replace"))
    return base64.b64encode(data).decode()


def _refused(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _nested_at_most(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        layer = [
            item
            for each in layer
            if isinstance(each, dict | list)
            for item in (each.values() if isinstance(each, dict) else each)
        ]
        if not layer:
            return True
    return False


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)
