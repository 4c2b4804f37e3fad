"""Which tensor gets which type, on a model of the published number of layers."""

import re
from collections import Counter
from collections.abc import Callable

import pytest

from stepahead.errors import ConfigError
from stepahead.gguf import GGUFFile, QuantType
from stepahead.quantize.mix import ALIASES, FALLBACKS, MIXES, find_mix, fitting
from stepahead.quantize.override import Override, parse_type
from stepahead.quantize.plan import Plan, Request, make_plan

PLAIN = ("F32", "F16", "BF16")
Planner = Callable[..., Plan]


@pytest.fixture
def plan(published) -> Planner:
    def make(mix: str, *overrides: str, **changes: object) -> Plan:
        file = GGUFFile.open(published)
        return make_plan(file, Request(find_mix(mix), tuple(map(Override.parse, overrides)), **changes))

    return make


def types(plan: Plan) -> dict[str, str]:
    return {tensor.info.name: tensor.type.name for tensor in plan.tensors}


def layers(plan: Plan, name: str, type: str) -> list[int]:
    """Layers whose `name` has this type."""
    found = [re.fullmatch(rf"blk\.(\d+)\.{name}\.weight", t.info.name) for t in plan.tensors if t.type.name == type]
    return [int(match[1]) for match in found if match]


# 45 // 8 = 5 and 7 * 45 // 8 = 39: the ends, 7, 10, … between, and the heads from 45 on.
RAISED = [*range(5), *range(7, 39, 3), *range(39, 48)]


@pytest.mark.parametrize(("mix", "base"), [("Q4_K_M", "Q4_K"), ("Q5_K_M", "Q5_K")])
def test_the_m_mixes_raise_both_ends_and_every_third(plan: Planner, mix: str, base: str) -> None:
    made = plan(mix)
    assert layers(made, "attn_v", "Q6_K") == RAISED
    assert layers(made, "ffn_down_exps", "Q6_K") == [layer for layer in RAISED if 3 <= layer < 45]
    assert layers(made, "ffn_down", "Q6_K") == [0, 1, 2, 45, 46, 47]
    assert layers(made, "ffn_up_exps", base) == list(range(3, 45))
    assert layers(made, "attn_output", base) == list(range(48))


def test_the_small_mixes(plan: Planner) -> None:
    assert layers(plan("Q4_K_S"), "attn_v", "Q5_K") == [0, 1, 2, 3]
    assert layers(plan("Q4_K_S"), "ffn_down_exps", "Q5_K") == [3, 4]
    assert layers(plan("Q2_K_S"), "ffn_down_exps", "Q4_K") == [3, 4]
    assert layers(plan("Q2_K"), "attn_v", "Q4_K") == list(range(48))
    assert layers(plan("Q2_K"), "attn_output", "Q3_K") == list(range(48))
    assert layers(plan("Q3_K_M"), "attn_v", "Q5_K") == [0, 1]
    assert layers(plan("Q3_K_M"), "ffn_down", "Q5_K") == [0, 1]  # 45 // 16 = 2
    assert layers(plan("Q3_K_L"), "attn_output", "Q5_K") == list(range(48))
    assert layers(plan("IQ4_XS"), "attn_v", "Q5_K") == list(range(48))
    assert layers(plan("IQ4_XS"), "ffn_down_exps", "Q5_K") == [3, 4]


@pytest.mark.parametrize("name", sorted(MIXES))
def test_every_mix(plan: Planner, name: str) -> None:
    made = plan(name)
    found = types(made)
    expected = MIXES[name].base.name if name in (*PLAIN, "Q8_0", "MXFP4") else "Q6_K"
    assert found["output.weight"] == expected
    assert found["token_embd.weight"] == MIXES[name].base.name
    assert {found[f"blk.9.{kept}"] for kept in ("ffn_gate_inp.weight", "exp_probs_b.bias", "attn_norm.weight")} == {
        "F32"
    }
    # The type that names the mix is that of most numbers.
    counts = Counter(t.type.name for t in made.tensors if "_exps" in t.info.name)
    assert counts.most_common(1)[0][0] == ("MXFP4" if name == "MXFP4" else MIXES[name].base.name)


