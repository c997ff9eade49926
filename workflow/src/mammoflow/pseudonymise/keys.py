"""The secret key, and the pseudonyms made with it.

Every pseudonym is an HMAC-SHA-256 (RFC 2104) of the original: the same key gives the same pseudonym in every run, so
that later exams of a woman join her earlier ones; without the key nobody can tell whether a known id is among them, as
they can where ids are merely hashed.
"""

import base64
import hashlib
import hmac
import stat
from dataclasses import dataclass, field
from pathlib import Path

from mammoflow.errors import UserError

_MAKE = "make one with: (umask 077; openssl rand -hex 32 > {path})"
_SHORTEST = 32  # characters; 64 hex digits are 256 bits


@dataclass(frozen=True)
class Key:
    """Pseudonyms under one secret. Different kinds of ids never share a pseudonym."""

    secret: bytes = field(repr=False)

    def digest(self, kind: str, value: str) -> bytes:
        """32 bytes that stand for ``value`` of a ``kind``."""
        return hmac.new(self.secret, f"{kind}\0{value}".encode("utf-8", "surrogateescape"), hashlib.sha256).digest()

    def uid(self, original: str) -> str:
        """A valid UID below 2.25 (PS3.5 B.2: the decimal form of a UUID; here of version 8, RFC 9562 5.8)."""
        number = int.from_bytes(self.digest("uid", original.strip())[:16])
        number = number & ~(0xF << 76) | 8 << 76  # version
        number = number & ~(0b11 << 62) | 0b10 << 62  # variant
        return f"2.25.{number}"

    def name(self, prefix: str, kind: str, value: str) -> str:
        """``prefix`` and 16 letters and digits (80 bits): two of a billion values collide with odds of 1 to 10**6."""
        return prefix + base64.b32encode(self.digest(kind, value.strip())[:10]).decode()

    def patient(self, original: str) -> str:
        """The pseudonym of a PatientID."""
        return self.name("P", "patient", original)

    def marker(self, text: str) -> str:
        """12 hex digits by which a rerun knows what a file was made from; without the key they tell nothing."""
        return self.digest("marker", text).hex()[:12]


def read_key(path: Path) -> Key:
    """The key of a file. Raises UserError where it is absent, short, or readable by others than its owner."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist: {_MAKE.format(path=path)}")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UserError(f"{path} can be read by others, who could then undo the pseudonyms: chmod 600 {path}")
    secret = path.read_bytes().strip()
    if len(secret) < _SHORTEST:
        raise UserError(f"{path} holds {len(secret)} characters, too few to keep a secret: "
                        f"{_MAKE.format(path=path)}")  # fmt: skip
    return Key(secret)
