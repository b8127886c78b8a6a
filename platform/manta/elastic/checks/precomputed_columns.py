"""What a frozen model says of a corpus, for a run that has it precomputed: found, or asked for."""

from __future__ import annotations

from manta.config.errors import ConfigError, CorpusError
from manta.config.run import RunConfig
from manta.corpus.manifest import Manifest, Split
from manta.elastic.checks.frozen_source import frozen_vocabulary
from manta.sample.format import Format
from manta.stream.precomputed import (
    PrecomputedManifest,
    ReferenceSettings,
    TeacherSettings,
    WithPrecomputed,
)

# Keys that decide what is said, beside corpus and model.
TEACHER_KEYS = "train.seq_len, data.document_mask and objective.temperature"
REFERENCE_KEYS = "train.seq_len, train.precision and train.param_dtype"


def settings_of(
    config: RunConfig, manifest: Manifest, frozen: str
) -> TeacherSettings | ReferenceSettings:
    """All that decides what the frozen model of a run says of its corpus.

    Args:
        config: the run's, whose objective has it precomputed.
        manifest: manifest of the run's corpus.
        frozen: fingerprint of the frozen model.

    Raises:
        ConfigError: if a teacher has no more tokens than are to be kept of each.
    """
    objective, train = config.objective, config.train
    if objective.top_k is None:
        return ReferenceSettings(
            corpus=manifest.fingerprint,
            reference=frozen,
            seq_len=train.seq_len,
            precision=train.precision,
            param_dtype=train.param_dtype,
        )
    vocabulary = frozen_vocabulary(config)
    if objective.top_k >= vocabulary:
        raise ConfigError(
            f"objective.top_k = {objective.top_k}: the teacher's vocabulary has {vocabulary} "
            "tokens: take fewer, or leave it out to have the teacher compute beside the model"
        )
    return TeacherSettings(
        corpus=manifest.fingerprint,
        teacher=frozen,
        seq_len=train.seq_len,
        document_mask=config.data.document_mask,
        temperature=objective.temperature,
        top_k=objective.top_k,
        vocabulary=vocabulary,
    )


def with_precomputed(
    config: RunConfig, manifest: Manifest, frozen: str, form: Format, split: Split
) -> Format:
    """The format of a split's samples, with what was precomputed of them if the run asks for it.

    Raises:
        ConfigError: if it isn't there yet, with the command that computes it.
    """
    key = config.objective.precomputed_by
    if key is None:
        return form
    folder = settings_of(config, manifest, frozen).folder(config.corpus)
    try:
        PrecomputedManifest.read(folder)
    except (OSError, CorpusError) as error:
        asked, decided = f"{key} = {config.objective.top_k}: what the teacher", TEACHER_KEYS
        if config.objective.top_k is None:
            asked, decided = f"{key} = 'precomputed': what the reference", REFERENCE_KEYS
        raise ConfigError(
            f"{asked} says of {config.corpus} at these {decided} is not in {folder} "
            f"({type(error).__name__}): `manta precompute` with this config puts it there; or "
            f"leave {key} out"
        ) from None
    return WithPrecomputed(form, folder, split)
