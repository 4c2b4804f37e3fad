"""Hostile templates: nothing gets out of the sandbox, and nothing takes more than its share of time and memory."""

import contextlib
import time

import pytest

from stepahead.errors import RequestError
from stepahead.tokenizer import ChatTemplate, TemplateLimits

HI = [{"role": "user", "content": "hi"}]
# Small, so that what comes close to a limit is quick; the operations that would jump past one are the same.
LIMITS = TemplateLimits(text_chars=100_000, items=10_000, steps=50_000, seconds=60.0)

GROW = "{% set ns = namespace(x='abcd', y='abcd') %}{% for i in range(99) %}"
NEST = "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}"
NEST += "{% set ns.y = [ns.y, ns.y] %}{% endfor %}"
KEEP = "{% set ns = namespace(l=[]) %}{% set big = 'a' * 90000 %}{% for i in range(9999) %}{% set ns.l = ns.l + "

ESCAPES = [
    "{{ ''.__class__.__mro__ }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='x') }}",
    "{{ raise_exception.__globals__.keys() }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ '{0.__class__.__mro__}'.format(1) }}",
    "{{ '{x.__class__.__mro__}'.format_map({'x': 1}) }}",
    "{{ ('a'|attr('__class__'))() }}",
    "{% set ns = namespace(__class__=1) %}",
    "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ lipsum() }}",
]

