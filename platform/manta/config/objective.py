"""The section `objective` of a run's config."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from manta.config.on_change import OnChange
from manta.config.section import Section

OWN = "./FILE.py:NAME"
# Types whose model has a head for scores in place of an output layer for tokens.
SCORES = ("classify", "regression", "reward")
# Types of objective that read a key; `type` is read by all.
READ_BY: dict[str, tuple[str, ...]] = {
    "per": ("chat", "distill"),
    "loss": ("preference",),
    "beta": ("preference",),
    "reference": ("preference",),
    "label_smoothing": ("preference",),
    "gamma": ("preference",),
    "teacher": ("distill", OWN),
    "divergence": ("distill",),
    "kd_ratio": ("distill",),
    "temperature": ("distill",),
    "jsd_beta": ("distill",),
    "top_k": ("distill",),
    "options": (OWN,),
    "balance": ("causal",),
    "bias_rate": ("causal",),
}
# Keys that change how the loss is trained on or computed, but not what its value means.
SAME_MEANING = frozenset({"type", "balance", "bias_rate", "reference"})
# What a loss is: by type, where it is no cross-entropy of tokens.
NATS = "nats per token"
LOSS_IS = {
    "preference": "a mean over pairs",
    "distill": "a divergence per token",
    **dict.fromkeys(SCORES, "a mean over texts"),
    "reward": "a mean over pairs",
}
PairLossName = Literal["dpo", "ipo", "simpo", "orpo"]
# Losses of preferences that compare with a reference, and those that alone read a key.
COMPARE: tuple[PairLossName, ...] = ("dpo", "ipo")
READ_BY_LOSS: dict[str, tuple[PairLossName, ...]] = {
    "reference": COMPARE,
    "label_smoothing": ("dpo",),
    "gamma": ("simpo",),
}


class ObjectiveSection(Section):
    """What is trained on."""

    on_change: ClassVar[OnChange] = OnChange.FORK

    type: str = Field(
        default="causal",
        pattern=r"^(causal|chat|distill|preference|classify|regression|reward)$"
        r"|^.+\.py:[A-Za-z_][A-Za-z0-9_]*$",
        description="causal: cross-entropy of the next token; chat: that of the answers in "
        "conversations alone; distill: how far the model is from a teacher, of the labels that "
        "causal or chat would have; preference: a loss of pairs of answers, of which one was "
        "chosen; reward: a score of answers, learned from such pairs; classify: the cross-entropy "
        "of a text's class; regression: the squared error of the number that a text is labelled "
        "with; or one of your own, ./FILE.py:NAME, the path relative to the config file",
    )
    per: Literal["token", "sequence"] = Field(
        default="token",
        description="what chat averages over, and distill of conversations: all supervised tokens, "
        "or conversations, each by the mean of its own tokens",
    )
    loss: PairLossName = Field(
        default="dpo",
        description="what preference minimises: dpo or ipo, which compare with the model that the "
        "run began with; simpo or orpo, which need no other model",
    )
    beta: float | None = Field(
        default=None,
        gt=0,
        description="factor β of the rewards in dpo and simpo, τ of ipo, λ of orpo, the odds "
        "ratio's coefficient; if left out 2 for simpo, else 0.1",
    )
    reference: Literal["model", "precomputed"] = Field(
        default="model",
        description="whether that model computes beside the trained one, or what it says of the "
        "pairs was left beside the corpus by `manta precompute`",
    )
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=0.5,
        description="share of pairs whose answers dpo takes to be the wrong way round",
    )
    gamma: float | None = Field(
        default=None,
        ge=0,
        description="margin γ by which simpo wants the chosen answer's reward to be above the "
        "other's; 1 if left out",
    )
    teacher: str | None = Field(
        default=None,
        description="model with frozen weights that distill, or an objective of your own, compares "
        "with: a folder of Transformers, a name on its Hub, NAME or NAME@REVISION, or a run, RUN "
        "or RUN@STEP",
    )
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = Field(
        default="forward_kl",
        description="how far the teacher's probabilities P are from the model's Q, for distill: "
        "KL(P‖Q), KL(Q‖P), or between them the generalised Jensen-Shannon divergence",
    )
    kd_ratio: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="share of the divergence in what distill trains on; the rest is the "
        "cross-entropy of the corpus's tokens",
    )
    temperature: float = Field(
        default=1.0,
        gt=0,
        description="by what distill divides the logits of teacher and model; the divergence is "
        "multiplied by its square, so that its gradient keeps its size (Hinton et al., 2015)",
    )
    jsd_beta: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="weight of the teacher in the mixture that jsd compares with: near 0 it goes "
        "like KL(P‖Q), near 1 like KL(Q‖P) (Agarwal et al., 2024)",
    )
    top_k: int | None = Field(
        default=None,
        ge=1,
        description="most likely tokens of which distill has the teacher's probabilities, the rest "
        "as one, from what `manta precompute` left beside the corpus; null: all tokens, from the "
        "teacher beside the model",
    )
    options: dict[str, JsonValue] = Field(
        default_factory=dict, description="keyword arguments of an objective of your own"
    )
    balance: float = Field(
        default=0.0,
        ge=0,
        description="coefficient of a balance loss per sequence, for a model whose router chooses "
        "experts (DeepSeek-V3, equation 17); 0: none",
    )
    bias_rate: float = Field(
        default=0.0,
        ge=0,
        description="by how much each step moves a router's bias for its choice towards experts "
        "with less than the mean load, over the whole global batch (DeepSeek-V3: 0.001); 0: not",
    )

    @property
    def is_own(self) -> bool:
        """Whether it is one of the user's own."""
        return ":" in self.type

    @property
    def loss_is(self) -> str:
        """What its loss is, for people; of one of the user's own nothing is known."""
        return "" if self.is_own else LOSS_IS.get(self.type, NATS)

    @property
    def measured(self) -> str:
        """What a value of the loss means; values of runs that differ in it can't be compared.

        It is "" for distill, whose loss is that of causal or chat, whichever its corpus is for.
        """
        if self.type == "distill":
            return ""
        keys = self.model_dump(mode="json", exclude_defaults=True, exclude=set(SAME_MEANING))
        return " ".join([self.type, *(f"{name} {value}" for name, value in keys.items())])

    @property
    def precomputed_by(self) -> str | None:
        """The key by which what a frozen model says is from `manta precompute`; None if it isn't.

        Without it that model computes beside the trained one.
        """
        if self.top_k is not None:
            return "objective.top_k"
        return "objective.reference" if self.reference == "precomputed" else None

    @property
    def compares(self) -> bool:
        """Whether it compares with the model that the run began with."""
        return self.type == "preference" and self.loss in COMPARE

    @field_validator("loss", mode="before")
    @classmethod
    def _no_sum_over_pairs(cls, loss: str) -> str:
        if loss == "kto":
            raise ValueError(
                "kto is no sum over samples: it subtracts a divergence that is a mean over the "
                "samples of a forward pass, so its loss depends on how they are laid over workers; "
                "take dpo, ipo, simpo or orpo"
            )
        return loss

    @model_validator(mode="after")
    def _keys_are_of_the_loss(self) -> ObjectiveSection:
        for name, losses in READ_BY_LOSS.items():
            given = getattr(self, name) != type(self).model_fields[name].default
            if given and self.loss not in losses:
                raise ValueError(f"'{name}' is for loss {' or '.join(losses)}, not for {self.loss}")
        return self

    @model_validator(mode="after")
    def _distill_has_a_teacher(self) -> ObjectiveSection:
        if self.type == "distill" and self.teacher is None:
            raise ValueError("type distill needs 'teacher': a folder, a name on the Hub, or a run")
        return self

    @model_validator(mode="after")
    def _keys_are_of_the_type(self) -> ObjectiveSection:
        kind = OWN if self.is_own else self.type
        for name, types in READ_BY.items():
            default = type(self).model_fields[name].get_default(call_default_factory=True)
            if kind not in types and getattr(self, name) != default:
                raise ValueError(f"'{name}' is for type {' or '.join(types)}, not for {self.type}")
        return self
