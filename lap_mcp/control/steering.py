"""Text of a stranger that gives orders to a model instead of saying what an agent does: overriding
words, orders about other tools, hiding from the person, secrets and commands by name.

What is found is not shown; an operator describes such an agent in words of their own.  Not all of
it can be found this way: every description is said to be a stranger's words, and no rule of ours
rests on what a model makes of it.  Pure functions.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

LEFT_OUT = "(left out: it reads like orders to a model)"

_WHOSE = (
    r"(?:(?:all|any|each|every|most|some|of|the|your|my|these|those|this|previous|prior|earlier"
    r"|above|other|system|safety|security)\s+)*"
)
_TOLD = (
    r"(?:instruction|prompt|guideline|rule|directive|command|communication|conte[nx]t"
    r"|conversation|data|input|message|request|response|text|check|polic)"
)
_PRIVATE = (
    r"(?:(?:conversation|chat)\s+history|(?:entire|full|whole|complete)\s+(?:conversation|chat)"
    r"|password|passphrase|credential|secrets?\b|api[ _-]?key|(?:private|ssh)\s+key|access\s+token"
    r"|environment\s+variable|system\s+prompt|chain\s+of\s+thought)"
)
_SEND_WORDS = "send upload transmit forward exfiltrate leak include pass append reveal"
_TAKE_WORDS = "read cat open dump steal harvest print"
_SEND = f"(?:{_SEND_WORDS.replace(' ', '|')})"
_TAKE = f"(?:{_TAKE_WORDS.replace(' ', '|')})"
_CALL = r"(?:consult|use|run|execute|invoke|call|trigger)"
_MUST = r"(?:always|must|required to|mandatory to|have to|need to)"
_TOOL = r"(?:tool|function|agent|command|action)s?"

_ORDERS: tuple[tuple[str, str], ...] = (
    # Overriding what the model was told
    (
        "bypass regard forget ignore override obey follow",
        rf"\b(?:bypass|dis\W?regard|forget|ignore|override|do not (?:follow|obey)) {_WHOSE}{_TOLD}",
    ),
    ("forget you", r"\bforget (?:everything|all)\b|\byou are now\b"),
    ("instruction directive", r"\bnew (?:instruction|directive)s? ?:"),
    (
        "override instruction",
        r"\bsystem ?(?:prompt ?override|override|instruction)|\badmin override",
    ),
    ("mode", r"\b(?:developer|sudo|god) mode (?:enabled|activated|on)\b"),
    ("‹ <", r"[‹<]/?(?:system|important|critical|urgent|instructions?|assistant)\b|[‹<]!--|<\|"),
    (
        "[ |||",
        r"\[/?(?:inst|system|important|(?:hidden|internal|secret|private) \w+)\]|\[{3}|\|{3}",
    ),
    # Orders about tools
    ("before", r"\bbefore (?:anything|everything) else\b|\bbefore doing anything\b"),
    ("before", rf"\bbefore \w+ing (?:any other|this|other|another) {_TOOL}"),
    ("priority", r"\bhighest priority over\b"),
    (
        "always must required mandatory have need",
        rf"\b{_MUST} (?:first )?{_CALL} this {_TOOL}",
    ),
    ("only instead", rf"\b(?:only|instead of) (?:this|any other|other) {_TOOL}"),
    ("not", rf"\bdo not {_CALL} (?:any )?other"),
    ("unless tool function", rf"\b{_TOOL} will not work unless|\b(?:inject|shadow) tool"),
    ("function", r"\bnow call function\b"),
    ("hidden secret escape", r"\b(?:hidden|secret)[ _](?:param|instruction)|\bsandbox escape\b"),
    # Hiding from the person
    ("never don't not", r"\b(?:never|don't|do not) (?:tell|inform|mention|notify|alert)\b"),
    ("without", r"\bwithout (?:telling|informing|mentioning|notifying|alerting)\b"),
    ("ly", rf"\bsecretly\b|\b(?:silently|covertly|invisibly) (?:{_SEND}|{_CALL}|collect)"),
    ("user", r"\btell (?:the )?user (?:only|that)\b"),
    ("hide", r"\bhide (?:this|it)? ?(?:from )?(?:the )?user"),
    # Secrets, and taking them away
    (_SEND_WORDS, rf"\b{_SEND}\b[^.]{{0,60}}\b{_PRIVATE}"),
    ("http", r"\b(?:send|upload|transmit|forward|exfiltrate|leak)\b[^.]{0,60}https?://"),
    (_TAKE_WORDS, rf"\b{_TAKE}\b[^.]{{0,25}}\b{_PRIVATE}"),
    ("![", r"!\[[^\]]*\]\("),
    (".", r"\.(?:ssh|aws|kube|gnupg|netrc|pgpass|env|npmrc)\b"),
    ("id_", r"\bid_(?:rsa|dsa|ecdsa|ed25519)\b"),
    (
        "authorized known mcp wallet credentials claude",
        r"\b(?:authorized_keys|known_hosts|mcp\.json|wallet\.dat|credentials\.json"
        r"|claude_desktop_config)",
    ),
    ("/", r"/etc/(?:passwd|shadow)|/proc/(?:self|\d+)/|/dev/tcp/"),
    ("_key", r"\b(?:openai|anthropic|claude)_api_key|\baws_secret_access_key"),
    ("private", r"begin [a-z ]*private key"),
    # Commands and scripts
    ("curl wget", r"\b(?:curl|wget) \S*(?:https?:|-)"),
    ("sh", r"\| ?(?:ba|z)?sh\b|\b(?:ba)?sh -[ic]\b"),
    ("rm nc powershell base64", r"\brm -\w*[rf]|\bnc -|\bpowershell -e|base64 -d"),
    ("chmod cmd dd", r"\bchmod [0-7+]|\bcmd ?/[ck]\b|\bdd if="),
    ("(", r"\b(?:eval|exec|system|popen|atob|settimeout)\("),
    ("subprocess __import__ decode", r"\bsubprocess\.|__import__|\bb64decode"),
    ("process os.", r"\bprocess\.env|\bos\.environ"),
    ("script data:", r"javascript:\S|data:text/html|[‹<]/?script"),
    ("drop union or", r"'; ?drop table|\bunion (?:all )?select\b|\bor '?1'? ?= ?'?1"),
)
"""Searched in case-folded text with single blanks; each with parts of words of which one has to be
there: looking for those first costs a hundredth."""
_SEARCHES = tuple((parts.split(), re.compile(order)) for parts, order in _ORDERS)


def steers(text: str) -> bool:
    """Whether the text gives orders.  Neither case nor compatibility forms hide them."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    plain = " ".join(plain.split())
    return any(
        order.search(plain) for parts, order in _SEARCHES if any(part in plain for part in parts)
    )


def steers_within(value: Any) -> bool:
    """Whether a string in this JSON value does, at any depth."""
    if isinstance(value, str):
        return steers(value)
    if isinstance(value, Mapping):
        return any(steers(str(key)) or steers_within(item) for key, item in value.items())
    if isinstance(value, Sequence):
        return any(map(steers_within, value))
    return False
