"""I9: streamed pieces joined = decoded whole, also across split UTF-8; stop strings across token borders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_samples import BOS_ID, TH, TURN_END_ID, byte_tokenizer, recorded_metadata

from stepahead.errors import RequestError
from stepahead.tokenizer import Detokenizer, Tokenizer
from stepahead.tokenizer.stop_strings import StopStrings

BYTES = byte_tokenizer()
SMALL = Tokenizer.from_metadata(recorded_metadata("deepseek-v3"))

# Lead and continuation bytes at the borders of what is valid, where decoders differ.
EDGE_BYTES = [
    0x41,
    0x80,
    0x8F,
    0x90,
    0x9F,
    0xA0,
    0xBF,
    0xC1,
    0xC2,
    0xDF,
    0xE0,
    0xE4,
    0xED,
    0xEF,
    0xF0,
    0xF4,
    0xF5,
    0xFF,
]


def run(tokenizer, token_ids, **kwargs):
    """The pieces that a caller sees who stops pushing when told to, and the number of tokens pushed."""
    detokenizer = Detokenizer(tokenizer, **kwargs)
    pieces, pushed = [], 0
    for token_id in token_ids:
        pieces.append(detokenizer.push(token_id))
        pushed += 1
        if detokenizer.stopped:
            break
    return [*pieces, detokenizer.flush()], pushed, detokenizer.matched_stop


def expected(text, stops):
    """The specification: walk through the text; the first character that completes a stop string ends it."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(st.lists(st.sampled_from(EDGE_BYTES) | st.integers(0, 262)), st.booleans())
def test_pieces_joined_are_the_whole_bytes(token_ids, skip_special):
    pieces, _, _ = run(BYTES, token_ids, skip_special=skip_special)
    assert "".join(pieces) == BYTES.decode(token_ids, skip_special=skip_special)


@given(st.lists(st.integers(0, SMALL.vocab_size - 1)), st.booleans())
def test_pieces_joined_are_the_whole_vocabulary(token_ids, skip_special):
    pieces, _, _ = run(SMALL, token_ids, skip_special=skip_special)
    assert "".join(pieces) == SMALL.decode(token_ids, skip_special=skip_special)


@given(st.text(max_size=30))
def test_every_piece_is_whole_characters_as_soon_as_possible(text):
    pieces, _, _ = run(BYTES, text.encode())
    assert "".join(pieces) == text
    for i, piece in enumerate(pieces[:-1]):
        assert "".join(pieces[: i + 1]) == text.encode()[: i + 1].decode(errors="ignore")
        assert "\ufffd" not in piece or "\ufffd" in text
    assert pieces[-1] == ""


def test_unfinished_character_at_the_end():
    assert run(BYTES, "a😀".encode()[:-1])[0] == ["a", "", "", "", "\ufffd"]


def test_control_token_between_halves_of_a_character():
    ids = [0xC3, BOS_ID, 0xA9]
    assert run(BYTES, ids)[0] == ["", "", "é", ""]
    assert "".join(run(BYTES, ids, skip_special=False)[0]) == BYTES.decode(ids)


@pytest.mark.parametrize("token_id", [-1, 263])
def test_id_out_of_range(token_id):
    with pytest.raises(RequestError, match="outside the vocabulary"):
        Detokenizer(BYTES).push(token_id)


