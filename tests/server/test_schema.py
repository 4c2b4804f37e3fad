"""schemathesis makes requests of the OpenAPI document, right and wrong ones: no fault of ours, nothing undeclared."""

import subprocess
import sys

import pytest

from server.test_live import serve_process

CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    "response_headers_conformance", "unsupported_method", "allow_header_conformance",
)  # fmt: skip


def test_requests_made_of_the_document(chat_model, tmp_path):
    pytest.importorskip("schemathesis")
    process, url = serve_process(chat_model, "--context-length", "64")
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks", ",".join(CHECKS)]
    asked = ["--phases", "fuzzing", "--max-examples", "2", "--seed", "1", "--exclude-path", "/health"]
    try:
        done = subprocess.run(
            [*command, *asked], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
        assert process.poll() is None
    finally:
        process.terminate()
        process.communicate()
