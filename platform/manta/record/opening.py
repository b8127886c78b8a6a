"""Open a run: take its folder, check that it is the same run, and read the state to start with."""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import manta
from manta.config import ConfigError, RunConfig, dump, load
from manta.config.credentials import without_credentials
from manta.config.errors import RunError
from manta.config.model_names import frozen_model
from manta.corpus.manifest import Manifest
from manta.record import identity, provenance
from manta.record.row_chain import Mark
from manta.record.run_state import Results, RunState, WandbState, read_fork, utc_now
from manta.storage.exclusive import RunHold
from manta.storage.place import Place, place_of, tree
from manta.storage.run_folder import CHECKPOINTS, CONFIG, FORK, LEDGER, METRICS, RUN
from manta.storage.seal import SEALED


def place_of_run(config: RunConfig) -> Place:
    """The folder or place in a store of the run that `config` names."""
    storage = place_of(config.run.storage)
    if isinstance(storage, Path):
        storage = storage.expanduser().absolute()
    return storage / config.run.name


def take_hold(config: RunConfig) -> RunHold:
    """Make the run's folder if it is missing, and hold it exclusively."""
    place = place_of_run(config)
    if isinstance(place, Path):
        try:
            (place / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{place}: can't be made: {error.strerror}; "
                "set run.storage to a folder that you may write to"
            ) from None
    return RunHold(place)


def check_same_run(
    run_dir: Place,
    old: RunState | None,
    config: RunConfig,
    manifest: Manifest,
    frozen: str = "",
    base: str = "",
) -> list[str]:
    """Check that the run in `run_dir` is the one asked for; returns notes for people.

    A digest of the config keys that may not change is in the run's record, its checkpoints and its
    ledger. If one of these was lost or changed, the others show it.

    Args:
        run_dir: the run's folder, or its URL in a store.
        old: the run's record, if there is one.
        config: the config that is asked for.
        manifest: the manifest of the corpus that is asked for.
        frozen: fingerprint of the frozen model that the objective compares with; "" without one.
        base: fingerprint of the model some of whose weights stay frozen; "" if it isn't known.

    Raises:
        RunError: naming the difference, or the missing file that would prove there is none.
    """
    binding = identity.binding_of(config, manifest.fingerprint)
    if old is None:
        fork = read_fork(run_dir)
        _refuse_other_base(run_dir, fork.base if fork else "", config, base)
        return _check_unrecorded(run_dir, binding)
    if old.corpus_fingerprint != manifest.fingerprint:
        raise RunError(
            f"{run_dir}: this run was started on another corpus: fingerprint "
            f"{old.corpus_fingerprint[:12]}…, but {without_credentials(config.corpus)} has "
            f"{manifest.fingerprint[:12]}…; set 'corpus' to the old one, or choose another "
            "run.name"
        )
    path = run_dir / CONFIG
    before, problem = _config_before(path)
    if (
        before
        and old.binding
        and old.binding not in identity.bindings_of(before, manifest.fingerprint)
    ):
        problem = "it was changed after it was written"
    if before is None or problem:
        if not old.binding:
            raise RunError(
                f"{path}: the config that this run was started with can't be read: {problem}\n"
                "Continue with the version of Manta that started it, or choose another run.name."
            )
        if old.binding not in identity.bindings_of(config, manifest.fingerprint):
            raise RunError(
                f"{path}: not the config that this run was started with: {problem}. The given "
                f"config is not that config either, by the digest in {RUN}: restore {CONFIG} from "
                "a copy, give the config that the run was started with, or choose another run.name"
            )
        return [f"{CONFIG} was restored to the config that the run was started with: {problem}"]
    found = identity.check_free_changes_only(run_dir, before, _redacted(config))
    _check_frozen(run_dir, old, config, frozen)
    check_base(run_dir, old, config, base)
    return [f"config: {change}" for change in found]


