#!/usr/bin/env bash
# Run a command beside a Slurm of one node on this machine, which is stopped when the command ends:
#   tests/slurm/with_slurm.sh sinfo
# Needs Debian's slurm-wlm and munge. Everything lies in one temporary folder; ports are on loopback. The node has one
# GPU as far as Slurm is concerned, so that jobs can queue for it: it counts GPUs and does not use them.
set -euo pipefail

[ $# -gt 0 ] || { echo "usage: $0 COMMAND [ARGUMENT ...]" >&2; exit 2; }
PATH=$PATH:/usr/sbin
for program in munged slurmctld slurmd sbatch; do
  command -v "$program" > /dev/null ||
    { echo "$0: $program is missing: apt-get install slurm-wlm munge" >&2; exit 3; }
done

folder=$(mktemp -d)
command=
stop() {
  local daemon pid
  if [ -n "$command" ] && kill "$command" 2> /dev/null; then
    wait "$command" || true
  fi
  if [ -e "$folder/slurmd.pid" ]; then
    scancel --user="$(id -un)" || true
    until_true 15 no_job
  fi
  for daemon in slurmd slurmctld munged; do
    pid=$(cat "$folder/$daemon.pid" 2> /dev/null) && kill "$pid" 2> /dev/null || continue
    until_true 10 gone "$pid"
  done
  rm -rf "$folder"
}
until_true() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || return 0
    sleep .1
  done
}
no_job() { [ -z "$(squeue --noheader 2> /dev/null)" ]; }
gone() { ! kill -0 "$1" 2> /dev/null; }
idle() { [ "$(sinfo --noheader --format=%T 2> /dev/null)" = idle ]; }
trap stop EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

# a daemon that does not come up says why in its log
start() {
  local daemon=$1
  shift
  "$@" > "$folder/$daemon.out" 2>&1 ||
    { cat "$folder/$daemon".{out,log} >&2; echo "$0: $daemon does not start" >&2; exit 1; }
}

read -r controller_port node_port < <(python3 - << 'PYTHON'
import socket

sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(one.getsockname()[1] for one in sockets))
PYTHON
)
mkdir "$folder/state" "$folder/spool"
export SLURM_CONF=$folder/slurm.conf
cat > "$SLURM_CONF" << CONF
ClusterName=loopback
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=$controller_port
SlurmdPort=$node_port
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
# no cgroups and no systemd: the least that a container has
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
PropagateResourceLimits=NONE
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
# finished jobs stay in squeue, in the place of a database
MinJobAge=86400
KillWait=10
# the node may have fewer processors and less memory than it says
SlurmdParameters=config_overrides
NodeName=node1 NodeHostname=$(hostname) NodeAddr=127.0.0.1 CPUs=2 RealMemory=64000 Gres=gpu:1
PartitionName=main Nodes=node1 Default=YES MaxTime=INFINITE State=UP
CONF
echo "NodeName=node1 Name=gpu File=/dev/null" > "$folder/gres.conf"

(umask 077 && head -c 128 /dev/urandom > "$folder/munge.key")
start munged munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" \
  --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
start slurmctld slurmctld
start slurmd slurmd
until_true 30 idle
idle || { cat "$folder"/slurm*.log >&2; echo "$0: the node does not come up" >&2; exit 1; }

# the plugin takes all SLURM_ variables but the job's from the srun inside a job: there it finds its Slurm by this
mkdir "$folder/bin"
printf '#!/bin/sh\nSLURM_CONF=%s exec %s "$@"\n' "$SLURM_CONF" "$(command -v srun)" > "$folder/bin/srun"
chmod +x "$folder/bin/srun"
PATH=$folder/bin:$PATH "$@" <&0 &  # in the background: a signal is heeded at once
command=$!
wait "$command"
