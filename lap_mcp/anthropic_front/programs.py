"""Python that does in a sandbox what the bash and the text editor tool are asked for.  Pure: text
in, source out.

Each program is one expression that leaves no name behind in the interpreter that the model's own
Python shares.  What it prints is as hostile as everything that comes out of a sandbox.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

FOLDER: Final = "/mnt/data"
SHOWN: Final = 200 * 1024
"""Bytes of each stream of a command, and of a file's text, that come out."""

_BASH: Final = """
def main(command, folder, most):
    import os, signal, subprocess, sys, tempfile
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(
            ["/bin/bash", "-c", command], cwd=folder, stdin=subprocess.DEVNULL,
            stdout=out, stderr=err, start_new_session=True,
        )
        try:
            code = child.wait()
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise
        for file, stream in ((out, sys.stdout), (err, sys.stderr)):
            file.seek(0)
            stream.write(file.read(most).decode(errors="replace"))
            if file.read(1):
                stream.write("\\n(the rest was left out)")
            stream.flush()
    return 128 - code if code < 0 else code
"""

_EDITOR: Final = """
def main(asked, folder, most):
    import json, os
    class Wrong(Exception):
        pass
    def text_of(path):
        if os.path.isdir(path):
            raise Wrong("invalid_tool_input", "This is a folder.")
        if not os.path.exists(path):
            raise Wrong("file_not_found", "There is no such file.")
        with open(path, newline="", encoding="utf-8") as file:
            return file.read()
    def keep(path, text):
        data = text.encode()  # before anything of the old file is lost
        with open(path, "wb") as file:
            file.write(data)
    def tree(path):
        found = []
        for base, folders, files in os.walk(path):
            folders[:] = sorted(each for each in folders if not each.startswith("."))
            found += [os.path.join(base, each) for each in sorted(files)]
            found += [os.path.join(base, each) + "/" for each in folders]
            if os.path.relpath(base, path).count("/") >= 1 or len(found) > 2000:
                folders[:] = []
        return "\\n".join(sorted(found)[:2000])
    def view(path):
        if os.path.isdir(path):
            text, bounds = tree(path), None
        else:
            text, bounds = text_of(path), asked.get("view_range")
        lines = text.split("\\n")
        if lines and not lines[-1]:
            lines.pop()
        start, end = bounds if bounds else (1, len(lines))
        end = len(lines) if end == -1 else end
        if bounds and not 1 <= start <= max(1, len(lines)) or end < start - 1:
            raise Wrong("invalid_tool_input", "view_range is outside of the file.")
        part = lines[start - 1:end]
        shown = "\\n".join(part).encode(errors="replace")[:most].decode(errors="ignore")
        return {"content": shown, "start_line": start, "num_lines": len(part),
                "total_lines": len(lines)}
    def create(path):
        before = os.path.lexists(path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        keep(path, asked.get("file_text", ""))
        return {"is_file_update": before}
    def change(path, text, at, old, new):
        keep(path, text[:at] + new + text[at + len(old):])
        gone, come = old.split("\\n"), new.split("\\n")
        line = text.count("\\n", 0, at) + 1
        shown = ["-" + each for each in gone] + ["+" + each for each in come]
        if not old:
            gone, shown = [], shown[1:]
        return {"old_start": line, "old_lines": len(gone), "new_start": line,
                "new_lines": len(come), "lines": shown[:1000]}
    def str_replace(path):
        text, old = text_of(path), asked.get("old_str") or ""
        found = text.count(old) if old else 0
        if found != 1:
            how = "does not occur" if not found else "occurs %d times" % found
            raise Wrong("invalid_tool_input", "old_str %s; it has to occur once." % how)
        return change(path, text, text.index(old), old, asked.get("new_str") or "")
    def insert(path):
        text, line = text_of(path), asked.get("insert_line")
        lines = text.split("\\n")
        if type(line) is not int or not 0 <= line <= len(lines):
            raise Wrong("invalid_tool_input", "insert_line is outside of the file.")
        new = asked.get("insert_text") or asked.get("new_str") or ""
        at = sum(len(each) + 1 for each in lines[:line])
        if at > len(text):
            text += "\\n"
        made = change(path, text, at, "", new if new.endswith("\\n") else new + "\\n")
        made["lines"] = made["lines"][:-1] or made["lines"]
        made["new_lines"] = len(made["lines"])
        return made
    try:
        path = asked.get("path")
        if not isinstance(path, str) or not path or "\\0" in path:
            raise Wrong("invalid_tool_input", "path is missing.")
        does = {"view": view, "create": create, "str_replace": str_replace, "insert": insert}
        verb = does.get(asked.get("command"))
        if verb is None:
            raise Wrong("invalid_tool_input", "command is none of " + ", ".join(does) + ".")
        made = verb(os.path.normpath(os.path.join(folder, path)))
    except Wrong as wrong:
        made = {"error_code": wrong.args[0], "error_message": wrong.args[1]}
    except UnicodeDecodeError:
        made = {"error_code": "invalid_tool_input", "error_message": "The file is not text."}
    except (OSError, TypeError, ValueError, AttributeError) as error:
        made = {"error_code": "invalid_tool_input", "error_message": str(error)[:500]}
    print(json.dumps(made))
"""


def bash_program(command: str, folder: str = FOLDER) -> str:
    """Prints the command's two streams; the value is its return code, 128 + N for signal N."""
    return _called(_BASH, command, folder, SHOWN)


def editor_program(asked: Mapping[str, Any], folder: str = FOLDER) -> str:
    """Prints one JSON object: what was done, or `error_code` and `error_message`."""
    return _called(_EDITOR, dict(asked), folder, SHOWN)


def _called(source: str, *arguments: object) -> str:
    return f"(lambda n: (exec({source!r}, n), n['main'](*{arguments!r}))[1])({{}})"
