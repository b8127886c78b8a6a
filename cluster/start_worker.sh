#!/usr/bin/env bash
# Starts Ray on a machine that the autoscaler can't replace by another. Arguments: those of
# `ray start`. It is repeated until it succeeds, because the autoscaler (Ray 2.60, version 1)
# never tries a machine again whose start failed once.
#
# The machine also outlives its cluster: `ray down` doesn't reach it. Its raylet ends by itself
# a minute after the head is gone, and what was started with it is killed then: its agents would
# stay longer, and the log monitor for good.
set -euo pipefail

until setsid --wait ray start "$@"; do
    ray stop
    sleep 5
done

raylet=$(pgrep --newest --exact raylet)
session=$(ps -o sid= -p "$raylet")
setsid --fork bash -c 'tail --pid="$1" --follow /dev/null; pkill --signal KILL --session "$2"' \
    end_together "$raylet" "${session// /}" </dev/null >/dev/null 2>&1
