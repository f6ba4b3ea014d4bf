"""The keys that protect what is stored secretly: envelope encryption with AES-256-GCM.

Every value has a data key of its own, which a master key wraps. Both are bound to whose value it is (organization and
name), so that a row copied to another tenant or name does not open. New values use the first master key; older ones
stay readable while their key is listed, and `rewrap` brings them to the first without touching the value.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from mediatheca.kernel.errors import UnavailableError

SETTING = "MEDIATHECA_SECRET_KEY"
KEY_BYTES = 32
_NONCE_BYTES = 12
_HEX = re.compile(r"[0-9a-fA-F]{64}")
_HOW = "make one with: openssl rand -base64 32"


class KeyRing:
    """Master keys, the current one first. Thread-safe."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise ValueError(f"a key ring needs at least one key, each of {KEY_BYTES} bytes")
        self._keys = {_key_id(key): key for key in keys}
        self.current = _key_id(keys[0])

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self._keys)})"

    def seal(self, value: str, owner: str, name: str) -> dict[str, Any]:
        """Encrypt a text. The result is a JSON object that tells nothing but the length."""
        data_key = secrets.token_bytes(KEY_BYTES)
        return {
            "key": self.current,
            "wrapped": _encrypt(self._keys[self.current], data_key, _bound("key", owner, name)),
            "data": _encrypt(data_key, value.encode("utf-8", "surrogatepass"), _bound("value", owner, name)),
        }

    def open(self, sealed: dict[str, Any], owner: str, name: str) -> str:
        """Decrypt what `seal` made.

        Raises:
            UnavailableError: its master key is not here, or it was changed, or belongs to somebody else.
        """
        data_key = self._data_key(sealed, owner, name)
        data = _decrypt(data_key, str(sealed["data"]), _bound("value", owner, name))
        return data.decode("utf-8", "surrogatepass")

    def rewrap(self, sealed: dict[str, Any], owner: str, name: str) -> dict[str, Any] | None:
        """The same value under the current master key; None when it is already.

        Raises:
            UnavailableError: as `open`.
        """
        if sealed["key"] == self.current:
            return None
        data_key = self._data_key(sealed, owner, name)
        wrapped = _encrypt(self._keys[self.current], data_key, _bound("key", owner, name))
        return {**sealed, "key": self.current, "wrapped": wrapped}

    def _data_key(self, sealed: dict[str, Any], owner: str, name: str) -> bytes:
        master = self._keys.get(str(sealed["key"]))
        if master is None:
            raise UnavailableError(
                f"'{name}' was encrypted with the key {sealed['key']}, which is not here; add it to {SETTING} "
                "(comma-separated, the current key first; every process needs the same)"
            )
        return _decrypt(master, str(sealed["wrapped"]), _bound("key", owner, name))


def load_keyring(setting: str, path: Path) -> KeyRing:
    """The keys of `MEDIATHECA_SECRET_KEY`, or of a file that is made at the first use.

    Raises:
        UnavailableError: a key is not 32 bytes in base64 or hexadecimal, or others may read the file.
    """
    if setting.strip():
        return KeyRing(_parsed(setting, SETTING))
    if not path.exists():
        _make(path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UnavailableError(
            f"{path.name}: others may read the file of the secret key; chmod 600 it, or set {SETTING}"
        )
    return KeyRing(_parsed(path.read_text().replace("\n", ","), path.name))


def _make(path: Path) -> None:
    """Write a new key, complete or not at all: a second process that starts now must not read half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def _parsed(text: str, where: str) -> list[bytes]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    keys = [_key(part) for part in parts]
    if not keys or None in keys:
        raise UnavailableError(f"{where}: every key must be {KEY_BYTES} bytes in base64 or hexadecimal; {_HOW}")
    return [key for key in keys if key is not None]


def _key(text: str) -> bytes | None:
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    try:
        key = base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if len(key) == KEY_BYTES else None


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"mediatheca key id\0" + key).hexdigest()[:12]


def _bound(purpose: str, owner: str, name: str) -> bytes:
    return orjson.dumps(["mediatheca", 1, purpose, owner, name])


def _encrypt(key: bytes, data: bytes, bound: bytes) -> str:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = secrets.token_bytes(_NONCE_BYTES)
    return base64.b64encode(nonce + AESGCM(key).encrypt(nonce, data, bound)).decode()


def _decrypt(key: bytes, text: str, bound: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        raw = base64.b64decode(text, validate=True)
        return AESGCM(key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], bound)
    except (InvalidTag, ValueError) as error:
        raise UnavailableError("a stored secret cannot be decrypted: it was changed; write it again") from error
