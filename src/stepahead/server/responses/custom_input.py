"""Takes the text out of {"input": "..."} while the JSON comes, so that a long patch is seen as it is written."""

import json
import re

from stepahead.server.responses.tool_names import CUSTOM_INPUT

_BEGINNING = re.compile(rf'\s*\{{\s*"{CUSTOM_INPUT}"\s*:\s*"')
# Whole characters and whole escapes; half of a surrogate pair waits for the other half.
_WHOLE = re.compile(
    r'(?:[^"\\]+|\\["\\/bfnrt]|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}'
    r"|\\u(?![dD][89abAB])[0-9a-fA-F]{4})*"
)


class CustomInput:
    """Pieces of JSON in, pieces of text out. What has another form comes out at the end, whole."""

    def __init__(self) -> None:
        self._json = ""
        self._position: int | None = None  # of the first character not yet given out; None: before the value
        self._text: list[str] = []

    def push(self, json_text: str) -> str:
        """The text that this piece adds."""
        self._json += json_text
        if self._position is None:
            beginning = _BEGINNING.match(self._json)
            if beginning is None:
                return ""
            self._position = beginning.end()
        whole = _WHOLE.match(self._json, self._position)
        assert whole is not None  # it matches the empty text
        self._position = whole.end()
        return self._added(json.loads(f'"{whole.group()}"', strict=False))

    def end(self) -> str:
        """The text that is still missing."""
        try:
            value = json.loads(self._json)[CUSTOM_INPUT]
        except (ValueError, LookupError, TypeError):
            value = self._json
        whole = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return self._added(whole[len(self.text) :] if whole.startswith(self.text) else "")

    @property
    def text(self) -> str:
        return "".join(self._text)

    def _added(self, text: str) -> str:
        self._text.append(text)
        return text
