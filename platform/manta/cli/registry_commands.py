"""`manta promote`, `rollback`, `models`: the registry of models that may be used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from manta.cli.arguments import Model

if TYPE_CHECKING:
    from manta.record.model_registry import ModelRegistry

Registry = Annotated[
    str | None,
    typer.Option(
        metavar="PLACE",
        help="Folder or URL of the registry; by default MANTA_REGISTRY, or the folder registry.",
    ),
]


def promote(
    model: Model,
    name: Annotated[
        str, typer.Argument(metavar="NAME[@ALIAS]", help="Name in the registry, and its alias.")
    ],
    registry: Registry = None,
    gate: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Gate that must be passed; by default all that decided."),
    ] = None,
    without_gate: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Why it is let in without a passed gate."),
    ] = None,
) -> None:
    """Copy a model that passed its gate into the registry, and let an alias name it."""
    from manta.elastic.checks.warm_start import run_at_step
    from manta.govern import promotion
    from manta.record.model_registry import ModelRegistry
    from manta.record.registered_version import REGISTRY
    from manta.storage.place import place_of

    there = ModelRegistry.at(registry)
    if model.startswith(REGISTRY):
        found = promotion.name_again(model, name, there)
    else:
        place, step = run_at_step(model)
        asked = {"gate": gate, "without_gate": without_gate}
        found = promotion.promote(place_of(place), step, name, there, **asked, tell=print)
    version = found.version
    known = " (was there already)" if found.known else ""
    print(f"{REGISTRY}{version.name}@{version.version}{known}")
    if version.without_gate:
        print(f"without a passed gate: {version.without_gate}")
    elif version.passed:
        print(f"passed: {', '.join(version.passed)}")
    if found.alias:
        before = "" if found.before is None else f", before {version.name}@{found.before}"
        print(f"{REGISTRY}{version.name}@{found.alias} is {version.name}@{version.version}{before}")


def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="The alias to move back.")],
    registry: Registry = None,
) -> None:
    """Let an alias name the version that it named before."""
    from manta.config.errors import ConfigError
    from manta.record.model_registry import ModelRegistry
    from manta.record.registered_version import split_name

    model, alias = split_name(name)
    if not alias or alias.isdecimal():
        raise ConfigError(f"{name}: give the alias to move back, such as {model}@champion")
    before, now = ModelRegistry.at(registry).roll_back(model, alias)
    print(f"{model}@{alias} is {model}@{now}, no longer {model}@{before}")


def models(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME[@TAG]", help="One model, or one version with its folder."),
    ] = None,
    registry: Registry = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare all files with their checksums.")
    ] = False,
) -> None:
    """List the models of a registry: versions, gates, aliases; or show one version."""
    from manta.record.model_registry import ModelRegistry
    from manta.record.registered_version import split_name

    found = ModelRegistry.at(registry)
    model, tag = split_name(name) if name else ("", "")
    if model and not tag:
        found.number_of(model)  # says which models there are
    numbers = [found.number_of(model, tag)] if tag else None
    listed = [
        entry
        for one in ([model] if model else found.names())
        for entry in _entries(found, one, numbers or found.numbers(one), verify)
    ]
    if as_json:
        import json  # --help does without it

        print(json.dumps(listed, indent=1, ensure_ascii=False))
    elif tag:
        for key, value in listed[0].items():
            print(f"{key:14}{', '.join(map(str, value)) if isinstance(value, list) else value}")
    else:
        _print_table(listed, str(found.place))


def _entries(
    registry: ModelRegistry, name: str, numbers: list[int], verify: bool
) -> list[dict[str, Any]]:
    aliases = registry.aliases(name)
    found = []
    for number in numbers:
        version = registry.read(name, number)
        if verify:
            registry.verify(name, number)
        said = [f"{gate.name} {'passed' if gate.passed else 'failed'}" for gate in version.gates]
        found.append(
            {
                "model": f"{name}@{number}",
                "aliases": sorted(a for a, stack in aliases.items() if stack[-1] == number),
                "created": version.created,
                "user": f"{version.user}@{version.host}",
                "gates": said,
                "without gate": version.without_gate,
                "source": version.source + ("" if version.step is None else f"@{version.step}"),
                "parameters": version.parameters,
                "fingerprint": version.fingerprint,
                "folder": str(registry.folder(name, number) / "model"),
                **({"verified": f"{len(version.files)} files"} if verify else {}),
            }
        )
    return found


def _print_table(listed: list[dict[str, Any]], place: str) -> None:
    from rich.console import Console
    from rich.table import Table

    if not listed:
        print(f"{place}: no models yet; put one in with 'manta promote RUN NAME@ALIAS'")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("model", "aliases", "gates", "created", "source"):
        table.add_column(heading, overflow="fold")
    for one in listed:
        gates = ", ".join(one["gates"]) or "none"
        if one["without gate"]:
            gates = f"{gates} (let in: {one['without gate']})"
        source = one["source"].rpartition("/")[2]
        created = one["created"][:16].replace("T", " ")
        table.add_row(one["model"], ", ".join(one["aliases"]), gates, created, source)
    Console().print(table)