def _check_frozen(run_dir: Place, old: RunState, config: RunConfig, frozen: str) -> None:
    """Refuse other weights of the frozen model, which no checkpoint has."""
    model = frozen_model(config)
    if model is None or not old.frozen or old.frozen == frozen:
        return
    raise RunError(
        f"{run_dir}: this run compares with a model of fingerprint {old.frozen[:12]}…, but "
        f"{model.key} = {model.name!r} has {frozen[:12]}… now: put the old model back there, or "
        "start another run (run.name), or `manta fork` this one, to continue with the model as it "
        "is now"
    )


def check_base(run_dir: Place, old: RunState | None, config: RunConfig, base: str) -> None:
    """Refuse another base than that of a run, whose checkpoints lack its frozen weights.

    Args:
        run_dir: the run's folder, or its URL in a store.
        old: the run's record, if there is one.
        config: the config by which it is to go on.
        base: fingerprint of the model some of whose weights stay frozen; "" if it isn't known.

    Raises:
        RunError: naming both fingerprints.
    """
    if old is not None:
        _refuse_other_base(run_dir, old.base, config, base)


def _refuse_other_base(run_dir: Place, recorded: str, config: RunConfig, base: str) -> None:
    if not recorded or not base or recorded == base:
        return
    raise RunError(
        f"{run_dir}: this run trains beside the frozen weights of a model of fingerprint "
        f"{recorded[:12]}…, but model.pretrained = {config.model.pretrained!r} has {base[:12]}… "
        "now, and the checkpoints hold what was trained alone: put the old model back there, or "
        "start another run (run.name)"
    )


def _config_before(path: Place) -> tuple[RunConfig | None, str]:
    """The config in a run's folder, or why it can't be read."""
    if not path.exists():
        return None, "it is missing"
    try:
        return load(path, RunConfig), ""
    except (ConfigError, OSError, ValueError) as error:
        return None, f"it can't be read: {error}"


def _check_unrecorded(run_dir: Place, binding: str) -> list[str]:
    """Refuse a history without a record, unless its ledger proves that it is this run's."""
    from manta.stream.ledger import Ledger  # heavy, and most runs have a record

    newest = Ledger(run_dir / LEDGER).newest()
    fork = read_fork(run_dir)
    if fork is not None and fork.binding not in ("", binding):
        raise RunError(
            f"{run_dir}: this run was forked from {fork.run} with the config {run_dir / CONFIG}, "
            "but another config or corpus was given: give that file, or make a run by `manta fork`"
        )
    if newest is None or (fork is not None and newest.last.step <= fork.step):
        return []
    found = newest.link.binding if newest.link else ""
    if found != binding:
        why = "is of another config or corpus than were given" if found else "names no config"
        raise RunError(
            f"{run_dir}: {RUN} is missing, and its ledger of {newest.last.step} steps {why}: "
            f"restore {RUN} from a copy; or run the command again with --restart, which moves the "
            "run's files aside and starts it anew"
        )
    return [
        f"{RUN} was missing and is made anew. The ledger shows that it is the same run; its "
        "earlier times and costs are lost"
    ]


