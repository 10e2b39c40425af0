"""Agent cards: what an A2A agent says of itself, and which of its addresses may be called.  No I/O.

Cards of 1.0 list `supportedInterfaces`; those of 0.3 have a `url` with a `preferredTransport`, and
`additionalInterfaces` (A2A specification, AgentCard).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

from lap_runtimes.errors import ProtocolError, Rejected
from lap_runtimes.http_errors import clean
from lap_runtimes.origin import OriginRules, origin_of

BINDINGS = ("JSONRPC", "HTTP+JSON")
"""What we speak, as cards write it."""
_VERSION = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class Interface:
    """One way to call the agent."""

    url: str
    binding: str
    version: str = ""
    tenant: str = ""

    @property
    def number(self) -> tuple[int, int]:
        """Major and minor version; 1.0 where the card has none."""
        found = _VERSION.match(self.version)
        return (int(found[1]), int(found[2])) if found else (1, 0)

    @property
    def legacy(self) -> bool:
        return self.number < (1, 0)


class Card:
    """An agent card of which only those addresses are left that may be called.  Raises `Rejected`
    where none is left, `ProtocolError` for what is no card."""

    def __init__(self, found: Any, rules: OriginRules, *, base: str, endpoint: str | None) -> None:
        """`base`: where relative addresses start.  `endpoint` takes the place of every address."""
        whence = f"the agent card of {rules.home}"
        try:
            self._read(found)
        except (TypeError, ValueError) as exc:
            raise ProtocolError(f"{whence} is not one of A2A: {clean(str(exc))}") from exc
        spoken = [each for each in self.offered if each.binding in BINDINGS]
        if not spoken:
            offered = ", ".join(each.binding for each in self.offered)
            raise Rejected(
                f"{whence} offers {clean(offered) or 'no interface'}; "
                f"supported are {' and '.join(BINDINGS)}",
                kind="unsupported",
                sent=False,
            )
        self.interface = _best(_allowed(spoken, rules, whence, base, endpoint))

    def _read(self, found: Any) -> None:
        """Raises: TypeError, ValueError."""
        card = _object(found, "the card")
        self.raw = card
        self.name = _text(card, "name")
        self.streams = bool(
            _object(card.get("capabilities") or {}, "capabilities").get("streaming")
        )
        self.description = "\n".join(_lines(card))
        self.offered = _interfaces(card)

    @property
    def protocol(self) -> str:
        return f"A2A {self.interface.version or '1.0'} over {self.interface.binding}"


def _interfaces(card: Mapping[str, Any]) -> Sequence[Interface]:
    if "supportedInterfaces" in card:
        return [
            Interface(
                _text(each, "url"),
                _text(each, "protocolBinding"),
                _text(each, "protocolVersion"),
                _text(each, "tenant"),
            )
            for each in _objects(card, "supportedInterfaces")
        ]
    version = _text(card, "protocolVersion") or "0.3.0"
    if not card.get("url"):
        return []
    first = Interface(_text(card, "url"), _text(card, "preferredTransport") or "JSONRPC", version)
    more = _objects(card, "additionalInterfaces")
    return [first, *(Interface(_text(each, "url"), _text(each, "transport"), version)
                     for each in more)]  # fmt: skip


def _lines(card: Mapping[str, Any]) -> Iterator[str]:
    """The card's description and its skills, a line each."""
    if words := _text(card, "description").strip():
        yield words
    if skills := _objects(card, "skills"):
        yield "Skills:"
        for skill in skills:
            yield f"- {_text(skill, 'name')}: {_text(skill, 'description')}".strip()


def _allowed(
    spoken: Sequence[Interface], rules: OriginRules, whence: str, base: str, endpoint: str | None
) -> Sequence[Interface]:
    refusal: Rejected | None = None
    kept = []
    for each in spoken:
        url = endpoint or urljoin(f"{base}/", each.url)
        try:
            if rules.standing(url, whence=whence) == "public":
                # `*` is for files: a prompt goes only where the operator's file says.
                raise Rejected(
                    f"{whence} leads to {origin_of(url)}; name it in allow_origins",
                    kind="invalid",
                    sent=False,
                )
        except Rejected as exc:
            refusal = exc
            continue
        kept.append(Interface(url, each.binding, each.version, each.tenant))
    if refusal is not None and not kept:
        raise refusal
    return kept


def _best(kept: Sequence[Interface]) -> Interface:
    """The card's first binding, in its newest version that we speak: 1.0 before later ones."""
    same = [each for each in kept if each.binding == kept[0].binding]
    return min(same, key=lambda each: (each.number != (1, 0), each.legacy))


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} is not an object")
    return value


def _objects(card: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    found = card.get(key) or []
    if not isinstance(found, list):
        raise TypeError(f"{key} is not a list")
    return [_object(each, f"an entry of {key}") for each in found]


def _text(where: Mapping[str, Any], key: str) -> str:
    found = where.get(key)
    if found is not None and not isinstance(found, str):
        raise TypeError(f"{key} is not a text")
    return found or ""
