#!/usr/bin/env bash
# Prepares a node: exactly the packages of requirements.lock, in a Python environment of their own,
# and Manta beside them. Every cluster file runs this script; on a node that is ready it does nothing.
# Needs Linux, Python 3.11 or newer (the same minor version on all nodes) and pip's index.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
lock=$here/requirements.lock
env=$HOME/manta/env

find_python() {
    local name
    for name in python3.12 python3.13 python3.11 python3; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "setup.sh: no Python 3.11 or newer on $(hostname): install one, or take another image" >&2
    return 1
}

make_environment() {
    local python
    python=$(find_python)
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then # Debian and Ubuntu keep it apart
        sudo apt-get -qq update
        sudo DEBIAN_FRONTEND=noninteractive apt-get -qq install -y "$python-venv"
    fi
    rm -rf "$env"
    "$python" -m venv "$env"
    "$env/bin/python" "$here/cluster/install.py" "$lock"
    cp "$lock" "$env/installed.lock" # last: its presence says that all went well
}

cmp -s "$lock" "$env/installed.lock" || make_environment

# The autoscaler and the watch for spot notices run from here. Jobs bring their own Manta,
# which comes first.
packages=$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
rm -rf "$packages/manta"
cp -r "$here/platform/manta" "$packages/manta"

if [ -f "$HOME/.ray/auth_token" ]; then
    chmod 600 "$HOME/.ray/auth_token"
fi

# First in the file, because Ubuntu's ends early in shells that aren't interactive.
read_env='source "$HOME/manta/cluster/env.sh"'
touch "$HOME/.bashrc"
if ! grep -qxF "$read_env" "$HOME/.bashrc"; then
    printf '%s\n' "$read_env" | cat - "$HOME/.bashrc" >"$HOME/.bashrc.manta"
    mv "$HOME/.bashrc.manta" "$HOME/.bashrc"
fi
