"""Starts a real n8n that `install` has put into a folder, and gives it an owner, a key, and two
workflows: an agent that streams, and one that is called by a webhook and answers whole."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

CHAT = "@n8n/n8n-nodes-langchain.chatTrigger"
START_SECONDS = 300.0
CODE = """
const text = $json.body.prompt ?? '';
const [skill] = text.split(' ', 1);
const rest = text.slice(skill.length + 1);
const kept = $getWorkflowStaticData('global');
const session = $json.body.sessionId;
if (skill === 'fail') throw new Error(rest);
if (skill === 'big') return [{ json: { output: 'x'.repeat(Number(rest)) } }];
if (skill === 'remember') { kept[session] = rest; return [{ json: { output: 'yes' } }]; }
if (skill === 'recall') return [{ json: { output: kept[session] ?? 'nothing yet' } }];
if (skill === 'slow') {
  const count = Number(rest);
  let said = 'first ';
  for (let n = 1; n <= count; n++) {
    await new Promise((done) => setTimeout(done, 20));
    said += `chunk ${n} of ${count}\\n`;
  }
  return [{ json: { output: said } }];
}
return [{ json: { output: text } }];
"""


@dataclass(frozen=True, slots=True)
class N8n:
    url: str
    key: str
    log: Path


@contextmanager
def running(folder: Path, model: str) -> Iterator[N8n]:
    """`model` is the address of `model.py`.  Nothing of n8n is left afterwards but its log."""
    with tempfile.TemporaryDirectory(prefix="lap-n8n-") as home:
        port = "9118"
        url = f"http://127.0.0.1:{port}"
        environ = {
            "PATH": f"{folder / 'node' / 'bin'}:{os.environ['PATH']}",
            "HOME": home,
            "N8N_USER_FOLDER": home,
            "N8N_PORT": port,
            "N8N_LISTEN_ADDRESS": "127.0.0.1",
            "N8N_DIAGNOSTICS_ENABLED": "false",
            "N8N_VERSION_NOTIFICATIONS_ENABLED": "false",
            "N8N_TEMPLATES_ENABLED": "false",
            "N8N_PERSONALIZATION_ENABLED": "false",
            "N8N_SECURE_COOKIE": "false",
            "N8N_RUNNERS_BROKER_PORT": "9119",
            "N8N_LOG_LEVEL": "info",
        }
        log = folder / "n8n.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [folder / "node_modules" / ".bin" / "n8n", "start"],
                env=environ,
                cwd=home,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                with httpx2.Client(base_url=url, timeout=60) as client:
                    _wait(client, process)
                    key = _owner(client)
                    _workflows(client, key, model)
                yield N8n(url, key, log)
            finally:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(10)


def _wait(client: httpx2.Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"n8n ended with status {process.returncode}")
        try:
            if client.get("/healthz/readiness").status_code == 200:
                return
        except httpx2.HTTPError:
            pass
        time.sleep(1)
    raise RuntimeError(f"n8n did not start within {START_SECONDS:g} s")


def _json(answer: httpx2.Response) -> Any:
    if answer.status_code >= 400:
        raise RuntimeError(f"{answer.request.url} answered {answer.status_code}: {answer.text}")
    return answer.json()


def _owner(client: httpx2.Client) -> str:
    """An owner, logged in by cookie, and a key of the management API."""
    person = {
        "email": "owner@example.com",
        "firstName": "Test",
        "lastName": "Owner",
        "password": f"A1{secrets.token_hex(12)}",
    }
    deadline = time.monotonic() + 60
    while (answer := client.post("/rest/owner/setup", json=person)).status_code == 404:
        if time.monotonic() > deadline:
            break
        time.sleep(1)
    _json(answer)
    scopes = ["workflow:list", "workflow:read", "workflow:create", "workflow:activate"]
    scopes += ["execution:list", "execution:read", "execution:stop", "credential:create"]
    wanted = {"label": "test", "scopes": scopes, "expiresAt": None}
    return str(_json(client.post("/rest/api-keys", json=wanted))["data"]["rawApiKey"])


def _node(name: str, kind: str, version: float, **more: Any) -> dict[str, Any]:
    node_id = secrets.token_hex(8)
    return {
        "id": node_id,
        "name": name,
        "type": kind,
        "typeVersion": version,
        "position": [0, 0],
        "parameters": {},
        **more,
    }


def _workflows(client: httpx2.Client, key: str, model: str) -> None:
    headers = {"X-N8N-API-KEY": key}
    secret = {"apiKey": "none", "url": f"{model}/v1", "header": False}
    made = {"name": "model", "type": "openAiApi", "data": secret}
    credential = _json(client.post("/api/v1/credentials", json=made, headers=headers))
    named = {"openAiApi": {"id": credential["id"], "name": "model"}}
    langchain = "@n8n/n8n-nodes-langchain"
    options = {"public": True, "options": {"responseMode": "streaming"}}
    agent = {
        "name": "agent",
        "nodes": [
            _node("Chat", CHAT, 1.3, webhookId="hook-1", parameters=options),
            _node("Agent", f"{langchain}.agent", 2.2),
            _node(
                "Model",
                f"{langchain}.lmChatOpenAi",
                1.2,
                parameters={"model": {"__rl": True, "mode": "id", "value": "words"}},
                credentials=named,
            ),
            _node("Memory", f"{langchain}.memoryBufferWindow", 1.3),
        ],
        "connections": {
            "Chat": {"main": [[{"node": "Agent", "type": "main", "index": 0}]]},
            "Model": {
                "ai_languageModel": [[{"node": "Agent", "type": "ai_languageModel", "index": 0}]]
            },
            "Memory": {"ai_memory": [[{"node": "Agent", "type": "ai_memory", "index": 0}]]},
        },
        "settings": {"executionOrder": "v1"},
    }
    hook = {"httpMethod": "POST", "path": "words", "responseMode": "lastNode"}
    words = {
        "name": "words",
        "nodes": [
            _node("Webhook", "n8n-nodes-base.webhook", 2, webhookId="hook-2", parameters=hook),
            _node("Code", "n8n-nodes-base.code", 2, parameters={"jsCode": CODE}),
        ],
        "connections": {"Webhook": {"main": [[{"node": "Code", "type": "main", "index": 0}]]}},
        "settings": {"executionOrder": "v1"},
    }
    for workflow in (agent, words, *_waits()):
        saved = _json(client.post("/api/v1/workflows", json=workflow, headers=headers))
        path = f"/api/v1/workflows/{saved['id']}/activate"
        _json(client.post(path, json={}, headers=headers))


def _waits() -> list[dict[str, Any]]:
    """Workflows that wait for a call, and for a form."""
    code = "return [{ json: { output: JSON.stringify($json.body ?? $json) } }];"
    values = [
        {
            "fieldLabel": "Decision",
            "fieldType": "dropdown",
            "fieldOptions": {"values": [{"option": "yes"}, {"option": "no"}]},
            "requiredField": True,
        },
        {"fieldLabel": "Why"},
    ]
    form = {"resume": "form", "formTitle": "Go on?", "formFields": {"values": values}}
    call = {"resume": "webhook", "httpMethod": "POST", "options": {"webhookSuffix": "go-on"}}
    made = []
    for path, parameters in (("waits-for-form", form), ("waits-for-call", call)):
        hook = {"httpMethod": "POST", "path": path, "responseMode": "lastNode"}
        nodes = [
            _node("Webhook", "n8n-nodes-base.webhook", 2, webhookId=path, parameters=hook),
            _node("Wait", "n8n-nodes-base.wait", 1.1, webhookId=path, parameters=parameters),
            _node("Code", "n8n-nodes-base.code", 2, parameters={"jsCode": code}),
        ]
        connections = {
            "Webhook": {"main": [[{"node": "Wait", "type": "main", "index": 0}]]},
            "Wait": {"main": [[{"node": "Code", "type": "main", "index": 0}]]},
        }
        settings = {"executionOrder": "v1"}
        made.append(
            {"name": path, "nodes": nodes, "connections": connections, "settings": settings}
        )
    return made
