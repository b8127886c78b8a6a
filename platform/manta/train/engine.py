"""One rank's model and optimizer, and the optimizer step."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from manta.config.errors import RunError
from manta.config.run import RunConfig
from manta.model import attention, visibility, weights
from manta.model import language_model as models
from manta.model.assembly import assemble
from manta.model.compiling import compile_layers, compile_module, no_fallback
from manta.model.mapped_weights import MappedFiles
from manta.model.own_net import OwnNet
from manta.objective.choose import objective_of
from manta.objective.protocol import Models
from manta.objective.weighing import Weighing
from manta.optimizer import build as optimizers
from manta.parallel.exact_gradients import ExactGradients, ShardedGradients, WholeGradients
from manta.parallel.exact_sum import Grid
from manta.parallel.exchange import accelerator_of, check_all_are_seen, prepared, taken_back
from manta.parallel.host_to_device import to_device
from manta.parallel.masters import RoundedWeights
from manta.parallel.mesh import mesh_of
from manta.parallel.ranks import Ranks
from manta.parallel.sharding import layers_of, replicated, shard
from manta.sample.columns import Columns
from manta.schedule import Schedule, Step
from manta.schedule.lengths import Lengths
from manta.state.base_weights import fingerprint_of_base
from manta.state.trained import Trained
from manta.stream.ledger import digest_bytes
from manta.stream.plan import RankBatch
from manta.train import exact_step
from manta.train.device_kind import warn_of_unlike
from manta.train.expert_bias import ExpertBias
from manta.train.frozen import frozen_beside
from manta.train.guards import Guard
from manta.train.microbatch import one_size
from manta.train.passes import Pass, Passes
from manta.train.pause import PauseSwitch
from manta.train.step_sums import StepSums, SumsByRank
from manta.train.timing import Point, StepClock, last_gradient

CLIP_EPS = 1e-6  # as in Torch's clipping


@dataclass(frozen=True)
class StepResult:
    """What a step leaves behind, still on the device and not yet waited for.

    Attributes:
        loss: this rank's part of the loss that is trained on, scalar.
        sums: this rank's sums of the terms, shape (terms,).
        weights: divisor of each term's sum: the step's weights over all ranks, shape (terms,).
        grad_norm: norm of the global gradient before clipping, scalar.
        votes: votes for a pause, summed over ranks, int64 (3,).
        digest: `digest_bytes` of the samples, summed over ranks, int64 (8,).
        shares: each rank's sums, and what it has of its first pass (`train/first_pass.py`), shape
            (ranks, terms + 3), for who asked for them.
    """

    loss: Tensor
    sums: Tensor
    weights: Tensor
    grad_norm: Tensor
    votes: Tensor
    digest: Tensor
    shares: Tensor | None = None


class Engine:
    """One rank's forward and backward passes and updates of what is trained.

    Attributes:
        trained: model, optimizer and scaler.
        ranks: the ranks whose gradients are summed.
        device: the model's device.
        objective: the objective that is trained on.
        frozen: model that the objective compares with; None if it needs none.
        model: module called in a forward pass; it sums the objective's terms over its rows.
        lengths: lengths of the rows that the model sees.
        updating: whether model and optimizer are between two steps, or were left so.

    Expects `torch.distributed` to be initialised where there is more than one rank.

    Raises:
        ConfigError: if the config can't be run on this device.
        TrainingError: if Accelerate does not see all ranks.
    """

    def __init__(
        self,
        config: RunConfig,
        resolved: PretrainedConfig | OwnNet,
        *,
        examine: bool = False,
        empty: bool = False,
        joins: bool = False,
    ) -> None:
        """Make the model.

        Args:
            config: the run.
            resolved: the run's resolved model.
            examine: look at what the model sees of a sample, as no small one of its kind was tried.
            empty: leave the weights without values, for who loads them or calls `initialise`.
            joins: exchange nothing with other ranks yet: for who calls `lay` then.
        """
        self.config, self._resolved = config, resolved
        self._exact = config.train.reproducible == "any_world_size"
        torch.set_float32_matmul_precision(config.train.matmul_precision)
        self.accelerator = accelerator_of(config)
        self.device = self.accelerator.device
        self.ranks = Ranks(self.device)
        check_all_are_seen(self.accelerator, self.ranks)
        several = config.parallel.shard and self.ranks.world_size > 1
        mesh = mesh_of(config.parallel.shard, self.ranks.world_size) if several else None
        sharded = mesh is not None
        lm = self._assembled(examine=examine, sharded=sharded)
        self._empty = weights.without_values(lm)
        if self._empty:
            weights.give_memory(lm, self.device, sharded=sharded)
        # Neither the optimizer nor a schedule is prepared: Accelerate's optimizer looks for
        # packages on disk at each step, and it would step a schedule once for each process.
        optimizer = optimizers.build(
            config.optimizer, lm, config.schedule.horizon, config.model.parametrization
        )
        copied = config.train.param_dtype == "bf16" and not sharded
        self._rounded = RoundedWeights(lm, collects=not self._exact) if copied else None
        self.trained = Trained(
            lm, optimizer, self.accelerator.scaler, mesh, self.ranks, self._rounded
        )
        self._parameters = [p for p in lm.parameters() if p.requires_grad]
        computing = self._rounded.lm if self._rounded else lm
        rate = config.objective.bias_rate
        self._expert_bias = ExpertBias(rate, lm, computing, self.ranks) if rate else None
        self.objective = objective_of(config, resolved)
        self._weighing = Weighing(self.objective.terms, self.device)
        self.frozen = frozen_beside(config, self.device, sharded=sharded)
        self._mapped = MappedFiles.now() if self._holds_frozen else MappedFiles()
        self._computing = computing
        self._module = self.objective.module(Models(computing, self.frozen))
        self._gradients = self._exact_gradients() if self._exact else None
        # What is compiled has one shape: shorter forward passes are filled with blank rows.
        self._compiles = config.train.compile or attention.is_compiled(lm)
        self._laid_before = False
        self.lengths = Lengths.resolve(config.train, config.schedule.horizon)
        self.guard = Guard(config.guards, self.device)
        self.pause = PauseSwitch()
        self.clock = StepClock(self.device, None)
        self.updating = False
        if joins:
            return
        self.lay()
        if empty:
            self.begin()
        else:
            self.initialise()

    def begin(self) -> None:
        """Make ready to load a saved state. All ranks must call together."""
        # Frozen weights are not saved: each start takes them from where the run took them first.
        if self.config.model.freezes:
            self.initialise()

    def lay(self) -> None:
        """Lay the model over the ranks of the process group. All ranks must call together."""
        if self._exact:
            warn_of_unlike(self.ranks)
        # A lone rank exchanges no gradients, and FSDP2 exchanges its own: neither gets DDP.
        self._exchanges = self.ranks.world_size > 1 and not self.trained.sharded and not self._exact
        self.model = self._prepare_model(self._module)
        self._most_rows = self._most_rows_of_a_pass()
        self._passes = Passes(
            self.model,
            self._weighing,
            self.accelerator.scaler,
            self._most_rows if self._compiles else 1,
            self._expert_bias,
        )
        self._sums = self._exact_sums() if self._exact else self._sums_by_rank()
        self._compiled: set[str] = set()
        last = last_gradient(self._computing) if self._exchanges else None
        self.clock = StepClock(self.device, last)

    def leave(self) -> None:
        """Let go of the process group, which can be destroyed then; the model stays as it is."""
        self.clock.end_watch()
        # All that holds DDP, which holds the process group's connections; there is nothing of it
        # if the group fell apart before `lay`.
        for name in ("_passes", "_sums", "accelerator"):
            self.__dict__.pop(name, None)
        if isinstance(self._gradients, WholeGradients):
            self._gradients.abandon()
        self.model = self._module
        taken_back(self._module)
        self.trained.optimizer.zero_grad(set_to_none=True)
        if self._rounded:
            self._rounded.clear()

    def warm_up(self, batch: RankBatch) -> None:
        """Run a forward and a backward pass without an update.

        The first pass of a process is slower than later ones, most of all where the model is
        compiled. For a lone rank that leaves its group afterwards; its weights are lost.

        Args:
            batch: all rows of a step.
        """
        with torch.no_grad():
            for weight in self.trained.lm.parameters():
                if weight.is_floating_point():
                    weight.zero_()  # memory without values may have some that are slow to compute
        self.trained.weights_changed()
        passes = self._sums.passes(batch)[:1]
        weights = self._sums.weights(self._sums.counted(batch, passes))
        self._sums.accumulate(batch, passes, weights)

    def rejoin(self) -> None:
        """Take part in another process group, after `leave`; `lay` follows.

        Raises:
            TrainingError: if Accelerate does not see all ranks.
        """
        # The forward pass of a module that was laid once has autocast for good.
        self.accelerator = accelerator_of(self.config, casts=not self._laid_before)
        self.ranks = Ranks(self.device)
        check_all_are_seen(self.accelerator, self.ranks)
        self.trained = replace(self.trained, ranks=self.ranks)
        if self._expert_bias is not None:
            self._expert_bias.ranks = self.ranks
        if isinstance(self._gradients, WholeGradients):
            self._gradients.ranks = self.ranks
        self.pause = PauseSwitch()

    def _assembled(self, *, examine: bool, sharded: bool) -> nn.Module:
        """The model, checked, and split over ranks if it is `sharded`."""
        config, resolved = self.config, self._resolved
        lm = assemble(config, resolved, self.device, whole=examine)
        if examine and not isinstance(resolved, OwnNet):
            visibility.examine(config, lm, resolved.get_text_config().vocab_size)
        if self._exact:
            exact_step.prepare(lm, config, self.device)
        if sharded:
            if config.train.compile:
                compile_layers(layers_of(lm))
            shard(lm, self.device, config)
        return lm

    def initialise(self) -> None:
        """Give the model the weights that a run begins with. All ranks must call together."""
        if self._empty:
            weights.fill(self.trained.lm, lambda: models.build(self.config, self._resolved))
            self._empty = False
        if self.config.model.freezes:
            base = fingerprint_of_base(self.trained.lm, self.ranks)
            self.trained = replace(self.trained, base=base)
            self._mapped = MappedFiles.now()
        self.trained.weights_changed()

    @property
    def _holds_frozen(self) -> bool:
        return self.config.model.freezes or self.frozen is not None

    def check_frozen(self) -> None:
        """See that nobody has written to files of frozen weights. All ranks must call together.

        Raises:
            RunError: if somebody has, as processes share the pages of such a file.
        """
        if not self._holds_frozen:
            return
        changed = self._mapped.changed()
        if self.ranks.any(changed is not None):
            raise RunError(
                f"{changed or 'the file of the frozen weights, on another node'}: was written to "
                "while the run computed by it, so its last steps are worth nothing: restore the "
                "file, and run the same command again, which goes on from the last checkpoint"
            )

    def _prepare_model(self, module: nn.Module) -> nn.Module:
        model = prepared(
            module, self.accelerator, self.config, self._rounded, exchanges=self._exchanges
        )
        if self.config.train.compile and not self.trained.sharded and not self._laid_before:
            compile_module(self.accelerator.unwrap_model(model, keep_torch_compile=True))
        self._laid_before = True
        return model

    def _most_rows_of_a_pass(self) -> int:
        if not self._compiles:
            return self.config.train.micro_batch
        plateaus = Schedule.resolve(self.config.schedule, self.config.train.seq_len).plateaus
        if self._exact:
            return min(self.config.train.micro_batch, max(each.batch for each in plateaus))
        return one_size(plateaus, self.ranks.world_size, self.config.train.micro_batch)

    def _sums_by_rank(self) -> StepSums:
        return SumsByRank(
            self.config,
            self.objective,
            self._passes,
            self.trained,
            self.accelerator,
            lengths=self.lengths,
            most_rows=self._most_rows,
            exchanges=self._exchanges,
        )

    @property
    def _grid(self) -> Grid:
        return Grid(self.config.train.clip_norm or 1.0)

    def _exact_gradients(self) -> ExactGradients:
        if self.trained.sharded:
            return ShardedGradients(self.trained.lm, self._grid)
        pairs = self._rounded.pairs if self._rounded else [(p, p) for p in self._parameters]
        return WholeGradients(pairs, self.ranks, self._grid)

    def _exact_sums(self) -> StepSums:
        assert self._gradients is not None
        return exact_step.ExactSums(
            self.config,
            self.objective,
            self._passes,
            self.trained,
            self._gradients,
            self._grid,
            self.lengths,
        )

    # ------------------------------------------------------------------ the step

    def compiles_for_step(self, step: Step) -> bool:
        """Whether the forward pass of a step compiles: the first one of each length."""
        return self.compiles_for(f"steps of {self.lengths.at(step.tokens)}")

    def compiles_for(self, kind: str) -> bool:
        """Whether the next forward pass of a step or an evaluation compiles: the first of each."""
        new = kind not in self._compiled
        self._compiled.add(kind)
        return new and self._compiles

    def largest_pass(self, batch_size: int) -> int:
        """Rows of the largest forward pass of a step, over all ranks, blank ones included."""
        return self._most_rows if self._compiles else self._sums.largest_pass(batch_size)

    def step(self, batch: RankBatch, *, shares: bool = False) -> StepResult:
        """One optimizer update on this rank's rows of a global batch.

        Each term is its sum over all ranks divided by its weight over all ranks, so it
        does not depend on how the rows are laid over ranks and micro-batches.

        Args:
            batch: this rank's rows.
            shares: whether each rank is to know the sums of all. They are exchanged before the
                update, so that once it is made nothing is known to one rank alone.
        """
        passes = self._sums.passes(batch)
        weights, votes, digest = self._weights(batch, passes)
        with self._casting_once(len(passes)):
            sums = self._sums.accumulate(batch, passes, weights, probes=shares)
        self.clock.mark(Point.EXCHANGED)
        loss = self._weighing.loss(sums, weights)
        everyone = self.ranks.gathered(torch.cat([sums, self._sums.probe])) if shares else None
        grad_norm = self._update(batch.step, loss)
        self.clock.end(len(batch.ids))
        return StepResult(loss, sums, weights, grad_norm, votes, digest, everyone)

    def _weights(self, batch: RankBatch, passes: list[Pass]) -> tuple[Tensor, Tensor, Tensor]:
        """The terms' weights, votes for a pause and digest, over all ranks in one exchange."""
        counted = self._sums.counted(batch, passes)
        votes, digest = self.pause.votes(), digest_bytes(batch.ids)
        beside = to_device(torch.tensor([*votes, *digest]), self.device)
        self.clock.mark(Point.COUNTS)
        summed = self.ranks.sum(torch.cat([counted, beside]))
        self.clock.mark(Point.COUNTED)
        sizes = [len(counted), len(votes), len(digest)]
        counts, asked, read = torch.split(summed, sizes)
        return self._sums.weights(counts), asked.long(), read.long()

    def digest(self, batch: RankBatch) -> Tensor:
        """`digest_bytes` of a step that is passed over, summed over ranks, int64 (8,)."""
        return self.ranks.sum(torch.tensor(digest_bytes(batch.ids), device=self.device))

    def _update(self, step: Step, loss: Tensor) -> Tensor:
        """Clip, check and apply the gradient; returns its norm before clipping.

        Args:
            step: number of the step, from 1.
            loss: this rank's part of the loss, scalar.
        """
        scaler = self.trained.scaler
        if scaler is not None:
            scaler.unscale_(self.trained.optimizer)
        parameters = [p for p in self._parameters if p.grad is not None]
        norm = self._sums.norm(parameters)
        self._clip(parameters, norm)
        dropped = self._guard(step.number, loss, norm)
        self.updating = True
        optimizers.prepare(self.trained.optimizer, step)
        if scaler is None:
            self.trained.optimizer.step()
        else:
            scaler.step(self.trained.optimizer)
            scaler.update()
        self.trained.optimizer.zero_grad(set_to_none=True)
        if self._expert_bias is not None and dropped is not None:
            self._expert_bias.move(dropped)
        self.trained.weights_changed()
        self.updating = False
        return norm

    def _clip(self, parameters: list[nn.Parameter], norm: Tensor) -> None:
        """Have a gradient of more than `train.clip_norm` cut to it."""
        limit = self.config.train.clip_norm
        if limit is None:
            return
        if self._takes_orders():
            # As it reads the gradient, which Torch's own clipping reads and writes once more.
            over = ((norm + CLIP_EPS) / limit).clamp(min=1)
            self.trained.optimizer.grad_scale = self._order(over)  # type: ignore[attr-defined]
        else:
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)

    def _takes_orders(self) -> bool:
        """Whether the optimizer drops updates and divides gradients; in fp16 the scaler does."""
        return self.trained.scaler is None and optimizers.takes_orders(self.trained.optimizer)

    def _order(self, value: Tensor) -> Tensor:
        """A scalar that all ranks have, as the optimizer reads it beside split parameters."""
        return replicated(value, self._parameters[0]) if self.trained.sharded else value

    def _guard(self, step: int, loss: Tensor, norm: Tensor) -> Tensor | None:
        """Have the update dropped if the step is bad; returns whether it is, None in fp16."""
        if self.trained.scaler is not None:
            return None  # overflow is the fp16 scaler's everyday business: it skips the update
        values = torch.stack([loss.double(), norm.double()])
        if self.guard.judges_spikes:
            values = self._sums.shared(values)
        dropped = self.guard.observe(step, values)
        if self._takes_orders():
            self.trained.optimizer.found_inf = self._order(dropped)  # type: ignore[attr-defined]
        elif dropped.item():
            self.trained.optimizer.zero_grad(set_to_none=True)
        return dropped

    def _casting_once(self, passes: int) -> AbstractContextManager[Any]:
        """In it, autocast casts each weight for all forward passes, not in each of them.

        Torch's cache of casts lasts until the outermost `autocast` ends, even one that is off. The
        copies then outlive a forward pass, which who recomputes activations has no memory for.
        """
        if passes <= 1 or self.config.train.activation_checkpointing:
            return nullcontext()
        return torch.autocast(self.device.type, enabled=False)

    # ---------------------------------------------------------------- evaluation

    @torch.no_grad()
    def measure(self, samples: Columns, most: int = 1) -> tuple[Tensor, Tensor]:
        """Sums and weights of the objective's terms over `samples`, without training.

        Args:
            samples: the samples of one forward pass.
            most: samples in any pass of the evaluation, to which a compiled model is filled up.
        """
        inputs = self.objective.inputs(samples, self.device)
        width = most if self._compiles else 1
        self.model.eval()
        with no_fallback():
            sums: Tensor = self.model(*inputs.rows(slice(0, len(inputs)), width))
        self.model.train()
        return sums, self.objective.weights(inputs)
