"""Whose prompts may find what others have computed: what was computed for one key, no other key can time or count.

A salt that clients alone could choose would protect nobody, since it can be left out: it is the key's identity first.
"""

import re

from stepahead.server.fields import Fields

FIELD = "cache_salt"
_SALT = re.compile(r"[^@/\\\0]{1,128}")


def read_salt(fields: Fields) -> str:
    """The client's own salt; "" if there is none. Raises ApiError."""
    salt = fields.string(FIELD)
    if salt is None:
        return ""
    if _SALT.fullmatch(salt) is None:
        raise fields.wrong(FIELD, "must have 1 to 128 characters, none of them @, /, \\ or NUL")
    return salt


def mixed(owner: str, salt: str) -> str:
    """Of a request: owner is hexadecimal, so that no salt can make it another's."""
    return f"{owner}:{salt}" if owner or salt else ""
