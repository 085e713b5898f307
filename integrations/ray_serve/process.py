"""`trimode serve --replicas N`: a Ray cluster of this machine, or one that is there, and the application on it.

Knows Ray's start and signals. Does not know requests. A cluster that this process starts has no dashboard, sends no
statistics, and ends with it; one that RAY_ADDRESS names stays.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import ray
from ray import serve

from ..server.logs import log_as_json
from ..server.process import listen
from ..server.settings import ServerSettings
from .application import cluster_app
from .settings import ClusterSettings

LOG: Final = logging.getLogger("trimode.server")
APP: Final = "trimode"


def serve_cluster(settings: ServerSettings, cluster: ClusterSettings) -> None:
    """Serves until SIGTERM or SIGINT; then what runs has `drain` seconds to end."""
    log_as_json(settings.log_level)
    with running(settings, cluster) as url:
        ended = threading.Event()
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, lambda *_: ended.set())
        LOG.info("serving", extra={"fields": {"url": url, "replicas": cluster.replicas, "most": cluster.most}})
        if not settings.loopback and settings.api_key_file is None:
            LOG.warning("anyone who reaches this address may use the engine: there is no api_key_file")
        ended.wait()
        LOG.info("draining")


@contextmanager
def running(settings: ServerSettings, cluster: ClusterSettings) -> Generator[str]:
    """Yields the application's URL while it runs; ends it with the block, and the cluster if it was started here.

    Raises NotListening.
    """
    with listen(settings.host, settings.port) as free:  # raises before anything is started in vain
        port = free.getsockname()[1]
    started = joined(cluster)
    try:
        serve.start(http_options={"host": settings.host, "port": port})
        serve.run(cluster_app(settings, cluster), name=APP, route_prefix="/")
        try:
            yield f"http://{settings.host}:{port}"
        finally:
            serve.delete(APP)  # waits until what runs has ended
    finally:
        if started:
            serve.shutdown()
            ray.shutdown()


def joined(cluster: ClusterSettings) -> bool:
    """Joins a cluster, or starts one on this machine with room for the replicas; returns whether it was started."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if ray.is_initialized():
        return False
    if "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False)
        return False
    room = max(os.cpu_count() or 1, int((cluster.most or cluster.replicas) * cluster.cpus + 1))
    ray.init(num_cpus=room, include_dashboard=False, log_to_driver=False, configure_logging=False)
    return True
