"""A canary in every secret slot, servers that repeat what they are sent: it is found nowhere."""

from __future__ import annotations

from pathlib import Path

from tests.canary import canary
from tests.hostile_surroundings.mirror import mirror
from tests.lap_mcp.user import User
from tests.waiting import eventually


def canaries() -> dict[str, str]:
    return {
        "A2A": canary("a2a"),
        "WEB": canary("http"),
        "WEB_HEADER": canary("header"),
        "MODELS": canary("responses"),
        "FILE": canary("secret-file"),
        "QUOTED": f'can"ary/{canary("quoted")}+\\=',
    }


def configure(user: User, url: str, slots: dict[str, str]) -> None:
    secret_file = user.home / "mirror.secret"
    secret_file.write_text(slots["FILE"])
    secret_file.chmod(0o600)
    user.environ |= {f"SECRET_{slot}": value for slot, value in slots.items() if slot != "FILE"}
    web = (
        'request = { method = "POST", path = "/run", body = { prompt = "${prompt}" } }\n'
        'answer = { text = "text", data = "data", ref = { id = "id" } }\n'
    )
    user.configure(
        f'[runtimes.cards]\nkind = "a2a"\nurl = "{url}/card/"\ndiscover = true\n'
        'auth = { bearer = "env:SECRET_A2A" }\n'
        f'[runtimes.web]\nkind = "http"\nurl = "{url}/web"\n{web}'
        'auth = { bearer = "env:SECRET_WEB", header = { X-Key = "env:SECRET_WEB_HEADER" } }\n'
        f'[runtimes.quoted]\nkind = "http"\nurl = "{url}/web"\n{web}'
        'auth = { header = { X-Key = "env:SECRET_QUOTED", X-File = "file:~/mirror.secret" } }\n'
        f'[runtimes.models]\nkind = "openai_responses"\nurl = "{url}/v1"\nstream = false\n'
        'auth = { bearer = "env:SECRET_MODELS" }\n'
        '[agents.web]\nruntime = "web"\n[agents.quoted]\nruntime = "quoted"\n'
        '[agents.models]\nruntime = "models"\nref = "m"\n[logs]\nlevel = "debug"\n'
    )


def test_no_secret_is_in_any_output_log_database_or_blob(user: User) -> None:
    slots = canaries()
    with mirror() as (url, seen):
        configure(user, url, slots)
        outputs = [*flows_over_stdio(user), *commands(user)]
    for slot, value in slots.items():
        assert any(value in headers for headers in seen), f"{slot} was never sent"
    wanted = [value.encode() for value in slots.values()]
    wanted += [value.encode().replace(b"\\", b"\\\\").replace(b'"', b'\\"') for value in
               (slots["QUOTED"],)]  # fmt: skip
    for output in outputs:
        assert not any(value in output.encode() for value in wanted), output
    assert "[secret]" in "".join(outputs)
    stored = [path for path in user.data.rglob("*") if path.is_file()]
    assert any(path.name == "lap.db" for path in stored)
    for path in stored:
        assert_clean(path, wanted)
    assert_clean(user.file, wanted)


def assert_clean(path: Path, wanted: list[bytes]) -> None:
    data = path.read_bytes()
    assert not any(value in data for value in wanted), path


def flows_over_stdio(user: User) -> list[str]:
    server = user.stdio()
    server.tools()
    status = server.call("lap_status")
    outputs = [status]
    eventually(lambda: any(name.startswith("mirror") for name in server.tools()))
    (card,) = (name for name in server.tools() if name.startswith("mirror"))
    for agent in ("web", "quoted", "models", card):
        outputs += [server.call(agent, prompt="say it"), server.call(agent, prompt="fail")]
    outputs.append(server.call("list_sessions"))
    for uri in ("lap://status", "lap://agents", "lap://runtimes"):
        outputs.append(str(server.ask("resources/read", uri=uri)))
    assert server.end() == 0
    return [*outputs, *server.wire, server.errors()]


def commands(user: User) -> list[str]:
    ran = [
        user.run("agents", "list"),
        user.run("agents", "list", "--json"),
        user.run("doctor"),
        user.run("agents", "call", "web", "say it"),
        user.run("agents", "call", "quoted", "fail"),
        user.run("sessions", "list", "--json"),
        user.run("agents", "import", "cards"),
    ]
    return [text for done in ran for text in (done.stdout, done.stderr)]
