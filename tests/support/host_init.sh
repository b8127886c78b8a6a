#!/usr/bin/env bash
# The first process of a host that tests/support/hosts.py makes, in namespaces of its own: it
# makes the file system look like another machine's, then serves ssh. Arguments: the folder
# that describes the host, the folder that all hosts share, the folder of Python's packages,
# a Python that has them, and a requirements.lock that they satisfy.
set -euo pipefail
described=$1 shared=$2 packages=$3 python=$4 lock=$5
source "$described/network"

read -r _ # the link has been plugged in
hostname "$name"
ip link set lo up
ip link set "$link" name eth0
ip address add "$address" dev eth0
ip link set eth0 up
ip route add default via "$gateway"

# First what comes from elsewhere, since the folders in which that lies are emptied below.
mount -t tmpfs tmpfs /srv
mkdir -p /srv/home/.ssh /srv/shared /srv/packages /srv/ssh
mount --bind "$shared" /srv/shared
mount --bind "$packages" /srv/packages
cp -r "$described/ssh/." /srv/ssh
chmod 600 /srv/ssh/host_key
cp "$lock" /srv/requirements.lock
for file in "$described"/etc/*; do
    cp "$file" /srv/
    mount --bind "/srv/$(basename "$file")" "/etc/$(basename "$file")"
done

# What cluster/setup.sh would install: an environment with the packages of the lock file.
env=/srv/home/manta/env
"$python" -m venv --without-pip "$env"
echo /srv/packages >"$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/packages.pth"
printf '#!%s\nfrom ray.scripts.scripts import main\nmain()\n' "$env/bin/python" >"$env/bin/ray"
chmod +x "$env/bin/ray"
cp /srv/requirements.lock "$env/installed.lock"

mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/sshd
mount -t tmpfs tmpfs /tmp
cd /
exec /usr/sbin/sshd -D -f /srv/ssh/sshd_config -E /srv/ssh/log
