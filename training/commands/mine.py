"""`isogloss-train mine`: hard negatives for a data set, found with a model."""

import json
from pathlib import Path
from typing import Annotated, Literal, cast, get_args

import typer
from rich.progress import Progress
from rich.table import Table

from training.commands.terminal import (
    ApiKey,
    DataFolder,
    Device,
    PassagePrompt,
    PoolingName,
    PrecisionName,
    QueryPrompt,
    Threads,
    WeightsName,
    console,
    hush,
    prompts_of,
)
from training.config.batches import ENGLISH, TextRole
from training.config.recipe import read_recipe
from training.groups import ROLES

SUFFIX = ".jsonl.gz"
SHOWN = 3


def mine(
    model: Annotated[
        str,
        typer.Argument(
            help="What ranks the passages: a bundle, a run, a Sentence Transformers folder, a hub"
            " id, or the address of a running service."
        ),
    ],
    data: DataFolder,
    recipe: Annotated[Path, typer.Option("--recipe", help="The recipe that names the data set.")],
    name: Annotated[str, typer.Option("--set", help="The data set, by its name in the recipe.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help=f"Where the groups go, ending in {SUFFIX}: a set of format 'groups' for another"
            " recipe. The report lies beside it.",
        ),
    ],
    purpose: Annotated[
        Literal["pairs", "clear"],
        typer.Option(
            "--for",
            help="clear: only passages with a question of their own in --languages, so that hard"
            " passages and hard queries correspond.",
        ),
    ] = "pairs",
    languages: Annotated[
        str,
        typer.Option(
            help="With --for clear: the queries' languages beside --query-language, separated by commas."
        ),
    ] = "",
    count: Annotated[
        int, typer.Option(help="Negatives a query; for clear, in each language.", min=1)
    ] = 8,
    ranks: Annotated[
        str,
        typer.Option(
            help="First and last rank that negatives come from, counted without the positives: what"
            " stands higher is often an answer that nobody labelled."
        ),
    ] = "10-100",
    margin: Annotated[
        float,
        typer.Option(help="A negative's cosine is at least so far below the positive's.", min=0),
    ] = 0.0,
    share: Annotated[
        float,
        typer.Option(
            help="A negative's cosine is at most this share of the positive's.", min=0.01, max=1
        ),
    ] = 0.95,
    roles: Annotated[
        str, typer.Option(help="What asks and what is found; sentence,sentence for bitext.")
    ] = "query,passage",
    query_language: Annotated[str, typer.Option(help="Language that is asked in.")] = ENGLISH,
    passage_language: Annotated[str, typer.Option(help="Language that is found.")] = ENGLISH,
    index: Annotated[
        Literal["auto", "exact", "ivf"],
        typer.Option(help="ivf searches an eighth of the passages; auto takes it for large sets."),
    ] = "auto",
    precision: PrecisionName = None,
    threads: Threads = 2,
    device: Device = "auto",
    weights: WeightsName = "auto",
    pooling: PoolingName = None,
    query_prompt: QueryPrompt = None,
    passage_prompt: PassagePrompt = None,
    api_key: ApiKey = None,
) -> None:
    """Write the groups of a data set with their hard negatives, and a report of what was found.

    Passages of the query's own group, of groups that ask the same, and copies of either never
    become negatives. A recipe reads the result with: format = "groups", path = OUT.
    """
    from training.embedders import open_embedder
    from training.mining import Mining, mined_groups, read_mined
    from training.mining import mine as find
    from training.readers import write_groups

    hush()
    if not out.name.endswith(SUFFIX):
        raise typer.BadParameter(f"{out.name!r} does not end in {SUFFIX}", param_hint="--out")
    wanted = tuple(code for code in languages.split(",") if code)
    if bool(wanted) != (purpose == "clear"):
        raise typer.BadParameter("--for clear and --languages need each other", param_hint="--for")
    first, last = _ranks(ranks)
    mining = Mining(
        count=count,
        first=first,
        last=last,
        margin=margin,
        share=share,
        languages=wanted,
        roles=_roles(roles),
        query_language=query_language,
        passage_language=passage_language,
        index=index,
    )
    corpus = read_mined(data, read_recipe(recipe), name)
    embedder = open_embedder(
        model,
        precision=precision,
        threads=threads,
        device=device,
        weights=weights,
        pooling=pooling,
        prompts=prompts_of(query_prompt, passage_prompt),
        api_key=api_key,
    )
    try:
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task("texts embedded", total=None)
            mined = find(
                corpus,
                corpus.sets[name],
                embedder,
                mining,
                progress=lambda texts: bar.advance(task, texts),
            )
    finally:
        embedder.close()
    out.parent.mkdir(parents=True, exist_ok=True)
    written = write_groups(out, mined_groups(corpus, corpus.sets[name], mined.negatives))
    report = {"model": embedder.name, "set": name, "groups": written, **mined.as_json()}
    beside = out.with_name(out.name.removesuffix(SUFFIX) + ".report.json")
    beside.write_text(json.dumps(report, indent=1, ensure_ascii=False), "utf-8")
    _show(report)
    console.print(f"groups in [bold]{out}[/], report in [bold]{beside}[/]")


def _ranks(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal()):
        raise typer.BadParameter(f"{text!r} is not like 10-100", param_hint="--ranks")
    return int(first), int(last)


def _roles(text: str) -> tuple[TextRole, TextRole]:
    names = text.split(",")
    if len(names) != len(("query", "passage")) or not set(names) <= set(ROLES):
        raise typer.BadParameter(
            f"{text!r} is not two of {', '.join(get_args(TextRole))}", param_hint="--roles"
        )
    return cast(tuple[TextRole, TextRole], tuple(names))


def _show(report: dict[str, object]) -> None:
    table = Table("what", "value")
    for name, value in report.items():
        if name != "examples":
            table.add_row(name.replace("_", " "), str(value))
    console.print(table)
    examples = cast(list[dict[str, object]], report["examples"])
    for example in examples[:SHOWN]:
        console.print(f"[bold]{_short(example['query'])}[/]  {example['cosine']}", highlight=False)
        console.print(f"  + {_short(example['positive'])}", markup=False, highlight=False)
        for negative in cast(list[dict[str, object]], example["negatives"])[:SHOWN]:
            line = f"  {negative['rank']:>3} {negative['cosine']:.3f} {_short(negative['passage'])}"
            console.print(line, markup=False, highlight=False)


def _short(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= 100 else f"{line[:99]}…"  # noqa: PLR2004 - a line of a terminal
