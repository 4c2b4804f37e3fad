"""What an agent may meet, as scripts: a user's message that names one (scenario-tools) gets it."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping

from stepahead.server.api_error import ApiError
from stepahead.server.service import overflow
from stepahead.turns.tool import Tool
from stepahead.turns.turn_request import TurnRequest
from support.scripted_service import Said, call, turn

ANSWER = 'The folder holds one file. It says: a < b && c > d, "quoted".'
_NAMED = re.compile(r'scenario-(\w+)(?: ([^\s"]+))?')
_SHELLS = re.compile(r"bash|shell|exec|command|terminal", re.IGNORECASE)
_TITLE = re.compile(r"title generator|generate a (concise|brief)? ?title", re.IGNORECASE)
_SUMMARY = re.compile(r"summar(y|ize)|handoff|compaction", re.IGNORECASE)
_AGENTS = re.compile(r"^(agent|task)$|spawn_agent$", re.IGNORECASE)
_WRITERS = re.compile(r"^(write|create_?new_?file|write_to_file|apply_patch|editor)$", re.IGNORECASE)
_CONTENT = 'a < b && c > "d" </parameter>\n\ttab\n'


class Scenarios:
    """Chooses what to say. A scenario that fails at first does so `num_failures` times, for each word after it anew."""

    def __init__(self, num_failures: int = 2) -> None:
        self._num_failures = num_failures
        self._asked: Counter[tuple[str, str]] = Counter()

    def __call__(self, request: TurnRequest) -> Said:
        if _TITLE.search(str(request.messages[0]["content"])):
            return Said(turn("A title.", "Scripted title"))
        if request.messages[-1]["role"] == "user" and _SUMMARY.search(request.messages[-1]["content"]):
            return Said(turn("In short.", "<analysis>Short.</analysis>\n<summary>They looked at a folder.</summary>"))
        place, name, argument = _named(request)
        num_results = sum(message["role"] == "tool" for message in request.messages[place:])
        self._asked[name, argument] += 1
        tell: Callable[..., Said] = getattr(self, f"_{name}", self._plain)
        return tell(request, num_results, argument)

    def _plain(self, request: TurnRequest, num_results: int, argument: str) -> Said:
        return Said(turn("They greet me.", ANSWER))

    def _tools(self, request: TurnRequest, num_results: int, argument: str) -> Said:
        if num_results:
            return Said(turn("That is all there is.", ANSWER))
        return Said(turn("I need the names.", "I look first.", _shell_call(request.tools)))

    def _loop(self, request: TurnRequest, num_results: int, argument: str) -> Said:
        """Several calls, one after the other."""
        if num_results >= 3:
            return Said(turn("Enough.", ANSWER))
        return Said(turn(f"Look number {num_results + 1}.", "", _shell_call(request.tools)))

    def _danger(self, request: TurnRequest, num_results: int, argument: str) -> Said:
        """Something that a client should ask its user about."""
        if num_results:
            return Said(turn("That is done.", ANSWER))
        command = f"rm -rf {argument or 'nothing'}/; touch ../danger.txt"
        return Said(turn("I clean up.", "", _shell_call(request.tools, command)))

    def _patch(self, request: TurnRequest, num_results: int, argument: str) -> Said:
        """As Codex asks models to write files that it knows nothing of: by a program in the shell."""
        if num_results:
            return Said(turn("Written.", "The file is written."))
        lines = f"*** Begin Patch\n*** Add File: {argument}\n+a < b && c\n*** End Patch"
        return Said(turn("I write it.", "", _shell_call(request.tools, f"apply_patch <<'END'\n{lines}\nEND")))

    def _parallel(self, request: TurnRequest, num_results: int, argument: str) -> Said:
        if num_results:
            return Said(turn("Both are there.", ANSWER))
        return Said(turn("Twice.", "I look twice.", _shell_call(request.tools), "\n", _shell_call(request.tools)))

    def _write(self, request: TurnRequest, num_results: int, argument: str) -> Said:
        if num_results:
            return Said(turn("Written.", "The file is written."))
        return Said(turn("I write it.", "", _write_call(request.tools, argument)))

    def _find(self, request: TurnRequest, num_results: int, argument: str) -> Said:
        """Looks for a tool that is offered later, and calls it."""
        offered = next((tool for tool in request.callable_tools if tool.name == argument), None)
        if num_results == 0:
            return Said(
                turn("I need another tool.", "", call("ToolSearch", query=f"select:{argument}", max_results="1"))
            )
        if num_results == 1 and offered is not None:
            return Said(turn("There it is.", "", call(argument, **_arguments(offered, "scenario-plain", ""))))
        return Said(turn("Done.", ANSWER))

    def _agent(self, request: TurnRequest, num_results: int, argument: str) -> Said:
        """Has another agent do it."""
        if num_results:
            return Said(turn("It is done.", ANSWER))
        tool = next(tool for tool in request.tools if _AGENTS.search(tool.name))
        return Said(turn("Someone else can do it.", "", call(tool.name, **_given_task(tool))))

    def _edit(self, request: TurnRequest, num_results: int, argument: str) -> Said:
        """In text, as Aider asks for it."""
        block = "<<<<<<< SEARCH\n    return x + x\n=======\n    return 2 * x\n>>>>>>> REPLACE"
        return Said(turn("One line.", f"{argument}\n```python\n{block}\n```\n"))

    def _think(self, request: TurnRequest, num_results: int, argument: str) -> Said:
        words = "".join(f"Thought number {number} of a long chain. " for number in range(400))
        return Said(turn(words, ANSWER), pause=0.002)

    def _slow(self, request: TurnRequest, num_results: int, argument: str) -> Said:
        return Said(turn("That took a while.", ANSWER), silence=float(argument or 30))

    def _overflow(self, request: TurnRequest, num_results: int, argument: str) -> Said:
        if self._asked["overflow", argument] <= self._num_failures - 1:
            raise overflow(70_000, 65_536)
        return self._plain(request, num_results, argument)

    def _full(self, request: TurnRequest, num_results: int, argument: str) -> Said:
        raise overflow(70_000, 65_536)

    def _busy(self, request: TurnRequest, num_results: int, argument: str) -> Said:
        if self._asked["busy", argument] <= self._num_failures:
            raise ApiError("overloaded", "2 requests wait, which is all that may: try again later", retry_after=1)
        return self._plain(request, num_results, argument)

    def _fails(self, request: TurnRequest, num_results: int, argument: str) -> Said:
        if self._asked["fails", argument] <= self._num_failures:
            return Said("I begin", error=ApiError("internal", "the server failed to answer this request"))
        return self._plain(request, num_results, argument)

    def _cut(self, request: TurnRequest, num_results: int, argument: str) -> Said:
        """Within a call, where the context ends."""
        if num_results or self._asked["cut", argument] > 1:
            return self._plain(request, num_results, argument)
        text = turn("I look.", "I begin. ", _shell_call(request.tools)).removesuffix("</function>\n</tool_call>")
        return Said(text.removesuffix("\n</parameter>\n"), finish_reason="context_length")


def _named(request: TurnRequest) -> tuple[int, str, str]:
    """The last message of the user's that names a scenario: its place, the scenario, and what follows the name."""
    for place, message in reversed(list(enumerate(request.messages))):
        if message["role"] == "user" and (found := _NAMED.findall(message["content"])):
            return place, *found[-1]
    return 0, "plain", ""


