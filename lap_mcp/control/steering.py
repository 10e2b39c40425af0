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
_SEND = r"(?:send|upload|transmit|forward|exfiltrate|leak|include|pass|append|reveal)"
_TAKE = r"(?:read|cat|open|dump|steal|harvest|print)"
_CALL = r"(?:consult|use|run|execute|invoke|call|trigger)"
_TOOL = r"(?:tool|function|agent|command|action)s?"

_ORDERS = (
    # Overriding what the model was told
    rf"\b(?:bypass|dis\W?regard|forget|ignore|override|do not (?:follow|obey)) {_WHOSE}{_TOLD}",
    r"\bforget (?:everything|all)\b|\byou are now\b|\bnew (?:instruction|directive)s? ?:",
    r"\bsystem ?(?:prompt ?override|override|instruction)|\badmin override",
    r"\b(?:developer|sudo|god) mode (?:enabled|activated|on)\b",
    r"[‹<]/?(?:system|important|critical|urgent|instructions?|assistant)\b|[‹<]!--|<\|",
    r"\[/?(?:inst|system|important|(?:hidden|internal|secret|private) \w+)\]|\[\[\[|\|\|\|",
    # Orders about tools
    r"\bbefore (?:anything|everything) else\b|\bbefore doing anything\b|\bhighest priority over\b",
    rf"\bbefore \w+ing (?:any other|this|other|another) {_TOOL}",
    rf"\b(?:always|must|required to|mandatory to|have to|need to) (?:first )?{_CALL} this {_TOOL}",
    rf"\b(?:only|instead of) (?:this|any other|other) {_TOOL}|\bdo not {_CALL} (?:any )?other",
    rf"\b{_TOOL} will not work unless|\b(?:inject|shadow) tool|\bnow call function\b",
    r"\b(?:hidden|secret)[ _](?:param|instruction)|\bsandbox escape\b",
    # Hiding from the person
    r"\b(?:never|don'?t|do not) (?:tell|inform|mention|notify|alert)\b",
    r"\bwithout (?:telling|informing|mentioning|notifying|alerting)\b",
    rf"\bsecretly\b|\b(?:silently|covertly|invisibly) (?:{_SEND}|{_CALL}|collect)",
    r"\btell (?:the )?user (?:only|that)\b|\bhide (?:this|it)? ?(?:from )?(?:the )?user",
    # Secrets, and taking them away
    rf"\b{_SEND}\b[^.]{{0,60}}\b{_PRIVATE}|\b{_TAKE}\b[^.]{{0,25}}\b{_PRIVATE}",
    rf"\b{_SEND}\b[^.]{{0,60}}https?://|!\[[^\]]*\]\(",
    r"\.(?:ssh|aws|kube|gnupg|netrc|pgpass|env|npmrc)\b|\bid_(?:rsa|dsa|ecdsa|ed25519)\b",
    r"\b(?:authorized_keys|known_hosts|mcp\.json|wallet\.dat|credentials\.json)\b",
    r"\bclaude_desktop_config|/etc/(?:passwd|shadow)|/proc/(?:self|\d+)/",
    r"\b(?:openai|anthropic|claude)_api_key|\baws_secret_access_key|begin [a-z ]*private key",
    # Commands and scripts
    r"\b(?:curl|wget) \S*(?:https?:|-)|\| ?(?:ba|z)?sh\b|\b(?:ba)?sh -[ic]\b|/dev/tcp/",
    r"\brm -\w*[rf]|\bchmod [0-7+]|\bnc -|\bpowershell -e|\bcmd ?/[ck]\b|\bdd if=|base64 -d",
    r"\b(?:eval|exec|system|popen|atob|settimeout)\(|\bsubprocess\.|__import__",
    r"\bb64decode|\bprocess\.env|\bos\.environ|javascript:\S|data:text/html|[‹<]/?script",
    r"'; ?drop table|\bunion (?:all )?select\b|\bor '?1'? ?= ?'?1",
)
"""Searched in case-folded text with single blanks."""
_ORDER = re.compile("|".join(_ORDERS))


def steers(text: str) -> bool:
    """Whether the text gives orders.  Neither case nor compatibility forms hide them."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return _ORDER.search(" ".join(plain.split())) is not None


def steers_within(value: Any) -> bool:
    """Whether a string in this JSON value does, at any depth."""
    if isinstance(value, str):
        return steers(value)
    if isinstance(value, Mapping):
        return any(steers(str(key)) or steers_within(item) for key, item in value.items())
    if isinstance(value, Sequence):
        return any(map(steers_within, value))
    return False
