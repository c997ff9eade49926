#!/usr/bin/env bash
# A real SLURM on one machine: four nodes, fake GPUs, no systemd, no container. Needs root and Debian's packages
# slurmctld slurmd slurm-client munge.
#   playground.sh up             start it and wait until all nodes are idle
#   playground.sh down           stop it and leave no trace
#   playground.sh power-off n2   end a node and all that runs on it, as a cut of its power does
#   playground.sh node n2        start that node again
#   playground.sh restart        kill slurmctld (-9) once it has saved its jobs, and start it again
set -euo pipefail

NODES=4
CPUS_PER_NODE=4
STATE=${MAMMOFLOW_PLAYGROUND:-/tmp/mammoflow-slurm}
# In /etc/slurm, not in SLURM_CONF: the executor's job step clears the environment of SLURM_ variables.
CONFIG=/etc/slurm
MARK=mammoflow-playground

need_root() {
    [ "$(id -u)" = 0 ] || { echo "The playground needs root: daemons, /etc/slurm and /etc/hosts" >&2; exit 1; }
    for program in slurmctld slurmd sbatch munged; do
        command -v "$program" >/dev/null || { echo "$program is missing: apt-get install slurmctld slurmd slurm-client munge" >&2; exit 1; }
    done
}

ours() {
    [ -e "$CONFIG/slurm.conf" ] && grep -q "$MARK" "$CONFIG/slurm.conf"
}

write_config() {
    if [ -e "$CONFIG/slurm.conf" ] && ! ours; then
        echo "$CONFIG/slurm.conf belongs to another cluster: not touched" >&2
        exit 1
    fi
    mkdir -p "$CONFIG" "$STATE"/{ctld,log,dev,spool}
    # Clones of /dev/null; where a container may make no devices, plain files count as GPUs too.
    for gpu in 0 1; do [ -e "$STATE/dev/gpu$gpu" ] || mknod "$STATE/dev/gpu$gpu" c 1 3 2>/dev/null || touch "$STATE/dev/gpu$gpu"; done
    # torchrun looks up the name of a step's first node.
    for ((n = 1; n <= NODES; n++)); do
        grep -qE "^127\.0\.0\.1 .*\bn$n\b" /etc/hosts || echo "127.0.0.1 n$n # $MARK" >>/etc/hosts
    done
    cat >"$CONFIG/slurm.conf" <<CONF
# $MARK
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
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
# Least loaded node first, so that a few jobs spread as many would.
SelectTypeParameters=CR_Core_Memory,CR_LLN
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
EnforcePartLimits=ALL
MinJobAge=3600
SlurmdTimeout=10
KillWait=3
GresTypes=gpu
NodeName=n[1-$NODES] NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=[27001-2700$NODES] CPUs=$CPUS_PER_NODE RealMemory=16000 Gres=gpu:2 State=UNKNOWN
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=ALL MaxTime=INFINITE State=UP
CONF
    echo "Name=gpu File=$STATE/dev/gpu[0-1]" >"$CONFIG/gres.conf"
}

up() {
    need_root
    write_config
    if ! pgrep -x munged >/dev/null; then
        mkdir -p /run/munge && chown munge: /run/munge
        su -s /bin/sh munge -c munged 2>/dev/null || munged --force
        cat /run/munge/munged.pid >"$STATE/munged.pid"
    fi
    slurmctld
    for ((n = 1; n <= NODES; n++)); do slurmd -N "n$n"; done
    wait_idle
}

# Until the time is up, ask every 0.1 s.
wait_idle() {
    for _ in $(seq 300); do
        [ "$(sinfo -h -p cpu -t idle -o %D 2>/dev/null)" = "$NODES" ] && { sinfo; return; }
        read -rt 0.1 <> <(:) || :
    done
    echo "the nodes did not become idle; see $STATE/log" >&2
    tail -n 5 "$STATE"/log/*.log >&2
    exit 1
}

# Stop by the recorded process numbers, never by name: another SLURM may run on this machine.
stop_recorded() {
    local file pid pids=()
    for file in "$@"; do
        [ -s "$file" ] && pids+=("$(<"$file")") # read before any ends: a daemon removes its file
    done
    kill "${pids[@]}" 2>/dev/null || :
    for pid in "${pids[@]}"; do
        timeout 20 tail --pid="$pid" -s 0.1 -f /dev/null || kill -9 "$pid"
    done
}

# What runs on a node has its name in the environment; the stepds above that have not, so they are found as the parents.
# The daemons go first: they must not live to report how the rest ended.
power_off() {
    local environ pid tasks=() stepds=()
    for environ in /proc/[0-9]*/environ; do
        grep -qz "^SLURMD_NODENAME=$1\$" "$environ" 2>/dev/null || continue
        pid=${environ//[^0-9]/}
        tasks+=("$pid")
        pid=$(awk '/^PPid:/ {print $2}' "/proc/$pid/status" 2>/dev/null) || continue
        ! grep -q "^slurmstepd: " "/proc/$pid/cmdline" || stepds+=("$pid")
    done
    kill -9 "$(<"$STATE/slurmd.$1.pid")" "${stepds[@]}" "${tasks[@]}" 2>/dev/null || :
}

down() {
    if ours; then
        squeue -h -o %i 2>/dev/null | xargs -r scancel 2>/dev/null || :
        for _ in $(seq 200); do # a node that is stopped at once would leave its jobs alive
            [ -n "$(squeue -h 2>/dev/null)" ] || break
            read -rt 0.1 <> <(:) || :
        done
        stop_recorded "$STATE"/slurmd.*.pid "$STATE/slurmctld.pid" "$STATE/munged.pid"
        rm -f "$CONFIG/slurm.conf" "$CONFIG/gres.conf"
    fi
    # Written in place: in a container /etc/hosts is a mount that cannot be replaced.
    hosts=$(grep -v "# $MARK\$" /etc/hosts) && printf '%s\n' "$hosts" >/etc/hosts
    rm -rf "$STATE"
}

# slurmctld saves its job list at most five seconds after a change; what it was told since dies with it, here as anywhere.
# A file's time is that of a clock that ticks 250 times a second: a job that is saved at once has the time of its save.
wait_saved() {
    local newest saved=$STATE/ctld/job_state
    newest=$(ls -td "$STATE"/ctld/hash.*/job.* 2>/dev/null | head -n 1)
    for round in $(seq 200); do
        [ -z "$newest" ] || [ "$saved" -nt "$newest" ] && return
        [ "$round" -gt 100 ] && ! [ "$newest" -nt "$saved" ] && return # ten seconds, and nothing more was to be saved
        read -rt 0.1 <> <(:) || :
    done
    echo "slurmctld did not save its state; see $STATE/log" >&2
    exit 1
}

restart() {
    local pid
    wait_saved
    pid=$(<"$STATE/slurmctld.pid")
    kill -9 "$pid"
    timeout 20 tail --pid="$pid" -f /dev/null
    slurmctld
}

case ${1:-} in
    up) up ;;
    down) down ;;
    power-off) power_off "$2" ;;
    node) slurmd -N "$2" ;;
    restart) restart ;;
    *) sed -n '2,8p' "$0" >&2; exit 2 ;;
esac
