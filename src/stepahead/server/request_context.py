"""Whose request is being answered: set by the guard, read where something is logged or kept apart."""

from contextvars import ContextVar

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")
KEY: ContextVar[str] = ContextVar("key", default="")
"""The label of the key that was given; "" without keys."""
