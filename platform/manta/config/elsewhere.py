"""Keys that people know from other tools, and the keys of Manta's configs that do the same.

Each entry has names of other tools, and the message for them, which names Manta's own keys. A name
is looked up with its section before it (``eval.steps`` as ``eval_steps``), then alone.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

from manta.config.document import KeyPath

# Keys for a run's config.
RUN = (
    (
        "batch_size global_batch_size total_batch_size train_batch_size effective_batch_size",
        "the samples of a step are schedule.batch; train.micro_batch is the most in one "
        "forward pass",
    ),
    (
        "micro_batch_size mini_batch_size device_batch_size local_batch_size eval_batch_size "
        "per_device_batch_size per_device_train_batch_size per_device_eval_batch_size",
        "the most samples in one forward pass are train.micro_batch; those of a "
        "whole step are schedule.batch",
    ),
    (
        "gradient_accumulation_steps gradient_accumulation grad_accum grad_accum_steps "
        "accumulate_grad_batches accumulation_steps accum_steps",
        "the number follows from other keys: a step of schedule.batch samples is cut into forward "
        "passes of at most train.micro_batch",
    ),
    (
        "learning_rate max_lr base_lr peak_lr init_lr max_learning_rate optimizer_learning_rate",
        "the learning rate is schedule.lr, a number or such as {name: wsd, peak: 3e-4, warmup: 2%, "
        "decay: 20%}",
    ),
    (
        "min_lr end_lr final_lr min_learning_rate lr_min min_lr_ratio",
        "the rate at the end of the decay is schedule.lr.floor",
    ),
    (
        "warmup_steps warmup_ratio warmup_tokens warmup_iters num_warmup_steps "
        "lr_warmup lr_warmup_steps",
        "the warmup is schedule.lr.warmup, in tokens or as a share such as 2%",
    ),
    (
        "lr_scheduler lr_scheduler_type lr_schedule scheduler scheduler_type lr_decay lr_policy "
        "lr_decay_style decay_lr lr_decay_iters",
        "the learning-rate schedule is schedule.lr, such as {name: cosine, peak: 3e-4, warmup: 2%}",
    ),
    (
        "epochs num_epochs n_epochs num_train_epochs max_epochs total_epochs epoch",
        "a run ends after schedule.horizon tokens: the epochs times the tokens of the corpus's "
        "train split, which `manta inspect` shows",
    ),
    (
        "steps max_steps num_steps total_steps train_steps num_train_steps max_train_steps "
        "max_iters iterations num_iterations max_iterations train_iters",
        "a run ends after schedule.horizon tokens: the steps times schedule.batch times "
        "train.seq_len",
    ),
    (
        "tokens max_tokens total_tokens train_tokens num_tokens token_budget",
        "the tokens of a run are schedule.horizon",
    ),
    (
        "data_weights data_mixture mixture_weights source_weights sampling_weights "
        "dataset_weights train_weights interleave_probs probabilities",
        "how much comes from which source is data.mixture, such as "
        "{sources: {web: {weight: 90}, code: {weight: 10}}}",
    ),
    (
        "resume resume_from resume_from_checkpoint restart restore load_checkpoint load_from "
        "ckpt_path checkpoint_path init_from from_checkpoint run_resume checkpoint_resume "
        "checkpoint_load load",
        "a run resumes by itself when the same run.name is given again; to start from another "
        "model's weights, set model.pretrained",
    ),
    (
        "overwrite overwrite_output_dir run_overwrite fresh",
        "`manta train --fresh` refuses to continue a run; to begin another, change run.name",
    ),
    (
        "loraplus lora_plus loraplus_lr_ratio loraplus_lr_embedding lora_plus_ratio",
        "rates of their own are optimizer.groups, for LoRA+ [{names: ['*lora_B*'], lr: 16}]",
    ),
    (
        "lora lora_config lora_r lora_rank lora_alpha lora_dropout lora_target_modules "
        "target_modules peft peft_config peft_type use_peft use_lora adapter adapters",
        "an adapter is model.adapter, such as {type: lora, rank: 16, targets: all-linear}; weights "
        "that are trained beside it are model.train",
    ),
    (
        "freeze frozen freeze_layers unfreeze trainable requires_grad modules_to_save "
        "lora_modules_to_save unfrozen_parameters num_layers_unfrozen",
        "what is trained is chosen by model.train or model.freeze, patterns of parameter names",
    ),
    (
        "qlora load_in_4bit load_in_8bit quantization quantization_config use_qlora quantize_base "
        "bnb_4bit_quant_type bnb_config bits",
        "the frozen weights beside model.adapter are held in 4 or 8 bits by model.quantize, nf4 or "
        "int8",
    ),
    (
        "assistant_only_loss completion_only_loss train_on_inputs train_on_prompt mask_prompt "
        "response_only sft",
        "with objective.type: chat only the answers of conversations are trained on",
    ),
    (
        "dpo preferences dpo_beta pref_beta pref_loss simpo_gamma ref_model reference_model "
        "model_ref sync_ref_model precompute_ref_log_probs",
        "it is objective.type: preference, with objective.loss and objective.beta; the reference "
        "is the model that the run begins with, model.pretrained",
    ),
    (
        "num_labels num_classes n_classes id2label label2id labels label_names problem_type "
        "classifier_dropout classification",
        "with objective.type: classify the classes and their names are the corpus's, found by "
        "`manta prepare` (section labelled)",
    ),
    (
        "reward reward_model reward_modeling train_reward_model center_rewards_coefficient",
        "a reward model is trained by objective.type: reward, on a corpus of pairs "
        "(chat.records: pairs)",
    ),
    (
        "loss loss_fn loss_type criterion label_smoothing z_loss task",
        "use `objective.type`: the cross-entropy of the next token, or an objective of your own",
    ),
    (
        "num_workers workers world_size num_gpus n_gpus gpus ngpus devices n_devices num_devices "
        "nnodes num_nodes nodes nproc_per_node num_processes gpus_per_node",
        "the workers are scaling.min to scaling.max, and what each of them has is "
        "scaling.resources_per_worker",
    ),
    ("min_workers min_nodes", "the fewest workers are scaling.min"),
    ("max_workers max_nodes", "the most workers are scaling.max"),
    (
        "use_gpu gpu gpus_per_worker num_gpus_per_worker device accelerator cpu cpus num_cpus "
        "cpus_per_worker resources memory",
        "what a worker has is scaling.resources_per_worker, such as {GPU: 1, CPU: 8}",
    ),
    (
        "dataloader_num_workers num_data_workers data_workers prefetch prefetch_factor pin_memory "
        "data_num_workers",
        "there is nothing to set: samples are read ahead while the workers train",
    ),
    (
        "shuffle shuffle_buffer shuffle_seed data_shuffle",
        "samples are always shuffled, all of them, by run.seed",
    ),
    ("random_seed data_seed torch_seed manual_seed", "the seed of a run is run.seed"),
    (
        "output_dir out_dir out output save_dir log_dir logging_dir work_dir workdir exp_dir "
        "experiment_dir checkpoint_dir ckpt_dir save_path output_path checkpoint_folder",
        "a run's folder, with all of its files, is run.name in run.storage",
    ),
    (
        "run_name experiment experiment_name exp_name job_name run_id wandb_name wandb_run_name "
        "wandb_id project_name",
        "a run's name is run.name, also in Weights & Biases",
    ),
    (
        "tf32 allow_tf32 use_tf32 float32_matmul_precision fp32_matmul_precision",
        "TF32 on CUDA is train.matmul_precision: high",
    ),
    (
        "fp16 bf16 fp32 amp use_amp mixed_precision dtype torch_dtype half "
        "model_dtype precision_plugin",
        "use train.precision: no (float32), bf16 or fp16",
    ),
    (
        "master_weights bf16_full bf16_full_train pure_bf16 params_dtype weights_dtype "
        "use_master_weights",
        "weights in bf16, with float32 ones in the optimizer, are train.param_dtype: bf16",
    ),
    (
        "max_grad_norm grad_clip gradient_clip_val gradient_clipping clip clip_grad "
        "clip_grad_norm grad_norm_clip optimizer_clip gradient_clip",
        "gradients are clipped to train.clip_norm; null does not clip",
    ),
    (
        "max_seq_len max_seq_length max_length seq_length sequence_length sequence_len block_size "
        "context_length context_len context_size ctx_len n_ctx window model_max_length",
        "the tokens of a sample are train.seq_len",
    ),
    (
        "gradient_checkpointing grad_checkpointing activation_ckpt ac remat recompute "
        "checkpoint_activations",
        "use train.activation_checkpointing",
    ),
    ("torch_compile use_compile compile_model model_compile", "use train.compile"),
    (
        "fsdp fsdp2 zero zero_stage deepspeed ddp strategy parallelism distributed shard "
        "data_parallel sharding",
        "parameters are split over workers with parallel.shard (FSDP2); else each worker has all",
    ),
    (
        "gradient_compression grad_compression compress compression comm_hook ddp_comm_hook "
        "grad_reduce_dtype communication_data_type mixed_precision_reduce",
        "gradients are exchanged in parallel.reduce_dtype: fp32, or bf16 in half the bytes",
    ),
    (
        "tensor_parallel tensor_parallel_size tp tp_size pipeline_parallel pp pp_size "
        "context_parallel cp expert_parallel ep",
        "not supported: workers are data parallel, or share the parameters with parallel.shard",
    ),
    (
        "eval_steps eval_interval eval_every eval_freq eval_strategy evaluation_strategy val_every "
        "val_interval val_check_interval validate_every validation_interval do_eval eval_iter",
        "evaluations run every eval.every tokens",
    ),
    (
        "eval_iters eval_batches eval_samples eval_max_steps limit_val_batches max_eval_samples "
        "val_steps",
        "how much is evaluated is eval.tokens",
    ),
    (
        "early_stopping early_stopping_patience patience_steps",
        "a run stops early by eval.patience, in evaluations",
    ),
    (
        "save_steps save_interval save_every save_freq save_strategy checkpoint_every "
        "checkpoint_interval checkpoint_steps ckpt_interval ckpt_every checkpoint_freq",
        "checkpoints are written every checkpoint.every tokens",
    ),
    (
        "save_total_limit keep_last max_checkpoints keep_checkpoints checkpoint_limit "
        "checkpoint_num_to_keep num_to_keep max_to_keep",
        "the number of checkpoints to keep is checkpoint.keep",
    ),
    (
        "logging_steps log_interval log_every log_freq log_steps log_every_n_steps logging",
        "metrics are logged every log.every tokens",
    ),
    (
        "report_to logger tracker tensorboard wandb_enabled wandb_disabled wandb_offline use_wandb",
        "where metrics go is wandb.mode; disabled keeps them in the run's folder only",
    ),
    ("wandb_project wandb_team team", "use wandb.project and wandb.entity"),
    (
        "beta beta1 beta2 adam_beta1 adam_beta2 adam_betas",
        "use optimizer.betas, such as [0.9, 0.95]",
    ),
    ("epsilon adam_eps adam_epsilon", "use optimizer.eps"),
    ("wd l2 decay_weight weight_decay_rate", "use optimizer.weight_decay"),
    (
        "optim optimizer_name sgd muon lion optim_type optimizer_class",
        "the optimizer is optimizer.type: adamw, muon, lion or sgd",
    ),
    ("momentum nesterov sgd_momentum muon_momentum", "use optimizer.momentum, optimizer.nesterov"),
    (
        "ema ema_decay use_ema weight_averaging swa polyak",
        "an average of the weights is optimizer.average, such as {half_life: 1%}",
    ),
    (
        "mup use_mup mup_base_width completep base_width parametrization",
        "first values and rates by the model's sizes are model.parametrization, such as "
        "{type: mup, base_width: 128}",
    ),
    (
        "schedule_free schedulefree",
        "not supported: an average of the weights at a constant rate is optimizer.average",
    ),
    (
        "param_groups parameter_groups lr_multipliers lr_mult layerwise_lr no_decay "
        "no_weight_decay no_decay_params",
        "rates and decays of their own for some weights are optimizer.groups, such as "
        "[{names: ['*embed_tokens*'], lr: 0.1, decay: 0}]",
    ),
    (
        "model_name model_path model_id model_name_or_path model_checkpoint "
        "pretrained_model_name_or_path base_model from_pretrained model_init model_weights",
        "a model is model.pretrained (a path, or a name of Hugging Face), or model.type with "
        "model.sizes",
    ),
    (
        "arch architecture model_arch model_type model_class model_config",
        "an architecture is model.type, Transformers' model_type, with its fields in model.sizes",
    ),
    (
        "hidden_size d_model dim n_embd n_layer n_layers num_layers num_hidden_layers n_head "
        "n_heads num_heads num_attention_heads num_key_value_heads intermediate_size d_ff ffn_dim "
        "max_position_embeddings rope_theta dropout attention_dropout initializer_range",
        "set it in model.sizes, under its name in the config of model.type",
    ),
    (
        "dataset datasets dataset_name dataset_path data_path data_dir data_file data_files "
        "train_file train_data train_path train_dataset data_name data_dataset data_corpus "
        "data_train corpus_path sources paths",
        "the data are a prepared corpus: set `corpus` to its folder; make one with `manta prepare`",
    ),
    (
        "validation_file val_file eval_dataset val_data val_split validation_split eval_split "
        "test_size val_size data_validation data_val eval_data eval_path eval_file split",
        "the validation split is made by `manta prepare`: set split.validation in the corpus's "
        "config",
    ),
    (
        "tokenizer tokenizer_name tokenizer_path tokenizer_type vocab_size vocab data_tokenizer",
        "tokenizer and vocabulary are the corpus's: set `tokenizer` in the corpus's config",
    ),
    (
        "packing pack sample_packing data_packing",
        "documents are always packed, and chats as chat.packing in the corpus's config says; "
        "data.document_mask keeps them apart",
    ),
    (
        "timeout nccl_timeout ddp_timeout hang_seconds watchdog_timeout",
        "workers that hang are replaced after scaling.hang_timeout seconds",
    ),
    (
        "max_restarts max_retries max_failures retries fault_tolerance elastic",
        "there is nothing to set: a run restarts as long as it makes progress",
    ),
    ("price cost_gpu price_per_hour cost_per_hour gpu_hour_price", "use cost.per_device_hour"),
)
# Keys for a corpus's config.
CORPUS = (
    (
        "path files data data_files data_path dataset datasets dataset_name input inputs source "
        "input_dir url sources_path sources_files sources_url sources_data_files",
        "the files to read are the paths of a source: sources.paths",
    ),
    (
        "column text_field text_key content_column field sources_column sources_text "
        "sources_field sources_key",
        "the column with the text is sources.text_column",
    ),
    ("type sources_type file_type data_format", "use sources.format"),
    (
        "val valid dev eval val_split val_size val_fraction validation_split test_size "
        "eval_fraction split_val split_valid split_dev split_eval",
        "the splits are split.train, split.validation and split.test",
    ),
    ("vocab vocab_size tokenizer_vocab tokenizer_size", "use tokenizer.vocab_size"),
    (
        "tokenizer_name tokenizer_type tokenizer_pretrained tokenizer_file tokenizer_id "
        "tokenizer_name_or_path tokenizer_path_or_name",
        "a tokenizer to load is tokenizer.path; one to train is tokenizer.vocab_size",
    ),
    ("eos eos_token tokenizer_eos_token eod append_eos eos_id", "use tokenizer.eos"),
    ("output output_dir out_dir output_path save_dir folder name", "the corpus's folder is `out`"),
    ("shard_size shard_mb tokens_per_shard max_shard_size num_shards", "use `shard_tokens`"),
    (
        "seq_len max_length block_size seq_length sequence_length context_length max_seq_length",
        "there is nothing to set: a corpus has whole documents, a run cuts them to train.seq_len",
    ),
    (
        "seed shuffle shuffle_seed",
        "there is nothing to set: a run shuffles its samples itself, by run.seed",
    ),
    (
        "num_workers num_proc workers processes",
        "there is nothing to set: all CPUs that Ray has are used",
    ),
    (
        "dedup deduplicate dedupe",
        "there is nothing to set: duplicate documents are always dropped",
    ),
    (
        "weight weights probability probabilities proportion sampling_ratio mixture_ratio",
        "there is nothing to set: how much comes from which source is data.mixture of a run",
    ),
    ("skip_errors ignore_errors errors strict", "use `on_error`: stop or quarantine"),
)
# Keys for a sweep's config.
SWEEP = (
    (
        "num_trials n_trials num_samples samples count max_trials trials runs run_cap",
        "how many trials are drawn is search.trials",
    ),
    (
        "algorithm algo method sampler search_alg searcher strategy search_method "
        "search_algorithm search_name",
        "how trials are chosen is search.type",
    ),
    ("goal direction objective_mode maximize minimize", "use `mode`: min or max"),
    ("target monitor metric_name", "the metric that trials are compared by is `metric`"),
    (
        "max_concurrent max_concurrent_trials concurrency parallel_trials n_jobs",
        "the number of trials at the same time is `concurrent`",
    ),
    (
        "parameters params param_space search_space hyperparameters grid spaces",
        "the search space is a Python file that `space` names; see tune_spaces/",
    ),
    ("config base_config program command run_config", "the run config of all trials is `base`"),
    (
        "early_terminate early_stopping pruner asha hyperband max_t grace_period stopper",
        "to stop trials early, set scheduler.type: halving, with scheduler.first or "
        "scheduler.rungs",
    ),
    ("scheduler_grace_period scheduler_min_iter min_iter", "the first rung is scheduler.first"),
    (
        "reduction_factor eta scheduler_eta scheduler_reduction_factor",
        "the reduction factor is scheduler.factor: one in this many trials continues at a rung",
    ),
    (
        "num_workers workers_num workers_count resources_per_trial gpus_per_trial",
        "the workers of a trial are workers.min to workers.max",
    ),
    ("name sweep_id project", "a sweep's name is sweep.name"),
    (
        "seed num_seeds",
        "the seeds that each trial is trained with are `seeds`, such as [0, 1, 2]; the seed of "
        "draws is search.seed",
    ),
)
# The table for a config, by a top-level section that only this kind of config has.
TABLES = {"schedule": RUN, "sources": CORPUS, "search": SWEEP}


def elsewhere(sections: Collection[str], path: KeyPath) -> str | None:
    """The message for another tool's key; None if the key isn't known.

    Args:
        sections: the top-level keys of the config.
        path: path of the unknown key in the config.
    """
    names = [str(part).lower().replace("-", "_") for part in path if not isinstance(part, int)]
    for mark in TABLES.keys() & set(sections):
        table = _by_name(mark)
        return table.get("_".join(names[-2:])) or table.get(names[-1])
    return None


@cache
def _by_name(mark: str) -> dict[str, str]:
    return {name: says for names, says in TABLES[mark] for name in names.split()}
