"""The page's reader of code, called in the browser."""

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

READ = """async ([name, text]) => {
    const { highlightLine, languageOf } = await import("/ui/highlight.js");
    let state = null;
    return text.split("\\n").map((line) => {
        const read = highlightLine(languageOf(name), line, state);
        state = read.state;
        return read.tokens;
    });
}"""


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("python", 'x = f"""a\nb # c""" # d', [("s", 'f"""a'), ("s", 'b # c"""'), ("c", "# d")]),
        ("py", "@cache\ndef f(x: int) -> None:", [("f", "@cache"), ("k", "def"), ("f", "f"), ("t", "None")]),
        ("js", "const a = `x ${1}\ny`; // z", [("k", "const"), ("s", "`x ${1}"), ("s", "y`"), ("c", "// z")]),
        ("ts", "let s: string = 'it\\'s';", [("k", "let"), ("t", "string"), ("s", r"'it\'s'")]),
        ("json", '{"a": [1.5e3, "b", null]}', [("a", '"a"'), ("n", "1.5e3"), ("s", '"b"'), ("t", "null")]),
        ("bash", 'if [ "$X" ]; then echo ${#Y} # n',
         [("k", "if"), ("s", '"$X"'), ("k", "then"), ("a", "${#Y}"), ("c", "# n")]),
        ("cpp", "#include <a>\nint x = 0xFFu; /* a\nb */",
         [("k", "#include"), ("t", "int"), ("n", "0xFFu"), ("c", "/* a"), ("c", "b */")]),
        ("rust", "fn f<'a>(c: char) { let d = 'x'; }", [("k", "fn"), ("t", "char"), ("k", "let"), ("s", "'x'")]),
        ("go", "func main() { s := `a\nb` }", [("k", "func"), ("f", "main"), ("s", "`a"), ("s", "b`")]),
        ("java", "final String s = \"a\";", [("k", "final"), ("t", "String"), ("s", '"a"')]),
        ("sql", "SELECT a FROM t -- all", [("k", "SELECT"), ("k", "FROM"), ("c", "-- all")]),
        ("yaml", "key: 'v' # c\n- url: http://x#y", [("a", "key"), ("s", "'v'"), ("c", "# c"), ("a", "url")]),
        ("css", ".a { color: red; } /* x */", [("t", ".a"), ("a", "color"), ("c", "/* x */")]),
        ("html", '<p class="a">b</p><!-- c\nd -->',
         [("t", "<p"), ("a", "class"), ("s", '"a"'), ("t", ">"), ("t", "</p"), ("t", ">"), ("c", "<!-- c"),
          ("c", "d -->")]),
        ("diff", "@@ 1 @@\n+a\n-b\n c", [("f", "@@ 1 @@"), ("i", "+a"), ("d", "-b")]),
        ("nonsense", "if x: # y", []),
    ],
)  # fmt: skip
def test_code_is_read(workbench, name: str, text: str, expected: list[tuple[str, str]]):
    lines = workbench.evaluate(READ, [name, text])
    assert "\n".join("".join(part for _, part in line) for line in lines) == text
    kinds = [(kind, part) for line in lines for kind, part in line if kind]
    assert [token for token in kinds if token in expected] == expected


@pytest.mark.parametrize(
    "name", ["py", "js", "json", "sh", "c", "rust", "go", "java", "sql", "yaml", "css", "html", "ruby", "diff"]
)
def test_nothing_is_lost_of_any_text(workbench, name: str):
    """Every two characters in a row, in every language: no loop without end, no character gone."""
    signs = "\"'`\\/*#-<>!=&$@{}[]()+.,:;%^~|?_ a0Zé\t"
    text = "\n".join(a + "".join(b + a for b in signs) for a in signs)
    lines = workbench.evaluate(READ, [name, text])
    assert "\n".join("".join(part for _, part in line) for line in lines) == text
