"""A second oracle for the trunk: transformers' Step-3.7 text model with random weights, saved as the hub has it.

(Its generic MTP path feeds normed rows to the heads and is no reference for them.)
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from stepahead.convert import convert
from support.backends import load
from support.hub_checkpoint import tokenizer_json
from support.random_step35 import Shape

torch = pytest.importorskip("torch", reason="needs torch: make test EXTRAS=oracle")
pytest.importorskip("transformers.models.step3p7", reason="needs transformers: make test EXTRAS=oracle")

NUM_LAYERS, VOCAB = 6, 320
IDS = list(range(3, 70))  # four windows


def hub_config() -> dict:
    """The keys and forms of the published config.json, small."""
    is_full = [index % 4 == 0 for index in range(NUM_LAYERS)]
    heads = {"attention_type": "sliding_attention", "num_attention_heads": 6, "num_attention_groups": 2, "head_dim": 32}
    return {
        "model_type": "step3p5",
        "hidden_size": 64,
        "num_hidden_layers": NUM_LAYERS,
        "num_nextn_predict_layers": 0,
        "num_attention_heads": 4,
        "num_attention_groups": 2,
        "head_dim": 32,
        "attention_other_setting": heads,
        "intermediate_size": 96,
        "moe_layers_enum": ",".join(map(str, range(1, NUM_LAYERS))),
        "moe_num_experts": 6,
        "moe_top_k": 2,
        "moe_intermediate_size": 48,
        "share_expert_dim": 48,
        "moe_router_activation": "sigmoid",
        "use_moe_router_bias": True,
        "need_fp32_gate": True,
        "moe_router_scaling_factor": 3.0,
        "norm_expert_weight": True,
        "vocab_size": VOCAB,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "sliding_window": 16,
        "layer_types": ["full_attention" if full else "sliding_attention" for full in is_full],
        "rope_theta": [5e6 if full else 1e4 for full in is_full],
        "partial_rotary_factors": [0.5 if full else 1.0 for full in is_full],
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 2.0,
            "original_max_position_embeddings": 64,  # published: 131072 and 32; so the ramp lies within IDS
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
        "yarn_only_types": ["full_attention"],
        "swiglu_limits": [0] * (NUM_LAYERS - 1) + [0.7],
        "swiglu_limits_shared": [0] * (NUM_LAYERS - 1) + [0.9],
        "zero_centered": True,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": [1, 2],
    }


def random_model():
    from transformers.models.step3p7.configuration_step3p7 import Step3p7Config
    from transformers.models.step3p7.modeling_step3p7 import Step3p7ForConditionalGeneration

    vision = {"hidden_size": 32, "width": 32, "layers": 1, "heads": 2, "image_size": 28, "patch_size": 14}
    model = Step3p7ForConditionalGeneration(Step3p7Config(text_config=hub_config(), vision_config=vision)).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.1 if "norm" in name else 1.0 if "embed" in name else parameter.shape[-1] ** -0.5
            parameter.normal_(0, spread)
        for name, buffer in model.named_buffers():
            if "e_score_correction_bias" in name:
                buffer.normal_(0, 0.05)
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """(a folder as transformers saves it, transformers' logits for IDS)."""
    torch.set_num_threads(1)
    folder, model = tmp_path_factory.mktemp("hub"), random_model()
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(Shape(vocab=VOCAB))))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([IDS])).logits[0].numpy()
    return folder, logits


@pytest.mark.parametrize("is_published_form", [False, True], ids=["config of transformers", "config of the hub"])
@pytest.mark.parametrize("backend", ["reference", "cpu-avx2"])
def test_trunk_logits(
    checkpoint: tuple[Path, np.ndarray], backend: str, is_published_form: bool, tmp_path: Path, monkeypatch
) -> None:
    saved, expected = checkpoint
    folder = shutil.copytree(saved, tmp_path / "hub")
    if is_published_form:
        config = {"model_type": "step3p7", "text_config": hub_config()}
        (folder / "config.json").write_text(json.dumps(config))
    report = convert(folder, tmp_path / "model.gguf", type="F32")
    assert report.num_vision_skipped > 10
    logits = load(report.files[0], backend, monkeypatch).logits(IDS)
    assert expected.std() > 0.5
    assert np.abs(logits - expected).max() < 1e-4
