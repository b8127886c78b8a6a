"""What a teacher says of a corpus, for a run that has it precomputed: found, or asked for."""

from __future__ import annotations

from manta.config.errors import ConfigError, CorpusError
from manta.config.run import RunConfig
from manta.corpus.manifest import Manifest, Split
from manta.elastic.checks.frozen_source import frozen_vocabulary
from manta.sample.format import Format
from manta.stream.precomputed import PrecomputedManifest, TeacherSettings, WithPrecomputed


def settings_of(config: RunConfig, manifest: Manifest, frozen: str) -> TeacherSettings:
    """All that decides what the teacher of a run says of its corpus.

    Args:
        config: the run's, with `objective.top_k`.
        manifest: manifest of the run's corpus.
        frozen: fingerprint of the teacher.

    Raises:
        ConfigError: if the teacher has no more tokens than are to be kept of each.
    """
    objective, vocabulary = config.objective, frozen_vocabulary(config)
    assert objective.top_k is not None
    if objective.top_k >= vocabulary:
        raise ConfigError(
            f"objective.top_k = {objective.top_k}: the teacher's vocabulary has {vocabulary} "
            "tokens: take fewer, or leave it out to have the teacher compute beside the model"
        )
    return TeacherSettings(
        corpus=manifest.fingerprint,
        teacher=frozen,
        seq_len=config.train.seq_len,
        document_mask=config.data.document_mask,
        temperature=objective.temperature,
        top_k=objective.top_k,
        vocabulary=vocabulary,
    )


def with_precomputed(
    config: RunConfig, manifest: Manifest, frozen: str, form: Format, split: Split
) -> Format:
    """The format of a split's samples, with what the teacher says of them if that is precomputed.

    Raises:
        ConfigError: if it isn't there yet, with the command that computes it.
    """
    if config.objective.top_k is None:
        return form
    folder = settings_of(config, manifest, frozen).folder(config.corpus)
    try:
        PrecomputedManifest.read(folder)
    except (OSError, CorpusError) as error:
        raise ConfigError(
            f"objective.top_k = {config.objective.top_k}: what the teacher says of {config.corpus} "
            f"at these train.seq_len, data.document_mask and objective.temperature is not in "
            f"{folder} ({type(error).__name__}): `manta precompute` with this config puts it "
            "there; or leave objective.top_k out"
        ) from None
    return WithPrecomputed(form, folder, split)
