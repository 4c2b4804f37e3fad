"""The measurement of silence, sixty times shorter than meant: no endpoint is silent, and one that is gets found."""

from benchmarks.serve.silence import main

SHORT = ["--minutes", "0.08", "--keepalive", "0.8"]


def test_no_stream_is_silent_while_prompts_are_read(capsys) -> None:
    code, lines = main(SHORT), capsys.readouterr().out.splitlines()
    assert code == 0, lines
    assert [line.split(":")[0] for line in lines] == ["/v1/responses", "/v1/messages", "/v1/chat/completions"]
    for line in lines:
        assert float(line.split("after ")[1].split(" ")[0]) > 1.5, "prompts are held up"


def test_a_silent_stream_is_found(capsys) -> None:
    assert main([*SHORT, "--responses-keepalive", "comment"]) == 1
    silent, *others = capsys.readouterr().out.splitlines()
    assert float(silent.split("silence ")[1].split(" ")[0]) > 1.5
    assert all("broke off" not in line for line in (silent, *others))