def test_experts_alone_are_mxfp4(plan: Planner) -> None:
    made = plan("MXFP4")
    for tensor in made.tensors:
        if tensor.reason != "kept":
            assert tensor.type.name == ("MXFP4" if "_exps" in tensor.info.name else "Q8_0")


@pytest.mark.parametrize("name", ["Q4_K_M", "Q2_K", "Q6_K", "IQ4_NL"])
def test_eh_proj_is_at_least_q8_0(plan: Planner, name: str) -> None:
    assert layers(plan(name), "nextn.eh_proj", "Q8_0") == [45, 46, 47]
    assert layers(plan(name, heads_type=QuantType.Q4_0), "nextn.eh_proj", "Q8_0") == [45, 46, 47]
    assert layers(plan(name, heads_type=QuantType.F16), "nextn.eh_proj", "F16") == [45, 46, 47]
    assert layers(plan(name, is_pure=True), "nextn.eh_proj", find_mix(name).base.name) == [45, 46, 47]
    assert layers(plan(name, "eh_proj=Q4_K"), "nextn.eh_proj", "Q4_K") == [45, 46, 47]


def test_heads_type(plan: Planner) -> None:
    made = plan("Q4_K_M", heads_type=QuantType.Q8_0)
    assert layers(made, "attn_q", "Q8_0") == [45, 46, 47]
    assert layers(made, "nextn.shared_head_head", "Q8_0") == [45, 46, 47]
    assert layers(made, "attn_q", "Q4_K") == list(range(45))


def test_pure_is_one_type(plan: Planner) -> None:
    assert {t.type.name for t in plan("Q4_K_M", is_pure=True).tensors if t.reason != "kept"} == {"Q4_K"}


def test_overrides_are_patterns_and_the_last_wins(plan: Planner) -> None:
    found = types(plan("Q4_K_M", "ffn_down_exps=Q6_K", r"blk\.(3|4)\.ffn_.*_exps=q8_0", "output=F16"))
    assert found["blk.3.ffn_down_exps.weight"] == "Q8_0"
    assert found["blk.4.ffn_up_exps.weight"] == "Q8_0"
    assert found["blk.5.ffn_down_exps.weight"] == "Q6_K"
    assert found["blk.5.ffn_up_exps.weight"] == "Q4_K"
    assert found["output.weight"] == found["blk.0.attn_output.weight"] == "F16"
    assert found["output_norm.weight"] == "F32"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ffn_dwn=Q6_K", "matches none"),
        ("attn_norm=Q6_K", "matches none"),
        ("ffn_down", "PATTERN=TYPE"),
        ("=Q6_K", "PATTERN=TYPE"),
        ("(=Q6_K", "no regular expression"),
        ("ffn_down=Q6", "no tensor type 'Q6'"),
        ("ffn_down=IQ2_XXS", "read, not written"),
    ],
)
def test_wrong_overrides_are_refused(plan: Planner, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        plan("Q4_K_M", override)


def test_names() -> None:
    for alias, name in ALIASES.items():
        assert find_mix(alias.lower()).name == name
    with pytest.raises(ConfigError, match="Q4_K_M"):
        find_mix("Q4")
    assert parse_type("q6_k") is QuantType.Q6_K


def test_fallbacks_have_blocks_of_32_and_no_fewer_bits() -> None:
    for wanted, instead in FALLBACKS.items():
        assert (wanted.block_size, instead.block_size) == (256, 32)
        assert instead.nbytes((256,)) >= wanted.nbytes((256,))
        assert fitting(wanted, 512) is wanted
        assert fitting(wanted, 288) is instead
        assert fitting(wanted, 40) is QuantType.F16
    assert fitting(QuantType.Q8_0, 40) is QuantType.F16
    assert fitting(QuantType.F32, 40) is QuantType.F32
