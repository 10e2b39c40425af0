"""Names under which a file may be saved on the user's machine.

A file's name comes from code that a model wrote, perhaps talked into it by what it read, and lands
in a project where people and programs work.  Data is welcome.  Refused is every name that some
program acts on without being told to: what a shell or a desktop runs, what a tool loads from the
folder that it is started in, what a harness reads as instructions to its model.

The lists are data, with the reason that the caller is told.  They cannot be complete; so whatever
is saved also never replaces a file, is never executable, and lies in a folder of its own.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Mapping
from fnmatch import fnmatchcase

from lap_mcp.errors import Invalid

MAX_BYTES = 200

_HIDDEN_CATEGORIES = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))

_INSTRUCTIONS = "coding harnesses read it as instructions"
_RUN = "a shell or a desktop runs it"
_LOADED = "programs load it from the folder that they work in"
_BUILD = "build tools act on it"
_TESTS = "test runners find and run it"
_MACROS = "office programs run what is in it"

PATTERNS: Mapping[str, tuple[str, ...]] = {
    _INSTRUCTIONS: (
        "agent.md", "agents.md", "agents.*.md", "claude.md", "claude.*.md", "codex.md",
        "conventions.md", "copilot-instructions.md", "crush.md", "cursorrules", "*.mdc",
        "gemini.md", "goosehints", "iflow.md", "instructions.md", "memory.md", "opencode.json*",
        "qwen.md", "rules.md", "skill.md", "soul.md", "system.md", "warp.md", "windsurfrules",
        "*.agent.md", "*.chatmode.md", "*.instructions.md", "*.prompt.md", "*.rules",
        "mcp.json", "mcp_*.json", "*.mcp.json", "claude_desktop_config.json", "lap.toml",
        "settings.json", "settings.*.json", "hooks.json", "plugin.json", "marketplace.json",
    ),
    _RUN: (
        "*.sh", "*.bash", "*.zsh", "*.fish", "*.csh", "*.ksh", "*.command", "*.tool", "*.run",
        "*.bat", "*.cmd", "*.ps1", "*.psm1", "*.psd1", "*.exe", "*.com", "*.scr", "*.pif", "*.msi",
        "*.msix", "*.vbs", "*.vbe", "*.jse", "*.wsf", "*.wsh", "*.hta", "*.cpl", "*.reg", "*.inf",
        "*.lnk", "*.url", "*.webloc", "*.desktop", "*.scf", "*.appref-ms", "*.workflow", "*.scpt",
        "*.applescript", "*.app", "*.dmg", "*.pkg", "*.deb", "*.rpm", "*.appimage", "*.jar",
        "*.dll", "*.so", "*.so.*", "*.dylib", "*.service", "*.timer", "desktop.ini",
        "crontab", "profile", "bashrc", "zshrc", "envrc",
    ),
    _LOADED: (
        "sitecustomize.py", "usercustomize.py", "*.pth", "*.pyc", "*.egg-link", "pyvenv.cfg",
        "manage.py", "local_settings.py", "ipython_config.py", "startup.py", "*.code-workspace",
        "launch.json", "tasks.json", "devcontainer.json", "direnv.toml", "mise.toml", "*.node",
    ),
    _BUILD: (
        "makefile", "gnumakefile", "*.mk", "cmakelists.txt", "*.cmake", "justfile", "taskfile*",
        "rakefile", "gemfile*", "brewfile", "podfile", "fastfile", "vagrantfile", "procfile",
        "jenkinsfile", "tiltfile", "dockerfile*", "containerfile*", "*.dockerfile", "earthfile",
        "compose.y*ml", "docker-compose*", "package.json", "package-lock.json", "yarn.lock",
        "pnpm-*.yaml", "bunfig.toml", "deno.json*", "tsconfig*.json", "*.config.js",
        "*.config.mjs", "*.config.cjs", "*.config.ts", "gulpfile*", "gruntfile*",
        "pyproject.toml", "setup.py", "setup.cfg", "tox.ini", "noxfile.py", "fabfile.py",
        "dodo.py", "requirements*.txt", "constraints*.txt", "pipfile*", "environment.y*ml",
        "cargo.toml", "build.rs", "go.mod", "go.work", "build.gradle*", "settings.gradle*",
        "pom.xml", "build.xml", "build.sbt", "meson.build", "build.ninja", "sconstruct",
        "sconscript", "wscript", "workspace", "build", "build.bazel", "*.bzl", "flake.nix",
        "default.nix", "shell.nix", "composer.json", "mix.exs", "*.csproj", "*.sln", "*.targets",
        "*.props", "*.tf", "*.tfvars", "action.y*ml", "azure-pipelines*", "bitbucket-pipelines*",
    ),
    _TESTS: (
        "conftest.py", "pytest.ini", "test_*.py", "*_test.py", "*.test.*", "*.spec.*", "*_test.go",
        "*_spec.rb",
    ),
    _MACROS: ("*.docm", "*.dotm", "*.xlsm", "*.xltm", "*.xlam", "*.xlsb", "*.pptm", "*.potm",
              "*.ppam", "*.xll", "*.iqy", "*.slk"),
}  # fmt: skip
"""Why, to the names, in lower case, with `*`.  A name without a dot also stands for itself with
one in front: names that begin with a dot are refused anyway."""

_DEVICES = frozenset(
    ("con", "prn", "aux", "nul", "clock$", *(f"{n}{i}" for n in ("com", "lpt") for i in range(10)))
)
"""Windows opens a device, whatever follows the first dot."""
_RESERVED = frozenset('<>:"/\\|?*`$')


def check_output_name(name: str) -> None:
    """
    Raises:
        Invalid: a file of this name is not saved; why.
    """
    why = _why_not(name)
    if why:
        shown = "".join(c if c.isprintable() else "?" for c in name)[:120]
        raise Invalid(
            f"`{shown}` is not saved: {why}.",
            remedy="Copy it to another name in the sandbox, such as `result.txt`, and save that.",
        )


def _why_not(name: str) -> str:
    plain = unicodedata.normalize("NFKC", name).casefold()
    form = _bad_form(name) or _bad_form(plain)
    if form:
        return form
    for why, patterns in PATTERNS.items():
        if any(fnmatchcase(plain, pattern) for pattern in patterns):
            return why
    stem, _, suffix = plain.rpartition(".")
    if suffix == "py" and stem in _standard_modules():
        return "Python programs would load it in place of their own module"
    return ""


def _bad_form(name: str) -> str:
    if not name or len(name.encode("utf-8", "replace")) > MAX_BYTES:
        return f"a name has 1 to {MAX_BYTES} bytes"
    if any(unicodedata.category(char) in _HIDDEN_CATEGORIES for char in name):
        return "it has control or invisible characters in it"
    if any(char in _RESERVED for char in name):
        return "it has a character in it that shells or file systems take for something else"
    if name.startswith("."):
        return "it begins with a dot: such files are hidden, and mostly settings"
    if name.startswith(("-", "~", "#")) or name.endswith(("~", "#")):
        return "shells and editors take its first or last character for something else"
    if name != name.strip(" .\u00a0\u3000") or name.strip() != name:
        return "it begins or ends with a space or ends with a dot"
    if name.split(".")[0] in _DEVICES or name.casefold().split(".")[0] in _DEVICES:
        return "it is the name of a device on Windows"
    return ""


def _standard_modules() -> frozenset[str]:
    return frozenset(module.casefold() for module in sys.stdlib_module_names)