class TestStops:
    def test_across_token_borders(self):
        pieces, pushed, matched = run(BYTES, [*b"say ", TH, *b"e end now"], stop=["the end"])
        assert (pieces[:4], "".join(pieces), matched) == (["s", "a", "y", " "], "say ", "the end")
        assert pushed == 4 + 1 + 5  # the token that completed it

    def test_text_held_back_is_given_back(self):
        assert run(BYTES, b"aab!", stop=["aac"])[0] == ["", "", "aab", "!", ""]
        assert run(BYTES, b"xaa", stop=["aac"])[0] == ["x", "", "", "aa"]

    def test_text_before_and_after_within_one_token(self):
        token = SMALL.id_of("ction")
        assert run(SMALL, [token], stop=["ti"])[0] == ["c", ""]

    def test_overlaps_itself(self):
        pieces, _, matched = run(BYTES, b"ababac", stop=["abac"])
        assert ("".join(pieces), matched) == ("ab", "abac")
        assert run(BYTES, b"aaab", stop=["aab"])[0][:3] == ["", "", "a"]

    def test_prefix_of_another_completes_first(self):
        assert run(BYTES, b"xabc", stop=["abc", "ab"])[1:] == (3, "ab")

    def test_inside_another_completes_first(self):
        pieces, pushed, matched = run(BYTES, b"abcdef", stop=["abcdef", "cd"])
        assert ("".join(pieces), pushed, matched) == ("ab", 4, "cd")

    def test_at_one_character_the_one_that_began_first(self):
        pieces, _, matched = run(BYTES, b"abcd", stop=["cd", "bcd"])
        assert ("".join(pieces), matched) == ("a", "bcd")

    def test_multi_byte(self):
        pieces, pushed, matched = run(BYTES, "né…fin".encode(), stop="é…")
        assert ("".join(pieces), pushed, matched) == ("n", 6, "é…")

    def test_control_token_text_only_if_shown(self):
        ids = [65, TURN_END_ID, 66]
        assert "".join(run(BYTES, ids, stop="<|im_end|>")[0]) == "AB"
        assert "".join(run(BYTES, ids, stop="<|im_end|>", skip_special=False)[0]) == "A"

    def test_nothing_after_the_stop(self):
        detokenizer = Detokenizer(BYTES, stop=["b"])
        assert [detokenizer.push(token_id) for token_id in b"abc"] == ["a", "", ""]
        assert detokenizer.flush() == ""
        assert detokenizer.matched_stop == "b"

    def test_completed_by_the_flush(self):
        pieces, _, matched = run(BYTES, [65, 0xE4], stop=["\ufffd"])
        assert ("".join(pieces), matched) == ("A", "\ufffd")

    @pytest.mark.parametrize("stop", ["", ["a", ""], [1], [None], ["\ud800"]])
    def test_wrong_stop(self, stop):
        with pytest.raises(RequestError, match="stop string"):
            Detokenizer(BYTES, stop=stop)

    @given(
        st.text("ab", max_size=30),
        st.lists(st.text("ab", min_size=1, max_size=5), max_size=4),
        st.lists(st.integers(1, 4)),
    )
    def test_any_stops_any_cuts(self, text, stops, cuts):
        matcher, shown, rest = StopStrings(stops), "", text
        for cut in [*cuts, len(text)]:
            piece, rest = rest[:cut], rest[cut:]
            shown += matcher.push(piece)
            # What is shown is never taken back: it is the beginning of the final text.
            assert expected(text, stops)[0].startswith(shown)
        assert (shown + matcher.flush(), matcher.matched) == expected(text, stops)

    @given(
        st.lists(st.sampled_from([0x61, 0xC3, 0xA9, TH, BOS_ID])),
        st.lists(st.sampled_from(["é", "aé", "th", "ta", "éa\ufffd"])),
    )
    def test_tokens_against_the_specification(self, token_ids, stops):
        pieces, pushed, matched = run(BYTES, token_ids, stop=stops)
        text, stop = expected(BYTES.decode(token_ids, skip_special=True), stops)
        assert ("".join(pieces), matched) == (text, stop)
        if matched and pushed < len(token_ids):
            # One token less, and the text does not hold the stop string yet.
            assert expected(BYTES.decode(token_ids[: pushed - 1], skip_special=True).rstrip("\ufffd"), stops)[1] is None

    def test_long_stop_takes_linear_time(self):
        detokenizer = Detokenizer(BYTES, stop="a" * 50_000 + "b")
        pieces = [detokenizer.push(97) for _ in range(50_010)]
        assert sum(map(len, pieces)) == 10
