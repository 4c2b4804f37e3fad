"""`stepahead serve --cache-dir`: a server that is killed, or told to end, leaves what the next one goes on from."""

import re
import signal
import time

import httpx
import pytest

from support.served import serve_process

WORDS = "What is asked again after the server was started again is not computed again. " * 12
BODY = {"prompt": WORDS, "max_tokens": 10, "temperature": 1.0, "seed": 3, "ignore_eos": True}
FIXED = {"speculation": {"mode": "mtp", "depth": 3, "adaptive": False}, "stepahead": {"steps": True}}


class Process:
    """A server of one key, or several, with its cache in a folder."""

    def __init__(self, model, folder, *args):
        self.process, self.url = serve_process(model, "--cache-dir", str(folder), *args)

    def ask(self, key="", **fields):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        answer = httpx.post(f"{self.url}/v1/completions", json={**BODY, **FIXED, **fields}, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        drafts = found["metrics"]["speculative_decoding"]["num_accepted_draft_tokens"]
        return found["usage"]["prompt_tokens_details"]["cached_tokens"], (found["choices"][0]["text"], drafts)

    def metric(self, name, key=""):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        text = httpx.get(f"{self.url}/metrics", headers=headers, timeout=60).text
        return float(re.search(rf"^{name}{{[^}}]*}} (.+)$", text, re.MULTILINE)[1])

    def until_written(self, num_records, key=""):
        deadline = time.monotonic() + 20
        while self.metric("stepahead:prefix_store_records", key) < num_records:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def end(self, with_signal):
        self.process.send_signal(with_signal)
        self.process.communicate(timeout=40)


@pytest.mark.parametrize("last_signal", [signal.SIGKILL, signal.SIGTERM])
def test_a_restart(chat_model, tmp_path, last_signal):
    first = Process(chat_model, tmp_path / "cache")
    try:
        num_cached, expected = first.ask()
        assert num_cached == 0
        if last_signal is signal.SIGKILL:
            first.until_written(2)
    finally:
        first.end(last_signal)
    second = Process(chat_model, tmp_path / "cache")
    try:
        num_cached, told = second.ask()
        assert num_cached > 500
        assert told == expected
        assert second.metric("stepahead:prefix_store_bytes_read_total") > 0
        assert second.metric("stepahead:prefix_store_records_damaged_total") == 0
    finally:
        second.end(signal.SIGKILL)


def test_keys_find_their_own_after_a_restart(chat_model, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("ann secret\nbob other\n")
    first = Process(chat_model, tmp_path / "cache", "--api-key-file", str(keys))
    try:
        first.ask("secret")
    finally:
        first.end(signal.SIGTERM)
    keys.write_text("bob other\nanna secret\ncarl third\n")
    second = Process(chat_model, tmp_path / "cache", "--api-key-file", str(keys))
    try:
        assert [second.ask(key)[0] > 0 for key in ("other", "third", "secret")] == [False, False, True]
    finally:
        second.end(signal.SIGKILL)
