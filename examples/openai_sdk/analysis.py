"""Data analysis over a CSV, with a plot, through the unmodified OpenAI SDK.

    pip install openai
    export OPENAI_BASE_URL=http://127.0.0.1:8700/v1 OPENAI_API_KEY=$(lap-mcp keys show)
    python examples/openai_sdk/analysis.py MODEL [FILE.csv]

The same program runs against OpenAI: without OPENAI_BASE_URL, and with a key of theirs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from openai import OpenAI

HERE = Path(__file__).parent
QUESTION = (
    "Which region sold most, and how did it change by month? Plot sales by month and region, and "
    "give me the monthly totals as monthly.csv."
)


def main(model: str, csv: Path) -> None:
    client = OpenAI()
    upload = client.files.create(file=csv, purpose="user_data")
    tool: Any = {"type": "code_interpreter", "container": {"type": "auto", "file_ids": [upload.id]}}
    with client.responses.stream(model=model, input=QUESTION, tools=[tool]) as events:
        for event in events:
            if event.type == "response.code_interpreter_call_code.delta":
                print(event.delta, end="", flush=True)
            elif event.type == "response.code_interpreter_call.completed":
                print("\n--- it ran\n")
            elif event.type == "response.output_text.delta":
                print(event.delta, end="", flush=True)
        answer = events.get_final_response()
    print()
    for item in answer.output:
        for part in getattr(item, "content", None) or ():
            for note in getattr(part, "annotations", None) or ():
                save(client, note)


def save(client: OpenAI, note: Any) -> None:
    """A file that the answer links, or a figure that was shown."""
    if note.type != "container_file_citation":
        return
    content = client.containers.files.content.retrieve(note.file_id, container_id=note.container_id)
    name = Path(note.filename).name  # the code in the sandbox chose it
    Path(name).write_bytes(content.read())
    print(f"saved {name}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "sales.csv")
