"""Citations put into the messages of a stream: after the last delta of a text, before its end.

Pure: an event of the upstream in, the events that the client gets for it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .citations import cited, shown
from .results import Picture
from .wire import Json, mapping, sequence

_KEY = tuple[Any, Any]


class MessageTexts:
    """`files` and `pictures` are kept up to date by the interception."""

    def __init__(self, container_id: str) -> None:
        self._container_id = container_id
        self.files: Mapping[str, str] = {}
        self.pictures: list[Picture] = []
        """Displayed, and not cited yet."""
        self._theirs: dict[_KEY, int] = {}
        """How many annotations the upstream itself made to a text."""
        self._ours: dict[_KEY, list[Json]] = {}

    def events(self, event: Json, item_id: str = "") -> list[Json]:
        """`event` with the client's output index in it already."""
        match event["type"]:
            case "response.output_text.annotation.added":
                key = _key(event)
                self._theirs[key] = self._theirs.get(key, 0) + 1
            case "response.output_text.done":
                return [*self._annotations(event, event.get("text"), event.get("item_id")), event]
            case "response.content_part.done":
                part = mapping(event.get("part"))
                found = self._annotations(event, part.get("text"), event.get("item_id"))
                return [*found, {**event, "part": self._part(_key(event), part)}]
            case "response.output_item.done":
                return self._item_done(event)
        return [event]

    def _item_done(self, event: Json) -> list[Json]:
        item = mapping(event.get("item"))
        if item.get("type") != "message":
            return [event]
        index, content, before = event.get("output_index"), [], []
        for number, part in enumerate(sequence(item.get("content"))):
            where = {"output_index": index, "content_index": number}
            before += self._annotations(where, mapping(part).get("text"), item.get("id"))
            content.append(self._part((index, number), part))
        return [*before, {**event, "item": {**item, "content": content}}]

    def _annotations(self, where: Mapping[str, Any], text: Any, item_id: Any) -> list[Json]:
        """The events for a text that is complete; none the second time."""
        key = _key(where)
        if key in self._ours or not isinstance(text, str):
            return []
        found = [*cited(text, self.files, self._container_id)]
        found += shown(self.pictures, self._container_id)
        self.pictures.clear()
        self._ours[key] = found
        first = self._theirs.get(key, 0)
        return [
            {
                "type": "response.output_text.annotation.added",
                "item_id": item_id,
                "output_index": key[0],
                "content_index": key[1],
                "annotation_index": first + number,
                "annotation": annotation,
            }
            for number, annotation in enumerate(found)
        ]

    def _part(self, key: _KEY, part: Any) -> Any:
        if not isinstance(part, dict) or part.get("type") != "output_text":
            return part
        known = sequence(part.get("annotations"))
        return {**part, "annotations": [*known, *self._ours.get(key, [])]}


def _key(event: Mapping[str, Any]) -> _KEY:
    content = event.get("content_index")
    return event.get("output_index"), content if isinstance(content, int) else 0