TOO_MUCH = {
    "text of more": [
        "{{ 'a' * 10 ** 9 }}",
        "{{ 1000000000 * 'a' }}",
        "{{ 'a'|center(1000000000) }}",
        "{{ 'a'|center(width=10 ** 9) }}",
        "{% filter center(1000000000) %}a{% endfilter %}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ '1'.zfill(1000000000) }}",
        "{{ ('a' * 1000)|replace('', 'b' * 1000) }}",
        "{{ ('a' * 1000).replace('', 'b' * 1000) }}",
        "{{ (['a' * 1000] * 1000)|join }}",
        "{{ range(1000)|join('a' * 1000) }}",
        "{{ ''.join(['a' * 1000] * 1000) }}",
        "{{ ('a' * 1000).join('a' * 1000) }}",
        "{{ ('\\n' * 1000)|indent(1000) }}",
        "{{ ('\\n' * 1000)|indent('a' * 1000) }}",
        "{{ '%s%s' % ('a' * 90000, 'b' * 90000) }}",
        "{{ ['a' * 1000] * 1000 }}",
        "{{ ('{}' * 1000).format(*range(1000)) }}",
        GROW + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        GROW + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
        GROW + "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
        GROW + "{% set ns.x = [ns.x, ns.x]|string %}{% endfor %}",
        GROW + "{% set ns.x = '%s%s'|format(ns.x, ns.x) %}{% endfor %}",
        "{% macro d(x, n) %}{{ d(x ~ x, n - 1) if n else x }}{% endmacro %}{{ d('abcd', 40) }}",
        "{{ range(9000)|list|tojson(indent=64) }}",
        NEST + "{{ ns.x }}",
        NEST + "{{ ns.x|tojson }}",
        NEST + "{{ ns.x ~ '' }}",
        NEST + "{{ ns.x == ns.y }}",
        NEST + "{{ ns.x is eq(ns.y) }}",
        NEST + "{{ [ns.x]|unique|list }}",
        NEST + "{{ [ns.x].index(ns.y) }}",
        NEST + "{% for i in [ns.x, ns.y] %}{{ loop.changed(i) }}{% endfor %}",
        "{{ ('[1],' * 9000)|fromjson }}",
    ],
    "characters": [
        "{% for i in range(9999) %}" + "x" * 1000 + "{% endfor %}",
        "{% for i in range(9999) %}{{ messages }}{% endfor %}",
    ],
    "characters in all": [
        KEEP + "[big[1:]] %}{% endfor %}",
        KEEP + "[big|upper] %}{% endfor %}",
        KEEP + "[big.upper()] %}{% endfor %}",
        KEEP + "[big ~ i] %}{% endfor %}",
        "{{ range(9999)|map('center', 1000)|list|length }}",
        "{{ ''.join(range(9999)|map('string')|map('center', 1000)) }}",
        "{% macro f() %}" + "x" * 90_000 + "{% endmacro %}" + KEEP + "[f()] %}{% endfor %}",
    ],
    "list of more": [
        "{{ [0] * 10 ** 9 }}",
        "{{ (0,) * 1000000000 }}",
        "{{ [1]|batch(1000000000, 0)|list }}",
        "{{ [1]|slice(1000000000)|list }}",
        "{{ ('a ' * 30000).split() }}",
        "{{ ('a,' * 30000).split(',') }}",
        "{{ range(20000)|list }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    ],
    "list items in all": [
        "{% for i in range(99) %}{{ [1]|batch(9999, 0)|list|length }}{% endfor %}",
        KEEP + "[range(9999)|list] %}{% endfor %}",
        KEEP + "[messages * 9999] %}{% endfor %}",
    ],
    "4096 bits": [
        "{{ 10 ** (10 ** 10) }}",
        "{% set ns = namespace(x=3) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    ],
    "pads a field": [
        "{{ '%1000000000d' % 1 }}",
        "{{ '%1000000000d'|format(1) }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%(a)1000000000d' % {'a': 1} }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 1000000000) }}",
        "{{ '{x:>1000000000}'.format_map({'x': 1}) }}",
    ],
    "steps": [
        "{% set ns = namespace(x=(1,)) %}{% for i in range(40) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}"
        "{{ {ns.x: 1} }}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) if false %}{% endfor %}",
        "{% macro f() %}{% endmacro %}{% for a in range(9999) %}{{ f() }}{{ f() }}{{ f() }}{{ f() }}{% endfor %}",
        "{{ range(99999)|map('upper')|select('none')|first }}",
    ],
    "deeper than 64": [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    ],
    "more than 64 characters": [
        "{{ [1]|tojson(indent=1000000000) }}",
        "{{ [1]|tojson(separators=('a' * 1000, ':')) }}",
    ],
    "more than 100 digits": ["{{ 1.5|round(1000000000, 'ceil') }}"],
    "other than numbers": ["{{ [[1], [2]]|sum(start=[]) }}"],
}
PASSES = [(message, source) for message, sources in TOO_MUCH.items() for source in sources]


@pytest.mark.parametrize("source", ESCAPES)
def test_no_way_out(source):
    with pytest.raises(RequestError, match=r"unsafe|undefined|not safely"):
        ChatTemplate(source).render(HI)


def test_bytes_are_out_of_reach():
    for source in ("{{ (1).to_bytes(1000000000, 'big') }}", "{{ 'a'.encode() }}", "{{ 'a'.translate({97: 'b'}) }}"):
        with pytest.raises(RequestError, match="unsafe"):
            ChatTemplate(source).render(HI)


@pytest.mark.parametrize(("message", "source"), PASSES)
def test_too_much(message, source):
    template = ChatTemplate(source, limits=LIMITS)
    start = time.perf_counter()
    with pytest.raises(RequestError, match=message):
        template.render(HI)
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize(
    "source", [source for message, source in PASSES if message in ("text of more", "list of more")][:20]
)
def test_too_much_of_the_default_limits_is_refused_at_once(source):
    start = time.perf_counter()
    with contextlib.suppress(RequestError):
        ChatTemplate(source).render(HI)
    assert time.perf_counter() - start < 5


def test_slow_operations_end_at_the_deadline():
    source = "{% set l = range(9999)|list %}{% for i in range(99999) %}{{ -1 in l }}{% endfor %}"
    start = time.perf_counter()
    with pytest.raises(RequestError, match=r"more than 0\.2 s"):
        ChatTemplate(source, limits=TemplateLimits(seconds=0.2)).render(HI)
    assert time.perf_counter() - start < 5


def test_what_templates_really_do_is_far_from_the_limits():
    source = "{% for m in messages %}{{ '<' ~ m.role ~ '>' + m.content.strip() if m.role == 'user' }}{% endfor %}"
    messages = [{"role": "user", "content": "x" * 1000} for _ in range(5000)]
    assert len(ChatTemplate(source).render(messages)) == 5000 * 1006


def test_renderings_do_not_share_a_meter():
    template = ChatTemplate("{% for i in range(40000) %}{% endfor %}ok", limits=LIMITS)
    assert [template.render(HI) for _ in range(3)] == ["ok"] * 3
