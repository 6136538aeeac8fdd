"""`isogloss models`: the registry of the running service, and bundles that are added to its folder."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from service.client import Client
from service.commands.terminal import LOCAL, Url, console, counted, duration, moment, say, table
from service.errors import InvalidInput, NotFound
from service.manifest import SAFE_NAME
from service.registry import Registry
from service.settings import Settings

COMMANDS = ("list", "show", "verify", "remove")
COMMIT_CHARACTERS = 12
MEBIBYTE = 2**20

models = typer.Typer(
    help="The bundles that there are: list, show, add, verify and remove them.",
    invoke_without_command=True,
)

Reference = Annotated[
    str,
    typer.Argument(help="NAME/VERSION in the registry; NAME alone is its latest version."),
]


@models.callback()
def overview(context: typer.Context, url: Url = LOCAL) -> None:
    """List the bundles of the running service's registry, or do something with one of them."""
    if context.invoked_subcommand is None:
        list_models(url)
    context.default_map = {name: {"url": url} for name in COMMANDS}


@models.command("list")
def list_models(url: Url = LOCAL) -> None:
    """List the bundles of the running service's registry, and which one is live."""
    with Client(url) as client:
        listed = client.get("/models")
    rows = table("bundle", "state", "dimension", "tokens", "precisions", "languages")
    for model in listed["models"]:
        rows.add_row(
            f"{model['name']}/{model['version']}",
            escape(model["state"] + (f": {model['reason']}" if model.get("reason") else "")),
            str(model["dimension"]),
            str(model["max_tokens"]),
            " ".join(model["precisions"]),
            str(len(model["languages"])),
        )
    console.print(rows)


@models.command()
def show(bundle: Reference, url: Url = LOCAL) -> None:
    """Show what a bundle is, where it comes from, how well it did, and what uses it."""
    with Client(url) as client:
        name, version = resolve(client, bundle)
        card = client.get(f"/models/{name}/{version}")
    rows = table("", "")
    rows.show_header = False
    for label, text in _facts(card):
        rows.add_row(f"[bold]{label}[/]", escape(text))
    console.print(rows)
    if card["evaluation"]:
        console.print("[bold]evaluation[/]")
        console.print_json(data=card["evaluation"])


@models.command()
def add(
    path: Annotated[Path, typer.Argument(help="Folder of a bundle, as training exports it.")],
    models_dir: Annotated[
        Path | None, typer.Option(help="Folder of bundles. [ISOGLOSS_MODELS_DIR]")
    ] = None,
) -> None:
    """Copy a bundle into the registry's folder on this machine, after its contract was checked.

    The service sees it at once if it reads the same folder.
    """
    settings = Settings.from_env(models_dir=models_dir)
    entry = Registry(settings.models_dir).add(path)
    place = f"{entry.name}/{entry.version}"
    say(f"added: {place} in {entry.folder}; `isogloss migrate start {place}` makes it live")


@models.command()
def verify(bundle: Reference, url: Url = LOCAL) -> None:
    """Let the running service check every file of a bundle and open it in a process of its own."""
    with Client(url) as client:
        name, version = resolve(client, bundle)
        verified = client.post(f"/models/{name}/{version}/verify")
    for proof in verified["proofs"]:
        memory = f"{proof['memory_bytes'] / MEBIBYTE:,.0f} MiB"
        say(f"{proof['precision']}: {memory}, {duration(proof['seconds'])}, space {proof['space']}")
    say(f"sound: {name}/{version}")


@models.command()
def remove(
    bundle: Reference,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before.")] = False,
    url: Url = LOCAL,
) -> None:
    """Delete a bundle from the running service's registry; one that is used stays."""
    with Client(url) as client:
        name, version = resolve(client, bundle)
        if not yes:
            typer.confirm(f"delete {name}/{version} from the registry?", abort=True)
        client.delete(f"/models/{name}/{version}")
    say(f"removed: {name}/{version}")


def resolve(client: Client, reference: str) -> tuple[str, str]:
    """Name and version of a bundle that is called by both, or by the name of its latest version."""
    name, slash, version = reference.partition("/")
    if not SAFE_NAME.fullmatch(name) or (slash and not SAFE_NAME.fullmatch(version)):
        raise InvalidInput(f"{reference!r} is not a bundle's name or name/version")
    if slash:
        return name, version
    listed = client.get("/models")["models"]
    versions = [model["version"] for model in listed if model["name"] == name]
    if not versions:
        there = ", ".join(f"{model['name']}/{model['version']}" for model in listed) or "none"
        raise NotFound(f"no bundle {name!r} in the registry: {there}")
    return name, versions[-1]


def _facts(card: dict[str, Any]) -> list[tuple[str, str]]:
    origin = card["provenance"]
    state = card["state"] + (f": {card['reason']}" if card["reason"] else "")
    facts = [
        ("bundle", f"{card['name']}/{card['version']}"),
        ("state", state),
        ("made", moment(card["created"])),
        ("from", origin["base_model"]),
        ("recipe", origin["recipe"]),
        ("commit", origin["commit"][:COMMIT_CHARACTERS]),
        ("licence", card["licence"]),
        ("dimension", " ".join(map(str, card["dimensions"]))),
        ("tokens", str(card["max_tokens"] or "")),
        ("languages", " ".join(card["languages"])),
    ]
    facts += [(f"space of {name}", space) for name, space in card["spaces"].items()]
    facts += [
        ("data", f"{each['name']}: {counted(each['rows'], 'row')}, {each['licence']}")
        for each in origin["data"]
    ]
    facts += [
        (
            f"generation {each['generation']}",
            f"{each['precision']}, {each['state']}" + (", live" if each["live"] else ""),
        )
        for each in card["generations"]
    ]
    return [(label, text) for label, text in facts if text]
