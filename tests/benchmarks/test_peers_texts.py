"""The report on whole texts: the best peer is the fastest in the median, ratios are taken within a round."""

from pathlib import Path

from benchmarks.peers.texts import AUTO, NGRAMS, PLAIN, as_text, contenders


def test_every_way_of_the_peer_to_draft_is_asked():
    ours, *peers = contenders(Path("m.gguf"), 2, 3)
    assert (ours.name, ours.engine) == (AUTO, "stepahead")
    assert [(peer.depth, peer.ngram) for peer in peers] == [(n, "") for n in range(4)] + [(0, kind) for kind in NGRAMS]
    assert all(peer.engine == "llama.cpp server" and peer.repack and peer.rates is None for peer in peers)


def test_ratios_are_taken_within_a_round():
    rates = {AUTO: [30.0, 10.0, 20.0], PLAIN: [9.0, 9.0, 9.0], "slow": [1.0, 1.0, 50.0], "fast": [10.0, 5.0, 20.0]}
    text = as_text("code", rates)
    assert text.splitlines()[-1] == "auto ÷ fast: 2.00 (1.00 to 3.00); 1.5: reached"
    assert "missed" in as_text("code", {**rates, "fast": [30.0, 10.0, 20.0]})
