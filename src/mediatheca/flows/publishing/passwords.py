"""Passwords as scrypt hashes (RFC 7914): memory-hard, salted, compared in constant time."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets

_N, _R, _P, _LENGTH = 2**14, 8, 1, 32
"""16 MiB and about 50 ms a guess."""
_MEMORY = 64 << 20


def hash_password(password: str) -> str:
    salt = secrets.token_bytes(16)
    derived = _derive(password, salt, _N, _R, _P)
    parts = (str(_N), str(_R), str(_P), *(base64.b64encode(part).decode() for part in (salt, derived)))
    return "scrypt$" + "$".join(parts)


def matches(password: str, stored: str) -> bool:
    """Whether this is the password behind a stored hash. Takes as long for a wrong one."""
    try:
        kind, n, r, p, salt, expected = stored.split("$")
        if kind != "scrypt":
            return False
        derived = _derive(password, base64.b64decode(salt), int(n), int(r), int(p))
        return hmac.compare_digest(derived, base64.b64decode(expected))
    except (ValueError, binascii.Error):
        return False


def _derive(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    data = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(data, salt=salt, n=n, r=r, p=p, dklen=_LENGTH, maxmem=_MEMORY)
