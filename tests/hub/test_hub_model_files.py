"""Names of files: which belong together, which quantisation they say, which one is meant."""

import pytest

from stepahead.errors import ConfigError, DownloadError
from stepahead.hub.model_files import check_complete, choose, group, quantisation
from stepahead.hub.reference import Reference
from stepahead.hub.remote_file import RemoteFile, checked_file, is_safe_path

COMMIT, SHA = "a" * 40, "b" * 64


def files(*paths: str, nbytes: int = 10) -> list[RemoteFile]:
    return [RemoteFile("o/r", COMMIT, path, nbytes, SHA) for path in paths]


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("IQ4_XS/Step-3.7-flash-IQ4_XS-00001-of-00003.gguf", "IQ4_XS"),
        ("Step3.7-flash-mtp-Q8_0.gguf", "Q8_0"),
        ("UD-Q4_K_XL/Step-3.7-Flash-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("step.q3_k_l.gguf", "Q3_K_L"),
        ("MXFP4_MOE/Step-3.7-Flash-MXFP4_MOE-00001-of-00004.gguf", "MXFP4_MOE"),
        ("Step-BF16.gguf", "BF16"),
        ("Q4_K_M/model.gguf", "Q4_K_M"),
        ("Step-3.7-Flash-APEX-I-Quality.gguf", None),
        ("IQ2_XXS.gguf", "IQ2_XXS"),
        ("Step-Q4_0_ROCMFP4.gguf", None),
    ],
)
def test_the_quantisation_is_what_the_name_says(path, label):
    assert quantisation(path.removesuffix(".gguf")) == label


def test_shards_are_one_model_in_order_and_other_files_are_none():
    found = group(
        files("Q4_K_S/a-Q4_K_S-00002-of-00002.gguf", "Q4_K_S/a-Q4_K_S-00001-of-00002.gguf", "mmproj-f16.gguf")
        + files("a.imatrix.gguf", "a-Q8_0.gguf", "a-mtp-Q8_0.gguf")
    )
    assert [(one.label, [file.name[:6] for file in one.files], one.has_heads_name) for one in found] == [
        ("Q4_K_S", ["a-Q4_K", "a-Q4_K"], False),
        ("Q8_0", ["a-Q8_0"], False),
        ("Q8_0", ["a-mtp-"], True),
    ]
    assert [file.path[-19:] for file in found[0].files] == ["-00001-of-00002.gguf"[1:], "-00002-of-00002.gguf"[1:]]


def test_a_split_model_that_lacks_shards_is_refused():
    model = group(files("a-Q4_0-00001-of-00003.gguf", "a-Q4_0-00003-of-00003.gguf"))[0]
    with pytest.raises(ConfigError, match="2 of 3 shards"):
        check_complete(model)


def test_a_choice_is_a_file_then_a_quantisation_then_its_ending():
    models = group(files("x/a-UD-Q4_K_XL.gguf", "a-Q4_K_M.gguf", "a-Q8_0.gguf", "a-mtp-Q8_0.gguf"))
    assert [one.path for one in choose("o/r", models, "q4_k_m")] == ["a-Q4_K_M.gguf"]
    assert [one.path for one in choose("o/r", models, "Q4_K_XL")] == ["x/a-UD-Q4_K_XL.gguf"]
    assert [one.path for one in choose("o/r", models, "a-UD-Q4_K_XL.gguf")] == ["x/a-UD-Q4_K_XL.gguf"]
    assert len(choose("o/r", models, "Q8_0")) == 2
    with pytest.raises(ConfigError, match="has no 'Q4_K'; it has: Q4_K_M, Q8_0, UD-Q4_K_XL"):
        choose("o/r", models, "Q4_K")


@pytest.mark.parametrize("text", ["o/r", "hf.co/o/r", "https://huggingface.co/o/r", "hf://o/r"])
def test_a_reference_may_be_an_address(text):
    assert Reference.parse(f"{text}:Q4_0") == Reference("o/r", "Q4_0")
    assert Reference.parse(text) == Reference("o/r", None)


@pytest.mark.parametrize("text", ["", "r", "o/r/x", "../r", "o/..", "o/r:", "o/r name", "/o/r", "o--x/r", "o/r\n"])
def test_what_names_no_repository_is_refused(text):
    with pytest.raises(ConfigError, match=r"names no repository|ends with a colon"):
        Reference.parse(text)


BAD_PATHS = [
    "../../x.gguf", "/etc/x.gguf", "a/../x.gguf", "a//x.gguf", "./x.gguf", "a\\..\\x.gguf", "C:x.gguf", "x\0.gguf",
    "x\n.gguf", "", "a/", "con./x.gguf", "a" * 300 + ".gguf",
]  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_path_that_leads_elsewhere_is_never_joined(path):
    assert not is_safe_path(path)
    with pytest.raises(DownloadError, match="leads elsewhere"):
        checked_file("o/r", COMMIT, path, 1, SHA)


@pytest.mark.parametrize(
    ("revision", "nbytes", "digest"),
    [
        ("../../x", 1, SHA),
        (COMMIT, -1, SHA),
        (COMMIT, None, SHA),
        (COMMIT, True, SHA),
        (COMMIT, 1, "../x"),
        (COMMIT, 1, None),
    ],
)
def test_a_listing_without_commit_size_or_checksum_is_refused(revision, nbytes, digest):
    with pytest.raises(DownloadError):
        checked_file("o/r", revision, "a.gguf", nbytes, digest)
