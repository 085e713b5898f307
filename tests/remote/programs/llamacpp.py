"""llama.cpp's server on a free port of loopback, in an environment with xllamacpp. Prints its address.

Usage: llamacpp.py MODEL.gguf [PARALLEL]
"""

from __future__ import annotations

import signal
import socket
import sys
from typing import Any

import xllamacpp  # type: ignore[import-not-found, unused-ignore]


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    params: Any = xllamacpp.CommonParams()
    params.model.path, params.hostnames, params.port = sys.argv[1], ["127.0.0.1"], port
    params.n_parallel = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    params.n_ctx, params.warmup, params.use_jinja = 1024 * params.n_parallel, False, True
    params.cpuparams.n_threads, params.endpoint_metrics, params.endpoint_props = 1, True, True
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
