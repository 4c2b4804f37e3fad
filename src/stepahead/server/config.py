"""What the operator of a server decides: where it listens, who may ask, how much, and how endpoints behave."""

import hashlib
import hmac
import ipaddress
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from stepahead.async_llm import QueueLimits
from stepahead.errors import ConfigError
from stepahead.server.endpoint import EndpointSettings

KEYS_VARIABLE = "STEPAHEAD_API_KEYS"
_MAX_LABEL = 40
_OWNER_CHARS = 32


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key's digest, and the label that stands for it in logs."""

    label: str
    digest: bytes

    @property
    def owner(self) -> str:
        """Stands for the key where what belongs to it is kept apart; hexadecimal, and tells nothing of it."""
        return hashlib.sha256(b"owner" + self.digest).hexdigest()[:_OWNER_CHARS]

    @classmethod
    def of(cls, secret: str, label: str) -> "ApiKey":
        return cls(label, hashlib.sha256(secret.encode()).digest())


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Raises ConfigError for what contradicts itself or is unsafe without being asked for."""

    host: str = "127.0.0.1"
    port: int = 8080
    keys: tuple[ApiKey, ...] = ()
    is_open: bool = False  # other machines may ask without a key
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    queue: QueueLimits = field(default_factory=QueueLimits)
    max_choices: int = 8
    max_body_bytes: int = 32 << 20
    body_seconds: float = 30.0  # and one more for each MB
    max_header_bytes: int = 64 << 10
    header_seconds: float = 10.0
    keep_alive_seconds: float = 65.0  # agents keep pools
    max_connections: int = 512
    max_connections_per_address: int = 128  # of other machines: all programs of this one have the same address
    drain_seconds: float = 30.0
    protects_special: bool = True  # text of messages cannot become control tokens
    memory_bytes: int = 4 << 20  # for the reasoning of calls, and as much for the tokens of turns; 0: none
    shares_prefixes: bool = False  # between keys
    endpoints: EndpointSettings = field(default_factory=lambda: EndpointSettings(state_key=secrets.token_bytes(32)))

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port={self.port} is no port: give 1 to 65535, or 0 for a free one")
        if not self.is_loopback and not self.keys and not self.is_open:
            raise ConfigError(
                f"host {self.host} can be reached by other machines, and there is no key: give --api-key-file, or "
                "--no-key if everyone who can reach it may use it"
            )
        if "*" in self.cors_origins and not self.keys:
            raise ConfigError("cors origin * lets every web page ask without a key: name the origins, or give keys")

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)

    def owner(self, key: ApiKey) -> str:
        """Whose a request with this key is; "" where there is no other owner."""
        return key.owner if len({one.digest for one in self.keys}) > 1 else ""


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_keys(path: Path | None) -> tuple[ApiKey, ...]:
    """Of a file, one a line, a label in front if it has one; and of STEPAHEAD_API_KEYS, separated by commas.

    Never of the command line, which every user of the machine can read. Raises ConfigError for a file without keys.
    """
    lines = os.environ.get(KEYS_VARIABLE, "").split(",")
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{path}: cannot be read as keys: {getattr(error, 'strerror', None) or 'no UTF-8'}"
            ) from None
        own = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
        if not any(map(str.strip, own)):
            raise ConfigError(f"{path}: has no key: put one on a line of its own")
        lines += own
    return tuple(_keys(lines))


def find_key(keys: tuple[ApiKey, ...], secret: str) -> ApiKey | None:
    """The key that this is. Takes as long whichever it is, or none."""
    digest = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
    found = None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found


def _keys(lines: Iterable[str]) -> Iterable[ApiKey]:
    for number, words in enumerate((line.split() for line in lines if line.strip()), 1):
        if len(words) > 2:
            raise ConfigError(f"key {number} has {len(words)} words: give the key, or a label and the key")
        yield ApiKey.of(words[-1], words[0][:_MAX_LABEL] if len(words) == 2 else f"key-{number}")
