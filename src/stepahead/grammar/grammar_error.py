"""Why a grammar cannot be had: what is wrong with it, and where."""

from stepahead.errors import RequestError


class GrammarError(RequestError):
    """A schema or grammar that cannot be enforced; the message names each place and what stands there.

    places: paths into the schema, such as properties.a.anyOf[1].not; "" is the schema itself. The message names
    keywords, never other text of the caller's.
    """

    def __init__(self, message: str, places: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.places = places
