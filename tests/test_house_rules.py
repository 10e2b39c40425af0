"""The rules of CONTRIBUTING.md that a program can check, with no list of excepted files."""

from __future__ import annotations

import ast
import functools
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.capabilities import ROOT

PACKAGES = [ROOT / "lap_mcp", ROOT / "runtimes" / "lap_runtimes", ROOT / "sandbox" / "lap_sandbox"]
IN_CONTAINER = [ROOT / "sandbox/lap_sandbox" / name for name in ("image", "runner", "confined")]
FOLDERS = [
    "lap_mcp",
    "runtimes",
    "sandbox",
    "tests",
    "examples",
    "benchmarks",
    "scripts",
    "docs",
    ".ci",
]

PRODUCT_LINES = 400
TEST_LINES = 600
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
FUNCTION_LINES = 50
"""Without decorators and docstring."""

UNWRAPPED = "carried out of a task group, which would wrap it, and raised there"
BOUNDARIES: dict[str, str] = {
    "sandbox/lap_sandbox/blocking.py::run": "raised where the thread's result is awaited",
    "lap_mcp/control/connections.py::make": "an adapter that breaks is disabled and logged",
    "lap_mcp/control/refresh.py::_discover": "an adapter that breaks is logged and asked later",
    "lap_mcp/control/connections.py::_close": "logged; the other runtimes are still to be closed",
    "lap_mcp/control/detached.py::run": "raised again in whoever asked, while it still waits",
    "lap_mcp/control/opening.py::guarded": "logged; one broken task must not end the others",
    "lap_mcp/control/opening.py::open_sessions": UNWRAPPED,
    "lap_mcp/control/runner.py::_guarded": "logged; the turn fails and says so",
    "lap_mcp/control/sandboxes.py::running": UNWRAPPED,
    "lap_mcp/control/stopping.py::tell_to_stop": "logged; the turn ends and says so",
    "lap_mcp/front_parts/guarding.py::__call__": "logged without its words; the client is told",
    "lap_mcp/hosting.py::_hold": "logged; whoever waits for the services is told in words",
    "lap_mcp/mcp_server/face.py::_call_tool": "logged; the model is told that the server broke",
    "lap_mcp/mcp_server/long_turn.py::_told": UNWRAPPED,
    "lap_mcp/mcp_server/tasks.py::_until": UNWRAPPED,
    "lap_mcp/mcp_server/opening.py::_open": "logged; each call is told in words, and tries again",
    "lap_mcp/mcp_server/progress.py::running": UNWRAPPED,
    "lap_mcp/mcp_server/tasks.py::_work": "logged; the task fails",
    "lap_mcp/openai_front/background.py::_respond": "logged; the response fails and says so",
    "runtimes/lap_runtimes/managed.py::concurrently": UNWRAPPED,
    "sandbox/lap_sandbox/runner/cells.py::flush_streams": "the user's streams: left as they are",
    "sandbox/lap_sandbox/runner/display.py::_ask": "the user's code: another form is asked",
    "sandbox/lap_sandbox/runner/display.py::bounded_repr": "the user's code: shown instead",
    "sandbox/lap_sandbox/runner/trace.py::describe": "the user's code: shown instead",
    "sandbox/lap_sandbox/runner/worker.py::_run": "the user's code: reported with its traceback",
}
"""`path::function` of each broad `except` that does not end in a `raise`, and what becomes of the
error."""


@functools.cache
def product() -> tuple[Path, ...]:
    return tuple(sorted(p for folder in PACKAGES for p in folder.rglob("*.py")))


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def texts() -> Iterator[tuple[str, str]]:
    """Every text file that belongs to the project: path and content."""
    files = [p for p in ROOT.iterdir() if p.is_file()]
    for folder in FOLDERS:
        files += (p for p in (ROOT / folder).rglob("*") if p.is_file())
    for path in files:
        if "__pycache__" in path.parts or "node_modules" in path.parts:
            continue
        try:
            yield name(path), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def too_long(folder_files: Iterator[Path], most: int) -> list[str]:
    counted = {name(p): len(p.read_text(encoding="utf-8").splitlines()) for p in folder_files}
    return [f"{path}: {lines} lines" for path, lines in counted.items() if lines > most]


def test_no_product_file_is_longer_than_400_lines() -> None:
    assert too_long(iter(product()), PRODUCT_LINES) == []


def test_no_test_file_is_longer_than_600_lines() -> None:
    assert too_long((ROOT / "tests").rglob("*.py"), TEST_LINES) == []


