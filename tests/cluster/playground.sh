#!/usr/bin/env bash
# A real SLURM on one machine: four nodes, fake GPUs, no systemd, no container. Needs root and Debian's packages
# slurmctld slurmd slurm-client munge.
#   playground.sh up      start it and wait until all nodes are idle
#   playground.sh down    stop it
set -euo pipefail

NODES=4
CPUS_PER_NODE=4
STATE=${MAMMOFLOW_PLAYGROUND:-/tmp/mammoflow-slurm}
# In /etc/slurm, not in SLURM_CONF: the executor's job step clears the environment of SLURM_ variables.
CONFIG=/etc/slurm

need_root() {
    [ "$(id -u)" = 0 ] || { echo "The playground needs root: daemons, /etc/slurm and /etc/hosts" >&2; exit 1; }
    for program in slurmctld slurmd sbatch munged; do
        command -v "$program" >/dev/null || { echo "$program is missing: apt-get install slurmctld slurmd slurm-client munge" >&2; exit 1; }
    done
}

write_config() {
    mkdir -p "$CONFIG" "$STATE"/{ctld,log,dev,spool}
    if [ -e "$CONFIG/slurm.conf" ] && ! grep -q mammoflow-playground "$CONFIG/slurm.conf"; then
        echo "$CONFIG/slurm.conf belongs to another cluster: not touched" >&2
        exit 1
    fi
    for gpu in 0 1; do [ -e "$STATE/dev/gpu$gpu" ] || mknod "$STATE/dev/gpu$gpu" c 1 3; done
    for ((n = 1; n <= NODES; n++)); do
        grep -qE "^127\.0\.0\.1 .*\bn$n\b" /etc/hosts || echo "127.0.0.1 n$n" >>/etc/hosts
    done
    cat >"$CONFIG/slurm.conf" <<CONF
# mammoflow-playground
ClusterName=playground
SlurmctldHost=$(hostname -s)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$STATE/ctld
SlurmdSpoolDir=$STATE/spool/%n
SlurmctldPidFile=$STATE/slurmctld.pid
SlurmdPidFile=$STATE/slurmd.%n.pid
SlurmctldLogFile=$STATE/log/slurmctld.log
SlurmdLogFile=$STATE/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
EnforcePartLimits=ALL
MinJobAge=300
SlurmdTimeout=20
KillWait=3
GresTypes=gpu
NodeName=n[1-$NODES] NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=[27001-2700$NODES] CPUs=$CPUS_PER_NODE RealMemory=16000 Gres=gpu:2 State=UNKNOWN
PartitionName=cpu Nodes=ALL Default=YES MaxTime=120 State=UP
PartitionName=gpu Nodes=ALL MaxTime=120 State=UP
CONF
    echo "Name=gpu File=$STATE/dev/gpu[0-1]" >"$CONFIG/gres.conf"
}

start_node() {
    slurmd -N "$1"
}

up() {
    need_root
    write_config
    if ! pgrep -x munged >/dev/null; then
        mkdir -p /run/munge && chown munge: /run/munge
        su -s /bin/sh munge -c munged 2>/dev/null || munged --force
    fi
    slurmctld
    for ((n = 1; n <= NODES; n++)); do start_node "n$n"; done
    for _ in $(seq 100); do
        [ "$(sinfo -h -p cpu -t idle -o %D 2>/dev/null)" = "$NODES" ] && { sinfo; return; }
        read -rt 0.1 <> <(:) || :
    done
    echo "the nodes did not become idle; see $STATE/log" >&2
    tail -n 5 "$STATE"/log/*.log >&2
    exit 1
}

# Stop by the recorded process numbers, never by name: another SLURM may run on this machine.
stop_recorded() {
    local file pid
    for file in "$@"; do
        [ -s "$file" ] || continue
        pid=$(<"$file") # read once: the daemon removes the file while it ends
        kill "$pid" 2>/dev/null || :
        timeout 20 tail --pid="$pid" -f /dev/null || kill -9 "$pid"
    done
}

down() {
    scancel --user="$(id -un)" 2>/dev/null || :
    stop_recorded "$STATE"/slurmd.*.pid "$STATE/slurmctld.pid"
    if [ -e "$CONFIG/slurm.conf" ] && grep -q mammoflow-playground "$CONFIG/slurm.conf"; then
        rm -f "$CONFIG/slurm.conf" "$CONFIG/gres.conf"
    fi
    rm -rf "$STATE"
}

case ${1:-} in
    up) up ;;
    down) down ;;
    node) start_node "$2" ;;
    *) sed -n '2,6p' "$0" >&2; exit 2 ;;
esac
