"""What the endpoints of one API share: how a body is read, how an error looks, what is said about what was left out.

A module of an endpoint offers `router(service: TurnService, settings: EndpointSettings) -> fastapi.APIRouter`.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """What the operator decided."""

    unknown_fields: Literal["refuse", "warn"] = "refuse"
    reasoning_field: Literal["reasoning_content", "reasoning"] = "reasoning_content"
    default_temperature: float = 1.0  # of both vendors' APIs
    keepalive_seconds: float = 10.0
    stall_seconds: float = 60.0  # of a client that does not read
    responses_keepalive: Literal["keepalive", "comment", "off"] = "keepalive"
    strips_billing_header: bool = True
    state_key: bytes = b""  # signs reasoning that clients send back: server/reasoning_state.py
