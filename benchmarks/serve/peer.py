"""llama.cpp's server as a process: python -m benchmarks.serve.peer OPTIONS.

Prints where it listens; SIGTERM ends it.
"""

import json
import signal
import sys

import xllamacpp


def main() -> None:
    options = json.loads(sys.argv[1])
    params = xllamacpp.CommonParams()
    params.model.path = options["path"]
    params.n_ctx, params.n_parallel, params.n_gpu_layers = options["context"], options["parallel"], 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options["threads"]
    params.load_mtp, params.fit_params, params.warmup, params.verbosity = True, False, False, -1
    params.port = 0
    kinds = xllamacpp.common_speculative_type
    if options["depth"]:
        speculative = params.speculative
        speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_DRAFT_MTP]
        speculative.draft.n_max, speculative.draft.n_min, speculative.draft.p_min = options["depth"], 0, 0.0
    if options["ngram"]:
        name = f"COMMON_SPECULATIVE_TYPE_NGRAM_{options['ngram'].upper().replace('-', '_')}"
        params.speculative.types = [getattr(kinds, name)]
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    signal.sigwait([signal.SIGTERM, signal.SIGINT])


if __name__ == "__main__":
    main()