def carried_rows(place: Place) -> list[dict[str, Any]]:
    """The metric rows that a run's checkpoints carry, as far as they can be read."""
    rows = []
    folder = place / CHECKPOINTS
    for name in sorted(tree(folder)):
        if name.endswith(f"/{METRICS}"):
            with suppress(OSError, ValueError):
                rows += [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return rows


def set_rows_aside(place: Place, run_dir: Path) -> list[str]:
    """Move aside rows of an earlier run without other files, which would pass for this run's."""
    rows = run_dir / METRICS
    if not rows.exists():
        return []
    from manta.stream.ledger import Ledger

    told_elsewhere = (place / FORK).exists() or Ledger(place / LEDGER).newest()
    if told_elsewhere or not rows.stat().st_size:
        return []
    target = rows.with_name(f"{METRICS}.unknown")
    os.replace(rows, target)
    return [f"{METRICS} had rows of a run that has no other files: they are in {target.name} now"]


def _redacted(config: RunConfig) -> RunConfig:
    """The config to write to a file: without passwords in its URLs."""
    return config.model_copy(update={"corpus": without_credentials(config.corpus)})


def config_text(config: RunConfig) -> str:
    return dump(_redacted(config))


def take_up(
    run_dir: Path,
    old: RunState | None,
    config: RunConfig,
    manifest: Manifest,
    total_steps: int,
    total_tokens: int,
) -> RunState:
    """The state to start with: the recorded one, updated, or a new one."""
    now = utc_now()
    hardware = provenance.driver_hardware()
    fresh: dict[str, Any] = {
        "status": "running",
        "reason": "",
        "format": SEALED,
        "binding": identity.binding_of(config, manifest.fingerprint),
        "ended": None,
        "final": {},
        "manta_version": manta.__version__,
        "corpus": without_credentials(config.corpus),
        "total_steps": total_steps,
        "total_tokens": total_tokens,
        "val_tokens_per_byte": manifest.tokens_per_byte("validation"),
        "length_cost": manifest.length_cost,
        "git": provenance.git_state(Path.cwd()),
        "packages": provenance.package_versions(),
        "hardware": hardware,
        "updated": now,
    }
    if old is None:
        fork = read_fork(run_dir)
        state = RunState(
            name=config.run.name,
            created=now,
            corpus_fingerprint=manifest.fingerprint,
            fork=fork,
            eval_sample=fork.eval_sample if fork else "",
            history=fork.history if fork else Mark(),
            wandb=WandbState(id=secrets.token_hex(4)),
            **fresh,
        )
        if fork and fork.changes:
            state.add_event(
                f"forked from {fork.run} at step {fork.step:,}: {', '.join(fork.changes)}"
            )
        return state
    state = old.model_copy(update={**fresh, "drivers": old.drivers + 1})
    state.hardware = {**old.hardware, **hardware}
    if old.binding and old.binding != state.binding:
        state.once_bound = old.binding
    _close_last_group(state)
    _note_changed_code(old, state)
    return state


def take_eval_sample(state: RunState, eval_sample: str, last: int | None) -> str | None:
    """Switch a run to another evaluation sample; returns a note for people, or None.

    Args:
        state: the run's state, changed in place.
        eval_sample: digest of the ids of the samples; "" without evaluations.
        last: the last step that has a validation loss; None if there is none.
    """
    if not eval_sample or eval_sample == state.eval_sample:
        return None
    state.eval_sample = eval_sample
    if last is None:
        return None
    state.eval_from = last + 1
    state.results = Results(loss=state.results.loss, skipped_steps=state.results.skipped_steps)
    return (
        f"validation losses from step {last + 1:,} on are of other samples than those up to step "
        f"{last:,}, because this version of Manta draws them from all sources. They can't be "
        "compared, so the best loss and early stopping start anew"
    )


def _close_last_group(state: RunState) -> None:
    """Close the group that a killed driver left open, at the time of its last sign of life."""
    if state.groups and state.groups[-1].ended is None:
        group = state.groups[-1]
        heard = datetime.fromisoformat(group.started) + timedelta(seconds=group.seconds)
        group.ended = heard.isoformat(timespec="seconds")
        group.reason = "the driver was killed"


def _note_changed_code(old: RunState, new: RunState) -> None:
    """Note changed code and packages in the run, since either may change results."""
    if old.git != new.git:
        new.add_event(f"code: {_commit(old)} → {_commit(new)}")
    for package in sorted(old.packages.keys() | new.packages.keys()):
        before, after = old.packages.get(package), new.packages.get(package)
        if before != after:
            new.add_event(f"package: {package} {before} → {after}")


def _commit(state: RunState) -> str:
    if state.git is None:
        return "no git"
    return f"{state.git['commit'][:12]}{' (dirty)' if state.git['dirty'] else ''}"
