"""`bench`: the same text at every depth, recorded texts and forced acceptance, and figures that can be checked."""

import hashlib
import json
import xml.etree.ElementTree

import pytest

from stepahead import LLM, RequestError, SamplingParams, Speculation
from stepahead.cli.bench_cases import TextOptions, make_groups, parse_depths, parse_kinds, parse_rates
from stepahead.cli.bench_rounds import Case, Choice, Row, Setting, choice, measure
from stepahead.errors import ConfigError
from stepahead.texts import KINDS
from support.random_step35 import Shape, write_model

REF = ("--device", "reference")
# As few weights as may be: texts of thousands of bytes are read by a model of which a token is a byte.
TINY = Shape(hidden=32, head_dim=16, num_trunk=2, num_experts=4, width=64, vocab=300, full_period=2)


@pytest.fixture(scope="module")
def flags():
    return (*REF, "-p", "def f", "--max-tokens", 12, "--rounds", 2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("bench") / "tiny.gguf", TINY)


def row(name: str, *rates: float) -> Row:
    phases = dict.fromkeys(("forward", "verify", "propose", "commit"), 1.0)
    middle = sorted(rates)[len(rates) // 2]
    return Row(name, 10, middle, list(rates), 1.0, 1.0, [], {}, {}, phases, True)


def test_it_measures_plain_each_depth_and_auto(cli, model_path, flags):
    result = cli("bench", model_path("f32"), *flags, "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert [row["name"] for row in found["rows"]] == ["plain", "1", "2", "3", "auto"]
    assert all(row["is_same_text"] for row in found["rows"])
    plain, *_, deepest, _ = found["rows"]
    assert plain["ratio_to_plain"] == plain["tokens_per_step"] == 1.0
    assert plain["acceptance"] == []
    assert len(deepest["acceptance"]) == 3
    assert deepest["tokens_per_step"] > 1.0
    assert deepest["accepted_by_source"]["mtp"] < deepest["drafted_by_source"]["mtp"]
    assert len(deepest["tokens_per_second_by_round"]) == 2
    assert set(deepest["milliseconds"]) == {"forward", "verify", "propose", "commit"}
    assert found["best_fixed"] in ("plain", "1", "2", "3")
    assert found["auto_to_best_fixed"] > 0
    assert (found["max_tokens"], found["num_prompts"], found["rates"]) == (12, 1, None)
    with LLM(model_path("f32"), device="reference") as llm:
        logits = llm.logits(llm.tokenize("def f"))
    assert found["logits_hash"] == hashlib.sha256(logits.tobytes()).hexdigest()[:16]


def test_the_table_has_its_columns_and_the_hash(cli, model_path, flags):
    result = cli("bench", model_path("f32"), *flags, "--depths", "2")
    assert result.code == 0, result.err
    assert "logits hash" in result.out
    for column in ("tokens/s", "gain", "trunk", "draft ms", "same"):
        assert column in result.out
    assert "best fixed" not in result.out  # auto was not asked for
    assert "of the best fixed depth" in cli("bench", model_path("f32"), *flags, "--depths", "auto").out


def test_a_model_without_heads_decodes_plainly(cli, model_path, flags):
    found = json.loads(cli("bench", model_path("f32", "trunk"), *flags, "--json").out)
    assert [row["name"] for row in found["rows"]] == ["plain"]
    assert found["auto_to_best_fixed"] is None


def test_auto_is_compared_with_the_fastest_fixed_setting_round_by_round():
    rows = [row("plain", 10, 10, 10), row("1", 20, 10, 30), row("copy", 90, 90, 90), row("auto", 22, 9, 30)]
    assert choice(rows) == Choice("1", 1.0)  # of 1.1, 0.9 and 1.0
    assert choice([row("plain", 50, 50, 50), *rows[1:]]) == Choice("plain", 0.44)
    assert choice(rows[:3]) is None


def test_every_run_reads_its_prompt_itself(tiny):
    with LLM(tiny, threads=1, max_num_seqs=1) as llm:
        case = Case("a prompt of some tokens", 8)
        plain = Setting("plain", Speculation("off"))
        measure(llm, [case], SamplingParams(ignore_eos=True), [plain, plain], 2, lambda done, total: None)
        assert llm.metrics.num_prompt_tokens == 6 * len(llm.tokenize(case.prompt))
        assert llm.metrics.num_reused_tokens == 0


# --- kinds ---
def test_each_kind_has_its_table_and_its_figures(cli, tiny, tmp_path):
    picture = tmp_path / "kinds.svg"
    flags = ("bench", tiny, "--kinds", "prose,edit", "--max-tokens", 5, "--rounds", 1)
    result = cli(*flags, "--json", "--plot", picture)
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert list(found["kinds"]) == ["prose", "edit"]
    for kind in found["kinds"].values():
        names = [row["name"] for row in kind["rows"]]
        assert names[:4] == ["plain", "1", "2", "3"] and names[-1] == "auto"
        assert kind["num_prompts"] == 3
        assert kind["auto_to_best_fixed"] > 0
        assert kind["rows"][0]["num_tokens"] == 3 * 4  # the first token of a text belongs to its prompt
    drawn = xml.etree.ElementTree.fromstring(picture.read_bytes())
    texts = {node.text for node in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {"Speed", "Acceptance", "Time of a step, prose", "plain", "auto", "edit"} <= texts
    shown = cli(*flags, "--depths", "auto").out
    assert "prose: 3 texts, 12 tokens" in shown
    assert "auto / best" in shown


def test_kinds_are_taken_once_and_in_the_order_given():
    assert parse_kinds("json, code,json") == ["json", "code"]
    assert parse_kinds("all") == list(KINDS)
    with pytest.raises(ConfigError, match="'poem'"):
        parse_kinds("code,poem")


def test_recordings_are_played_to_their_end_and_the_model_writes_96_tokens():
    edit, prose = make_groups(TextOptions(kinds="edit,prose"))
    assert all(case.max_tokens is None and case.recording for case in edit.cases)
    assert all(case.max_tokens == 96 and case.recording is None for case in prose.cases)
    assert all(
        case.max_tokens == 7 for group in make_groups(TextOptions(kinds="all", max_tokens=7)) for case in group.cases
    )
    (group,) = make_groups(TextOptions())
    assert len(group.cases) == 3


# --- replay ---
def test_a_recorded_text_is_what_every_setting_gives(cli, tiny, tmp_path):
    (tmp_path / "old.py").write_text("x = 1\n" * 5)
    (tmp_path / "new.py").write_text("y = 1\n" * 6)
    flags = ("bench", tiny, "--file", tmp_path / "old.py", "--replay", tmp_path / "new.py", "--rounds", 1)
    result = cli(*flags, "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert all(row["num_tokens"] == 35 for row in found["rows"])
    assert all(row["is_same_text"] for row in found["rows"])
    assert found["max_tokens"] is None
    again = json.loads(cli(*flags, "--json", "--max-tokens", 20, "--depths", "1").out)
    assert [row["num_tokens"] for row in again["rows"]] == [19, 19]
    assert cli(*flags).code == 0


def test_forced_acceptance_is_what_was_asked_for(cli, tiny):
    flags = ("bench", tiny, "-p", "abc", "--synth-rates", "0.8,.6,.4", "--max-tokens", 800, "--rounds", 1)
    result = cli(*flags, "--json", "--depths", "1,3")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["rates"] == [0.8, 0.6, 0.4]
    assert found["rows"][1]["acceptance"] == pytest.approx([0.8], abs=0.05)
    assert found["rows"][2]["acceptance"] == pytest.approx([0.8, 0.6, 0.4], abs=0.08)
    assert "acceptance forced to 80 60 40 %" in cli(*flags, "--depths", "1").out


# --- refusals ---
def test_depths_are_sorted_and_named():
    assert parse_depths("3, 1,0") == ["1", "3"]
    assert parse_depths("auto,2,copy") == ["2", "copy", "auto"]
    with pytest.raises(ConfigError, match="'1,x'"):
        parse_depths("1,x")


def test_rates_are_shares_that_fall():
    assert parse_rates(".8,0.6") == (0.8, 0.6)
    with pytest.raises(ConfigError, match="'high'"):
        parse_rates("high")
    for wrong in ("1.2", ".5,.6", "nan", "-1"):
        with pytest.raises(RequestError, match=r"rates\["):
            parse_rates(wrong)


REFUSED = [
    (("--depths", "7"), "depth=7"),
    (("--rounds", 0), "--rounds 0"),
    (("--max-tokens", 1), "--max-tokens 1"),
    (("--kinds", "poem"), "'poem'"),
    (("--kinds", "code", "-p", "x"), "--kinds code"),
    (("--kinds", "code", "--replay", "x"), "--kinds code"),
    (("--replay", "x"), "--file ORIGINAL or -p TEXT"),
    (("--replay", "nowhere.txt", "-p", "x"), "nowhere.txt"),
    (("--replay", "-", "--file", "-"), "both read standard input"),
    (("--synth-rates", "a"), "--synth-rates 'a'"),
    (("--synth-rates", "2"), "rates[0]=2"),
    (("--plot", "x.pdf"), "x.pdf"),
]


@pytest.mark.parametrize(("wrong", "fragment"), REFUSED)
def test_what_cannot_be_measured_is_refused_in_one_line(cli, tiny, wrong, fragment):
    result = cli("bench", tiny, *wrong)
    assert result.code == 2
    assert fragment in result.err
    assert result.err.count("\n") == 1


def test_texts_that_leave_nothing_to_time_are_refused(cli, model_path, tmp_path):
    full = cli("bench", model_path("f32", context=32), *REF, "-p", "a" * 31, "--rounds", 1)
    assert full.code == 2
    assert "no room to decode in a context of 32" in full.err
    (tmp_path / "one.txt").write_text("a")
    one = cli("bench", model_path("f32"), *REF, "-p", "a", "--replay", tmp_path / "one.txt", "--rounds", 1)
    assert one.code == 2
    assert "a recording of one token" in one.err
    heads = cli("bench", model_path("f32", "trunk"), *REF, "-p", "a", "--synth-rates", ".5")
    assert heads.code == 2
    assert "this model has none" in heads.err
