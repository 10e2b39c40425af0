"""Bytes with a signature (HMAC-SHA-256), as one word of the URL-safe base64 of RFC 4648 §5.

Each content has one word and no other.  Base64 by itself has several: the spare bits of the last
character say nothing, so a decoder takes four or sixteen spellings of the same bytes.  Who revokes,
counts or compares words relies on there being one; RFC 4648 §3.5 lets a decoder insist on it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

_MAC_BYTES = 32


def signed_text(content: bytes, key: bytes, purpose: bytes) -> str:
    """`purpose` keeps what is signed for one use from being taken for another."""
    return _word(content + _mac(content, key, purpose))


def content_of(word: str, key: bytes, purpose: bytes) -> bytes | None:
    """What `signed_text` made this word of with this key and purpose; `None` for all else."""
    data = _bytes(word)
    if data is None or len(data) < _MAC_BYTES:
        return None
    content, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
    return content if hmac.compare_digest(mac, _mac(content, key, purpose)) else None


def _mac(content: bytes, key: bytes, purpose: bytes) -> bytes:
    return hmac.digest(key, purpose + content, hashlib.sha256)


def _word(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(word: str) -> bytes | None:
    if not word.isascii():
        return None
    try:
        data = base64.b64decode(word + "=" * (-len(word) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if _word(data) == word else None
