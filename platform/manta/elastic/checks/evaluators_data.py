"""Checks what a run's evaluators read, and the resources that they ask for, before it trains."""

from __future__ import annotations

from collections.abc import Mapping

from manta.config.errors import ConfigError, MantaError, RunError
from manta.config.evaluation import EVALUATORS
from manta.config.evaluation_files import evaluation_of
from manta.config.metrics import RESERVED
from manta.config.objective import SCORES
from manta.config.run import RunConfig

KEY = "eval.evaluators"
# Sections of an evaluation that need a model which writes tokens.
OF_LANGUAGE = ("splits", "generations", "tasks")


def check_evaluators(config: RunConfig) -> None:
    """Read the data of a run's evaluators, as an evaluation would. Imports Torch.

    Raises:
        MantaError: naming what can't be used.
    """
    evaluation = evaluation_of(config)
    if evaluation is None:
        return
    for name in (name for section in EVALUATORS for name in getattr(evaluation, section)):
        if name in RESERVED:
            raise ConfigError(
                f"{KEY}.config: an evaluator beside training can't be called '{name}', as rows of "
                "training have such metrics: rename it"
            )
    if config.objective.type in SCORES:
        for section in OF_LANGUAGE:
            for name in getattr(evaluation, section):
                raise ConfigError(
                    f"{KEY}.config: {section}.{name}: a model with objective.type = "
                    f"'{config.objective.type}' gives scores and writes no text: take calibration "
                    "with labelled texts, or a metric of your own"
                )
    from manta.evaluate.run_evaluation import check_final, made

    try:
        check_final(made(evaluation, config), final=False)
    except MantaError as error:
        raise type(error)(f"{KEY}.config: {error}") from None


def resources_of(config: RunConfig) -> dict[str, float]:
    """Ray resources of an evaluation of a run's checkpoint."""
    section = config.eval.evaluators
    asked = None if section is None else section.resources
    return dict(config.scaling.resources_per_worker if asked is None else asked)


def check_evaluators_fit(config: RunConfig, have: Mapping[str, float]) -> None:
    """Refuse evaluations that need more than all resources together.

    Raises:
        RunError: naming the resource.
    """
    if config.eval.evaluators is None:
        return
    for name, amount in resources_of(config).items():
        if name in have and amount > have[name]:
            raise RunError(
                f"{KEY}.resources: an evaluation needs {amount:g} {name}, but there are "
                f"{have[name]:g}, so none would ever start: lower {KEY}.resources.{name}, or run "
                "on a cluster that has it"
            )
