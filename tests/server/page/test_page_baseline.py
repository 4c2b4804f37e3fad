"""What browsers of the page must know: Firefox 128 and Safari 16. Whatever is younger than either is listed here, and
the page's files may not use it; what a browser may lack without harm (marks, thin scroll bars) is not listed.

A script with syntax that a browser does not know does not run at all, so these are found by reading, not by trying.
"""

import re
from importlib import resources

import pytest

# Kind of file, pattern, a sample that it must find. Versions: the first of Firefox and of Safari that know it.
YOUNG = [
    ("js", r"\(\?<[=!]", "/(?<=a)b/"),  # 78, 16.4
    ("js", r"\(\?[ims]*-?[ims]+:", "/(?i:a)/"),  # 132, none
    ("js", r"[\w\])}*+?$]/[dgimsuy]*v[dgimsuy]*[,;.)]", "/a/v.test(b)"),  # 116, 17
    ("js", r"\bstatic\s*\{", "static { x(); }"),  # 93, 16.4
    ("js", r"\busing\s+\w+\s*=", "using file = open();"),  # 141, none
    ("js", r"\bimport\b.*\bwith\s*\{", 'import a from "b" with { type: "json" }'),  # 138, 17.2
    ("js", r"\b(?:values|entries|keys)\(\)\s*\.(?!next\b)", "map.values().map(f)"),  # 131, 18.4
    ("js", r"\bIterator\.", "Iterator.from(a)"),  # 131, 18.4
    ("js", r"\.(?:union|intersection|difference|isSubsetOf|isSupersetOf)\(", "a.union(b)"),  # 127, 17
    ("js", r"\bArray\.fromAsync\b", "Array.fromAsync(a)"),  # 115, 16.4
    ("js", r"\b(?:Object|Map)\.groupBy\b", "Object.groupBy(a, f)"),  # 119, 17.4
    ("js", r"\bPromise\.(?:withResolvers|try)\b", "Promise.withResolvers()"),  # 121, 17.4
    ("js", r"\b(?:RegExp\.escape|Math\.sumPrecise|Error\.isError)\b", "RegExp.escape(a)"),  # 134, 18.2
    ("js", r"\bUint8Array\.from(?:Base64|Hex)\b", "Uint8Array.fromBase64(a)"),  # 133, 18.2
    ("js", r"\b(?:is|to)WellFormed\b", "a.isWellFormed()"),  # 119, 16.4
    ("js", r"\bAbortSignal\.any\b", "AbortSignal.any([a, b])"),  # 124, 17.4
    ("js", r"for await \([^)]* of \w*[.]?body\b", "for await (const part of response.body)"),  # 110, none
    ("js", r"\bcheckVisibility\b", "a.checkVisibility()"),  # 106, 17.4
    ("js", r"\brequestIdleCallback\b|\bscheduler\.", "scheduler.yield()"),  # 142, none
    ("js", r"\b(?:show|hide|toggle)Popover\b|\brequestClose\(", "a.showPopover()"),  # 125, 17
    ("js", r"\bstartViewTransition\b|\bmoveBefore\b", "document.startViewTransition(f)"),  # 144, 18
    ("js", r"\bCompressionStream\b|\bOffscreenCanvas\b", "new CompressionStream('gzip')"),  # 113, 16.4
    # Only where the connection is secure, and the page may be asked for over plain HTTP.
    ("js", r"\brandomUUID\b|\bcrypto\.subtle\b|\bserviceWorker\b|\bnavigator\.storage\b", "crypto.randomUUID()"),
    ("css", r"\blight-dark\(", "color: light-dark(red, blue)"),  # 120, 17.5
    ("css", r"\bcolor-mix\(|\brgb\(from\b", "color: color-mix(in srgb, red, blue)"),  # 113, 16.2
    ("css", r"(?m)^\s*&|[{};]\s*&", ".a { & .b { color: red } }"),  # 117, 16.5
    ("css", r"@(?:scope|starting-style|property|view-transition|function)\b", "@scope (.a) {"),  # 128, 16.4
    ("css", r"\bfield-sizing\b|\binterpolate-size\b|\bcalc-size\(", "field-sizing: content"),  # none, none
    ("css", r"(?<![\w-])anchor(?:-name|-size)?\b|\bposition-(?:anchor|area)\b", "anchor-name: --a"),  # 147, 26
    ("css", r"\banimation-timeline\b|\bview-transition-name\b", "animation-timeline: scroll()"),  # none, 26
    ("css", r"\btransition-behavior\b|\ballow-discrete\b", "transition-behavior: allow-discrete"),  # 129, 17.4
    ("css", r"(?<![\w-])linear\(", "transition: all 1s linear(0, 1)"),  # 112, 17.2
    ("css", r"\(\s*(?:width|height)\s*[<>]", "@media (width <= 760px)"),  # 63, 16.4
    ("css", r"\d(?:r?lh)\b", "height: 2lh"),  # 120, 16.4
    ("css", r":popover-open|:open\b|:user-(?:in)?valid|::details-content|:state\(", ".a:open"),  # 136, none
    ("css", r"(?<!-webkit-)\b(?:user-select|backdrop-filter)\s*:", "user-select: none"),  # Safari: prefixed
    ("html", r"\bpopover\b|\bcommandfor\b|\bclosedby\b|<details[^>]* name=", "<div popover>"),  # 125, 17
    ("html", r"\binert\b|<search>|<selectedcontent", "<search>"),  # 118, 17
]


@pytest.mark.parametrize(("kind", "pattern", "sample"), YOUNG)
def test_nothing_young_is_used(kind: str, pattern: str, sample: str):
    assert re.search(pattern, sample)
    for entry in resources.files("stepahead.server").joinpath("web").iterdir():
        if entry.name.endswith(f".{kind}"):
            found = re.search(pattern, entry.read_text(encoding="utf-8"))
            assert found is None, f"{entry.name}: {found[0] if found else ''}"
