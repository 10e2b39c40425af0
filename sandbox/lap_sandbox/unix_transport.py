"""HTTP over a unix socket for `requests`, in place of what the engine's SDK brings: that one leaves
a socket open where nobody listens, and keeps connections for each address of a request.  Knows
nothing of engines."""

from __future__ import annotations

import socket
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection


class _Connection(HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path
        self._seconds = seconds

    def connect(self) -> None:
        made = socket.socket(socket.AF_UNIX)
        try:
            made.settimeout(self._seconds)
            made.connect(self._path)
        except BaseException:
            made.close()
            raise
        self.sock = made


class _Pool(HTTPConnectionPool):
    def __init__(self, path: str, seconds: float, kept: int) -> None:
        super().__init__("localhost", timeout=seconds, maxsize=kept)
        self._path = path
        self._seconds = seconds

    def _new_conn(self) -> _Connection:
        return _Connection(self._path, self._seconds)


class UnixAdapter(HTTPAdapter):
    """Sends everything to the socket `path`; keeps at most `kept` connections for later.

    `seconds`: for connecting, and for each read where a request says no other.
    """

    def __init__(self, path: str, seconds: float, kept: int) -> None:
        super().__init__()
        self._pool = _Pool(path, seconds, kept)

    def get_connection_with_tls_context(self, *arguments: Any, **named: Any) -> _Pool:
        return self._pool

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        return request.path_url

    def close(self) -> None:
        super().close()
        self._pool.close()
