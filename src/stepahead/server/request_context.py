"""Whose request is being answered: set by the guard, read where something is logged or kept apart."""

from contextvars import ContextVar

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")
OWNER: ContextVar[str] = ContextVar("owner", default="")
"""Whose the request is, hexadecimal; "" where all requests are one owner's. Made of the key: labels may be equal."""
