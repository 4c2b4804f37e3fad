"""What a request is answered with when it cannot be done. Every endpoint says it in its own shape."""

from typing import Literal

Kind = Literal[
    "invalid_request",  # 400
    "authentication",  # 401
    "forbidden",  # 403
    "not_found",  # 404
    "method_not_allowed",  # 405
    "timeout",  # 408
    "too_large",  # 413
    "unsupported_media_type",  # 415
    "rate_limited",  # 429: a key's own limit
    "internal",  # 500
    "overloaded",  # 503, with Retry-After; 529 where messages are answered
]


class ApiError(Exception):
    """Raised before a response has begun; later, it becomes the stream's last event.

    param: the field's path, such as messages[3].content[0].image_url. code: such as context_length_exceeded,
    unsupported_value, model_not_found. retry_after: seconds. The message never repeats what the client sent.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after
