"""`isogloss serve`: the service in this process, with sample documents if they are wanted."""

import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from service import corpus, logs, server
from service.app import create_app
from service.client import Client
from service.commands.index import ensure_collection, wait_until_visible
from service.commands.terminal import console
from service.settings import Settings

SAMPLES = "samples"
TRY = """
[bold]Isogloss answers at {url}[/] with sample documents in many languages. Try, in another terminal:

  .venv/bin/isogloss search "how should I wash my hands" --collection samples

  curl -s {url}/search -H 'content-type: application/json' \\
       -d '{{"query": "pourquoi la lune cache-t-elle le soleil ?", "collection": "samples", "limit": 5}}'

  curl -s {url}/embed -H 'content-type: application/json' -d '{{"inputs": ["buenos días", "おはよう"]}}'

Interactive documentation: {url}/docs      Stop with Ctrl-C.
"""


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. [ISOGLOSS_HOST]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. [ISOGLOSS_PORT]")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of catalog and index. [ISOGLOSS_DATA_DIR]")
    ] = None,
    models_dir: Annotated[
        Path | None, typer.Option(help="Folder of bundles. [ISOGLOSS_MODELS_DIR]")
    ] = None,
    bundle: Annotated[
        str | None, typer.Option(help="Bundle of the first start. [ISOGLOSS_BUNDLE]")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. [ISOGLOSS_DEVICE]")] = None,
    samples: Annotated[
        Path | None, typer.Option(help="Load this file into the collection `samples` at start.")
    ] = None,
) -> None:
    """Start the service. Everything else is set by variables: see `isogloss settings`."""
    settings = Settings.from_env(
        host=host, port=port, data_dir=data_dir, models_dir=models_dir, bundle=bundle, device=device
    )
    logs.configure(settings.log_level)
    if samples is not None:
        threading.Thread(target=_load_samples, args=(samples, settings), daemon=True).start()
    server.run(
        create_app(settings), host=settings.host, port=settings.port, drain_s=settings.drain_s
    )


def _load_samples(path: Path, settings: Settings) -> None:
    """Load the samples as a user would, over HTTP, once the service is ready."""
    url = f"http://{settings.host}:{settings.port}"
    with Client(url) as client:
        while not client.ready():
            time.sleep(0.1)
        ensure_collection(client, SAMPLES, {"topic": "keyword"})
        columns = corpus.Columns()
        for _ in client.upload(SAMPLES, corpus.documents(path, columns=columns)):
            pass
        wait_until_visible(client, SAMPLES)
    console.print(TRY.format(url=url), highlight=False, soft_wrap=True)
