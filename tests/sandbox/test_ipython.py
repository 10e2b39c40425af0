"""`IPython.display` in a container that has no IPython."""

from __future__ import annotations

import pytest
from lap_sandbox.base import Sandbox

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

PNG = b"\x89PNG\r\n\x1a\n"
IMPORT = (
    "from IPython.display import HTML, JSON, SVG, Image, Latex, Markdown, clear_output, display\n"
)


async def test_what_notebooks_display_is_shown(sandbox: Sandbox) -> None:
    code = (
        "clear_output(wait=True)\ndisplay(HTML('<b>'), Markdown('**a**'), Latex('$x$'))\n"
        "display(SVG('<svg/>'), JSON({'a': 1}), 5)\nHTML('<i>')"
    )
    execution = await sandbox.execute(IMPORT + code, timeout=30)
    assert execution.status == "ok", execution
    assert [(o.mime, o.data) for o in execution.outputs] == [
        ("text/html", b"<b>"),
        ("text/markdown", b"**a**"),
        ("text/latex", b"$x$"),
        ("image/svg+xml", b"<svg/>"),
        ("application/json", b'{"a": 1}'),
        ("text/html", b"<i>"),
    ]
    assert execution.stdout == "5\n"


async def test_an_image_is_shown_from_data_and_from_a_file(sandbox: Sandbox) -> None:
    await sandbox.put("a.png", PNG)
    await sandbox.put("b.jpg", b"\xff\xd8\xff")
    code = (
        "d = open('a.png', 'rb').read()\n"
        "display(Image(data=d), Image(filename='a.png', width=9), Image('b.jpg'))"
    )
    execution = await sandbox.execute(IMPORT + code, timeout=30)
    assert [(o.mime, o.data) for o in execution.outputs] == [
        ("image/png", PNG),
        ("image/png", PNG),
        ("image/jpeg", b"\xff\xd8\xff"),
    ]


async def test_an_address_is_refused_in_words(sandbox: Sandbox) -> None:
    execution = await sandbox.execute(IMPORT + "Image(url='http://x/a.png')", timeout=30)
    assert execution.error is not None
    assert "no network" in execution.error.value


async def test_an_uploaded_ipython_goes_first(sandbox: Sandbox) -> None:
    await sandbox.put("IPython.py", b"mine = 1")
    code = "import IPython\nIPython.mine"
    execution = await sandbox.execute(code, timeout=30)
    assert execution.value == "1"


async def test_figures_are_drawn_after_it_was_imported(sandbox: Sandbox) -> None:
    code = "import matplotlib.pyplot as plt\nplt.plot([1]);"
    execution = await sandbox.execute(IMPORT + code, timeout=30)
    assert [o.mime for o in execution.outputs] == ["image/png"], execution.error