def _shell_call(tools: tuple[Tool, ...], command: str = "ls") -> str:
    """Of whichever tool runs commands; of the first, where none does."""
    tool = next((tool for tool in tools if _SHELLS.search(tool.name)), tools[0] if tools else None)
    return "(there are no tools)" if tool is None else call(tool.name, **_arguments(tool, command, ""))


def _given_task(tool: Tool) -> Mapping[str, str]:
    names = tool.parameters.get("properties", {})
    given = {"subagent_type": "general", "message": "Do scenario-plain"}
    return {
        **_arguments(tool, "Do scenario-plain", ""),
        **{name: text for name, text in given.items() if name in names},
    }


def _write_call(tools: tuple[Tool, ...], path: str) -> str:
    tool = next((tool for tool in tools if _WRITERS.match(tool.name)), None)
    return "(nothing writes)" if tool is None else call(tool.name, **_arguments(tool, _CONTENT, path))


def _arguments(tool: Tool, text: str, path: str) -> Mapping[str, str]:
    """A value for each parameter that must be given."""
    properties, given = tool.parameters.get("properties", {}), {}
    names = tool.parameters.get("required") or list(properties)[:1]
    for name in names:
        kind = properties.get(name, {}).get("type")
        if name == "input" and "patch" in tool.name:
            lines = "".join(f"+{line}\n" for line in text.splitlines())
            given[name] = f"*** Begin Patch\n*** Add File: {path}\n{lines}*** End Patch"
        elif "path" in name.lower():
            given[name] = path
        elif kind == "boolean":
            given[name] = "false"
        elif kind == "array":
            given[name] = json.dumps([text])
        elif kind in ("integer", "number"):
            given[name] = "10"
        else:
            given[name] = text
    return given
