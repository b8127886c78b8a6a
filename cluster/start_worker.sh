#!/usr/bin/env bash
# Starts Ray on a machine that the autoscaler can't replace by another. Arguments: those of
# `ray start`. The start is repeated until it succeeds, because the autoscaler (Ray 2.60, version 1)
# never tries a machine again whose start failed once.
#
# The machine also outlives its cluster, as `ray down` doesn't end Ray on it. The raylet ends by
# itself a minute after the head has ended, and then this script kills the processes started with
# it: the agents would run on for a while, and the log monitor for good.
set -euo pipefail

until setsid --wait ray start "$@"; do
    ray stop
    sleep 5
done

raylet=$(pgrep --newest --exact raylet)
session=$(ps -o sid= -p "$raylet")
setsid --fork bash -c 'tail --pid="$1" --follow /dev/null; pkill --signal KILL --session "$2"' \
    end_together "$raylet" "${session// /}" </dev/null >/dev/null 2>&1
