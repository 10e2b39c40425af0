"""Data analysis over a CSV, with a plot, through the unmodified Anthropic SDK.

    pip install anthropic
    export ANTHROPIC_BASE_URL=http://127.0.0.1:8700 ANTHROPIC_API_KEY=$(lap-mcp keys show)
    python examples/anthropic_sdk/analysis.py MODEL [FILE.csv]

The same program runs against Anthropic: without ANTHROPIC_BASE_URL, and with a key of theirs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from anthropic import Anthropic

HERE = Path(__file__).parent
CSV = HERE.parent / "openai_sdk" / "sales.csv"
QUESTION = (
    "Which region sold most, and how did it change by month? Plot sales by month and region, and "
    "give me the monthly totals as monthly.csv."
)
BETAS = ["code-execution-2025-08-25", "files-api-2025-04-14"]
TOOL: Any = {"type": "code_execution_20250825", "name": "code_execution"}


def main(model: str, csv: Path) -> None:
    client = Anthropic()
    upload = client.beta.files.upload(file=csv, betas=BETAS[1:])
    content: Any = [
        {"type": "text", "text": QUESTION},
        {"type": "container_upload", "file_id": upload.id},
    ]
    with client.beta.messages.stream(
        model=model,
        max_tokens=8192,
        messages=[{"role": "user", "content": content}],
        tools=[TOOL],
        betas=BETAS,
    ) as events:
        for event in events:
            if event.type == "text":
                print(event.text, end="", flush=True)
            elif event.type == "content_block_start" and "result" in event.content_block.type:
                print("\n--- it ran\n")
        answer = events.get_final_message()
    print()
    for block in answer.content:
        for part in getattr(getattr(block, "content", None), "content", None) or ():
            save(client, part.file_id)


def save(client: Anthropic, file_id: str) -> None:
    """A file that code wrote, or a figure that it showed."""
    # Its last part only: the code in the sandbox chose it.
    name = Path(client.beta.files.retrieve_metadata(file_id).filename).name
    client.beta.files.download(file_id).write_to_file(name)
    print(f"saved {name}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else CSV)