def test_no_function_is_longer_than_50_lines() -> None:
    long = [
        f"{name(path)}:{node.lineno} {node.name}: {length} lines"
        for path in product()
        for node in ast.walk(tree(path))
        if isinstance(node, FUNCTIONS) and (length := body_lines(node)) > FUNCTION_LINES
    ]
    assert long == []


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node):
        doc = node.body[0]
        lines -= (doc.end_lineno or doc.lineno) - doc.lineno + 1
    return lines


def test_no_global_statement_and_no_del_method() -> None:
    found = [
        f"{name(path)}:{node.lineno}"
        for path in product()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Global)
        or (isinstance(node, ast.FunctionDef) and node.name == "__del__")
    ]
    assert found == []


def test_no_module_is_called_utils_or_helpers() -> None:
    vague = re.compile(r"^_?(utils?|helpers?|misc|common)(\.py)?$")
    assert [name(p) for p in product() if any(vague.match(part) for part in p.parts)] == []


def test_the_environment_is_read_in_the_configuration_only() -> None:
    """Also by the supervisor, which runs inside the container and has no configuration."""
    allowed = [ROOT / "lap_mcp" / "config", ROOT / "lap_mcp" / "config.py", *IN_CONTAINER]
    found = [
        f"{name(path)}:{node.lineno}"
        for path in product()
        if not any(path.is_relative_to(place) for place in allowed)
        for node in ast.walk(tree(path))
        if reads_environment(node)
    ]
    assert found == []


def reads_environment(node: ast.AST) -> bool:
    names = {"environ", "environb", "getenv", "getenvb"}
    match node:
        case ast.Attribute(value=ast.Name(id="os"), attr=attr):
            return attr in names
        case ast.ImportFrom(module="os", names=imported):
            return any(alias.name in names for alias in imported)
    return False


def test_broad_excepts_are_at_the_named_boundaries_only() -> None:
    found = {where for path in product() for where in broad_excepts(path)}
    assert found - BOUNDARIES.keys() == set(), "narrow it, or name it in BOUNDARIES with its reason"
    assert BOUNDARIES.keys() - found == set(), "named in BOUNDARIES and no longer there"


def broad_excepts(path: Path) -> Iterator[str]:
    """By the innermost function around each."""

    def below(node: ast.AST, function: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ExceptHandler) and is_broad(child) and not raises_again(child):
                yield f"{name(path)}::{function}"
            inner = child.name if isinstance(child, FUNCTIONS) else function
            yield from below(child, inner)

    return below(tree(path), "the module itself")


def is_broad(handler: ast.ExceptHandler) -> bool:
    caught = handler.type
    kinds = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(
        kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException"))
        for kind in kinds
    )


def raises_again(handler: ast.ExceptHandler) -> bool:
    """Its last statement is a `raise`: it cleans up or translates, and hides nothing."""
    return isinstance(handler.body[-1], ast.Raise)


def test_every_module_says_what_is_in_it() -> None:
    silent = [name(p) for p in product() if tree(p).body and not ast.get_docstring(tree(p))]
    assert silent == []


def test_every_error_is_explained_where_it_is_declared() -> None:
    """By its own docstring, or in the tree that the module begins with."""
    unexplained = [
        f"{name(path)}: {node.name}"
        for path in product()
        if path.name == "errors.py"
        for node in tree(path).body
        if isinstance(node, ast.ClassDef)
        and not ast.get_docstring(node)
        and node.name not in (ast.get_docstring(tree(path)) or "")
    ]
    assert unexplained == []


def test_no_path_of_one_machine_is_written_down() -> None:
    shared_by_many = {"/", "/tmp", "/home", "/opt", "/srv", "/usr", "/var"}
    here = {str(ROOT.parent), pwd.getpwuid(os.getuid()).pw_dir} - shared_by_many
    found = [f"{path}: {place}" for path, text in texts() for place in here if f"{place}/" in text]
    assert found == []


def test_no_package_registry_is_named() -> None:
    """Where packages come from is for the person's own settings to say."""
    hosts = ["pypi" + ".org", "python" + "hosted.org", "npm" + "js.org", "ghcr" + ".io"]
    hosts += ["quay" + ".io", "registry-1." + "docker.io", "hub." + "docker.com"]
    found = [f"{path}: {host}" for path, text in texts() for host in hosts if host in text]
    assert found == []


def test_imports_point_down() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", ["demo", "test", "lint", "setup", "bench", "conformance"])
def test_every_script_that_the_documents_name_can_be_run(script: str) -> None:
    path = ROOT / "scripts" / script
    assert os.access(path, os.X_OK), f"{path} is missing or not executable"
