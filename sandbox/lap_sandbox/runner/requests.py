"""The host's requests about files, answered in the supervisor a chunk at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping

from lap_sandbox.runner import files, wire
from lap_sandbox.runner.printed import Printed
from lap_sandbox.runner.wire import Frame, Kind

LISTED = 20_000
_PAGE_BYTES = 48 * 1024
"""Of descriptions of files in one header, which holds little more."""

Send = Callable[..., None]


class Requests:
    """Uploads and downloads under way, and what /mnt/data looked like last."""

    def __init__(self, root: str, send: Send) -> None:
        self._tree = files.Tree(root)
        self.printed = Printed(self._tree)
        self._send = send
        self._uploads: dict[int, files.Upload] = {}
        self._downloads: dict[int, tuple[int, int]] = {}
        self._seen: dict[str, files.Seen] = {}
        self._empty: files.Mark | None = None

    @property
    def busy(self) -> bool:
        return bool(self._downloads)

    def handle(self, frame: Frame) -> None:
        """Answer `frame` with `REPLY` or `FAIL`, now or when its parts have come or gone."""
        handlers = {
            Kind.PING: self._ping,
            Kind.PUT: self._put,
            Kind.DATA: self._data,
            Kind.END: self._end,
            Kind.ABORT: self._abort,
            Kind.GET: self._get,
            Kind.LIST: self._list,
            Kind.DELETE: self._delete,
        }
        handler = handlers.get(frame.kind)
        try:
            if handler is None:
                raise files.Refused("unknown", f"frame type {frame.kind} is not known here")
            handler(frame)
        except files.Refused as refused:
            self._fail(frame.id, refused)
        except OSError as error:
            self._fail(frame.id, files.refusal(error, str(frame.header.get("path", ""))))

    def _fail(self, id: int, refused: files.Refused) -> None:
        upload = self._uploads.pop(id, None)
        if upload is not None:
            upload.abort()
        words = refused.words[:2000]
        self._send(Kind.FAIL, id, {"reason": refused.reason, "words": words})

    def _ping(self, frame: Frame) -> None:
        self._send(Kind.REPLY, frame.id)

    def _put(self, frame: Frame) -> None:
        self._uploads[frame.id] = self._tree.begin_put(str(frame.header["path"]), frame.id)

    def _data(self, frame: Frame) -> None:
        upload = self._uploads.get(frame.id)
        if upload is not None:  # else it was refused while this was on its way
            upload.write(frame.body)

    def _end(self, frame: Frame) -> None:
        upload = self._uploads.pop(frame.id, None)
        if upload is None:
            return
        info = upload.finish()
        # What the host writes is no news to it.
        if (seen := self._tree.seen(upload.path)) is not None:
            self._seen[upload.path] = seen
        self._send(Kind.REPLY, frame.id, info)

    def _abort(self, frame: Frame) -> None:
        upload = self._uploads.pop(frame.id, None)
        if upload is not None:
            upload.abort()
        self._send(Kind.REPLY, frame.id)

    def _get(self, frame: Frame) -> None:
        path, limit = str(frame.header["path"]), int(frame.header["limit"])
        fd, status = self._tree.open_read(path)
        if status.st_size > limit:
            os.close(fd)
            raise files.Refused(
                "limit", f"`{path}` has {status.st_size} bytes; at most {limit} can be read."
            )
        self._downloads[frame.id] = (fd, status.st_size)

    def pump(self, room: int) -> None:
        """Send a chunk of each download by turns, while the host keeps up."""
        while self._downloads and room > 0:
            room = self._pump_each(room)

    def _pump_each(self, room: int) -> int:
        """The room that is left."""
        for id, (fd, left) in list(self._downloads.items()):
            data = b""
            with contextlib.suppress(OSError):
                data = os.read(fd, min(wire.CHUNK, left)) if left else b""
            if data:
                self._send(Kind.DATA, id, None, data)
                self._downloads[id] = (fd, left - len(data))
                room -= len(data)
            else:
                os.close(fd)
                del self._downloads[id]
                self._send(Kind.REPLY, id, {"missing": left})
        return room

    def _list(self, frame: Frame) -> None:
        limit = min(int(frame.header["limit"]), LISTED)
        found, more = self._tree.scan(LISTED, seconds=0.5)
        infos = [found[path].describe() for path in sorted(found)[:limit]]
        page: list[dict[str, object]] = []
        room = _PAGE_BYTES
        for info in infos:
            size = _encoded(info)
            if size > room:
                self._send(Kind.DATA, frame.id, {"files": page})
                page, room = [], _PAGE_BYTES
            if size <= room:
                page.append(info)
                room -= size
            else:
                more = True
        self._send(Kind.REPLY, frame.id, {"files": page, "more": more or len(found) > limit})

    def _delete(self, frame: Frame) -> None:
        path = str(frame.header["path"])
        self._tree.delete(path)
        self._seen.pop(path, None)
        self._send(Kind.REPLY, frame.id)

    def changed(self, limit: int) -> tuple[list[dict[str, object]], bool]:
        """Files that are new or different since the last call, at most `limit`, newest first."""
        mark = self._tree.mark()
        if mark == self._empty:
            return [], False
        found, more = self._tree.scan(files.SCAN_ENTRIES)
        self._empty = mark if not found and not more and self._tree.is_empty(mark) else None
        news = [seen for path, seen in found.items() if self._seen.get(path) != seen]
        self._seen = found
        news.sort(key=lambda seen: seen.modified_ns, reverse=True)
        infos: list[dict[str, object]] = []
        room = _PAGE_BYTES
        for seen in news[:limit]:
            info = seen.describe()
            room -= _encoded(info)
            if room < 0:
                break
            infos.append(info)
        return infos, more or len(infos) < len(news)


def _encoded(info: Mapping[str, object]) -> int:
    """Bytes of it in a header, with what stands between two.  To be counted: an emoji in a name
    takes twelve."""
    return len(wire.header_bytes(info)) + 1
