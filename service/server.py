"""Runs the application until a signal, and stops it in order.

At a SIGTERM `/readyz` says 503, so that the balancer looks elsewhere, while
requests are still served; after `drain_s` the socket closes and what is in work is finished. A
second signal skips the wait, and so does Ctrl-C.
"""

import asyncio
import gc
import signal
from contextlib import suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.errors import ServiceError

GRACE_S = 30
"""What is in work may take so long after the socket has closed."""


def run(app: FastAPI, *, host: str, port: int, drain_s: float) -> None:
    """Serve until a signal.

    Raises:
        ServiceError: a part of the service could not be opened.
        SystemExit: the address cannot be listened on; the log says why.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = uvicorn.Server(config)
    stop = server.handle_exit

    def drain(number: int, frame: FrameType | None) -> None:
        again, app.state.draining = app.state.draining, True
        if again or number == signal.SIGINT or drain_s == 0:
            stop(number, frame)
            return
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(loop.call_later, drain_s, stop, number, frame)

    # What is loaded by now stays. To look it over for garbage took an eighth of a second each time,
    # in which nothing else ran.
    gc.collect()
    gc.freeze()
    app.state.draining = False
    app.state.failure = None
    setattr(server, "handle_exit", drain)  # noqa: B010 - uvicorn takes this one for both signals
    with suppress(KeyboardInterrupt):  # raised again by uvicorn when all is closed
        try:
            server.run()
        except SystemExit:
            failure: ServiceError | None = app.state.failure
            if failure is not None:
                raise failure from None
            raise
