"""The `manta` command: a thin door to the packages behind it.

Nothing heavy is imported before a command needs it: help and config errors must answer at once.
"""

from manta.cli.application import app, main
from manta.cli.corpus_commands import inspect, join, prepare
from manta.cli.evaluation_commands import audit, card, evaluate, gate
from manta.cli.governance_commands import arena, drift, economics, retrain
from manta.cli.help_commands import doctor, keys
from manta.cli.job_commands import logs, status, stop, submit
from manta.cli.lineage_commands import forget, lineage
from manta.cli.registry_commands import models, promote, rollback
from manta.cli.result_commands import chat, compare, export, generate, mixture, score, verify
from manta.cli.run_commands import fork, precompute, replay, schedule, sweep, train, tune
from manta.cli.sweep_commands import sweep_add, sweep_fork, sweep_status, sweep_stop

# In the order in which help lists them.
for command in (
    *(prepare, join, inspect, schedule, precompute, train, fork, sweep, tune),
    *(sweep_status, sweep_stop, sweep_add, sweep_fork),
    *(submit, status, logs, stop),
    *(verify, replay, compare, mixture, export, generate, chat, score),
    *(evaluate, gate, promote, rollback, models, card, audit, lineage, forget),
    *(arena, economics, drift, retrain),
    *(keys, doctor),
):
    app.command()(command)

__all__ = ["app", "main"]
