"""The objective of a run, by its config."""

from __future__ import annotations

from transformers import PretrainedConfig

from manta.config.errors import ConfigError
from manta.config.objective import ObjectiveSection
from manta.config.own_code import OwnCode, own
from manta.config.run import RunConfig
from manta.model.divergence import Measure
from manta.model.model_class import classes_of
from manta.model.own_net import OwnNet
from manta.objective.balanced import BalancedCausal
from manta.objective.causal import Causal
from manta.objective.distill import Distillation
from manta.objective.labelled_texts import Classification, Regression
from manta.objective.preference import Preference
from manta.objective.protocol import Objective
from manta.objective.reward import Reward
from manta.objective.sft import SupervisedFineTuning

NEEDED = ("columns", "terms", "module", "inputs", "weights")


def objective_of(config: RunConfig, resolved: PretrainedConfig | OwnNet) -> Objective:
    """What a run trains on.

    Args:
        config: the run's config.
        resolved: the run's resolved model, which names the classes that it tells apart.

    Raises:
        ConfigError: if an objective of the user's own can't be made, naming file and remedy.
    """
    section, code = config.objective, own(config, "objective.type")
    if code is not None:
        return _own(section, code)
    if section.type == "chat":
        return SupervisedFineTuning(document_mask=config.data.document_mask, per=section.per)
    if section.type == "distill":
        return Distillation(
            _measure(section),
            document_mask=config.data.document_mask,
            per=section.per,
            precomputed=section.top_k is not None,
        )
    if section.type == "preference":
        return Preference(section)
    if section.type == "classify":
        return Classification(classes_of(resolved), document_mask=config.data.document_mask)
    if section.type == "regression":
        return Regression(document_mask=config.data.document_mask)
    if section.type == "reward":
        return Reward(document_mask=config.data.document_mask)
    if section.balance:
        return BalancedCausal(section.balance, document_mask=config.data.document_mask)
    return Causal(document_mask=config.data.document_mask)


def _measure(section: ObjectiveSection) -> Measure:
    return Measure(section.divergence, section.kd_ratio, section.temperature, section.jsd_beta)


def _own(section: ObjectiveSection, code: OwnCode) -> Objective:
    made = code.made(**section.options)
    missing = [needed for needed in NEEDED if not hasattr(made, needed)]
    if missing:
        raise ConfigError(
            f"objective.type = '{section.type}': it has no {', '.join(missing)}; an objective has "
            f"{', '.join(NEEDED)}, as manta/objective/protocol.py says"
        )
    objective: Objective = made
    return objective
