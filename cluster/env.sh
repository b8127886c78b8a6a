# What every shell on a node needs, to be sourced: the packages, token authentication, limits.
# setup.sh makes login shells read it, so that `ray exec` and `ray attach` have it too.
export PATH="$HOME/manta/env/bin:$PATH"
export RAY_AUTH_MODE=token

# Ray's launcher runs every command with OMP_NUM_THREADS=1, and all workers would inherit it.
# Unset, Ray gives each worker as many threads as it has CPUs.
unset OMP_NUM_THREADS

# Each worker and each connection takes file descriptors; most systems begin at 1024.
ulimit -n 65536 2>/dev/null || ulimit -Sn hard
