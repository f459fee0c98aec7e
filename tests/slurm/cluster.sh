#!/usr/bin/env bash
# A real Slurm on this one machine, for tests: munge, slurmctld and two slurmd from Debian's packages, on loopback, without
# systemd, cgroups or accounting. Each virtual node has 4 CPUs (or $SLURM_TEST_CPUS), 128 GB and 4 GPUs that are /dev/null
# under another name.
#
#   cluster.sh start      installs what is missing (as root), starts what is not running; leaves a healthy cluster alone
#   cluster.sh stop       cancels the jobs and ends the daemons by their pid files; --purge removes the folder too
#   cluster.sh check      says why there can be no cluster here (exit 3), or nothing
#   cluster.sh lose NODE  kills the daemon and the jobs of a node as a power cut would;  `return NODE` brings it back
#   cluster.sh restart    ends slurmctld and starts it again over its saved state
#
# There is one cluster per machine, and it belongs to the process that started this script ($SLURM_TEST_OWNER names another):
# as long as that process lives, nobody else can start, stop or disturb it. The cluster of a dead process is ended and started
# afresh by the next one.
#
# Everything lies below $SLURM_TEST_ROOT (/tmp/slurm-test). /etc/slurm/{slurm,gres}.conf become links into it: the executor
# of Snakemake clears SLURM_CONF before its inner srun, so no other place would do.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=${SLURM_TEST_ROOT:-/tmp/slurm-test}
LOCK=${SLURM_TEST_LOCK:-/var/lock/slurm-test.lock}
NOTE=${LOCK%.lock}.owner  # number and start of the process that the cluster belongs to
OWNER=${SLURM_TEST_OWNER:-$PPID}
CTLD_PORT=${SLURM_TEST_PORT:-16817}
NODES=(cn1 cn2)
CPUS=${SLURM_TEST_CPUS:-4}
GPUS=4
PACKAGES=(munge slurmctld slurmd slurm-client)

# The caller may sit in a job of another cluster.
for name in $(compgen -e | grep -E '^(SLURM|SBATCH|SRUN|SQUEUE|SACCT|SCANCEL)_' | grep -v '^SLURM_TEST_' || true); do
    unset "$name"
done

say() { printf 'slurm-test: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
cannot() { say "$*"; exit 3; }  # no fault of the project: tests are skipped

# ---- processes ----------------------------------------------------------------------------------------------------------

pid_file() { if [ "$1" = munged ]; then echo "$ROOT/munge-run/munged.pid"; else echo "$ROOT/run/$1.pid"; fi; }

# The pid of a daemon, if the process of its pid file is that very program: neither gone, nor a zombie, nor a stranger.
pid_of() {
    local pid exe
    [ -s "$(pid_file "$1")" ] || return 1
    read -r pid < "$(pid_file "$1")" || true
    exe=$(readlink "/proc/$pid/exe" 2> /dev/null) || return 1
    case ${exe##*/} in "${1%%.*}"*) echo "$pid" ;; *) return 1 ;; esac
}

runs() { readlink "/proc/$1/exe" > /dev/null 2>&1; }

end() {  # NAME: TERM, ten seconds, KILL
    local pid turn
    pid=$(pid_of "$1") || return 0
    kill -TERM "$pid" 2> /dev/null || return 0
    for turn in $(seq 100); do runs "$pid" || return 0; sleep 0.1; done
    say "$1 ($pid) ignores TERM"
    kill -KILL "$pid" 2> /dev/null || true
}

wait_for() {  # SECONDS COMMAND...
    local turn turns=$(($1 * 10)); shift
    for turn in $(seq "$turns"); do "$@" > /dev/null 2>&1 && return 0; sleep 0.1; done
    return 1
}

descendants() {
    local child
    for child in $(cat /proc/"$1"/task/*/children 2> /dev/null); do echo "$child"; descendants "$child"; done
}

# The steps of this cluster, which outlive slurmd by design: slurmstepds with a file of ours open; of one node, if named.
steps() {
    local process exe
    for process in /proc/[0-9]*; do
        exe=$(readlink "$process/exe" 2> /dev/null) || continue
        case ${exe##*/} in slurmstepd*) ;; *) continue ;; esac
        if find "$process/fd" -lname "$ROOT/*${1:-}*" 2> /dev/null | grep -q .; then echo "${process#/proc/}"; fi
    done
}

# ---- whose it is --------------------------------------------------------------------------------------------------------

# The ticks between the boot and the start of a process; nothing of one that has ended.
start_of() {
    local stat fields
    stat=$(cat "/proc/$1/stat" 2> /dev/null) || return 0
    read -r -a fields <<< "${stat##*) }"
    case ${fields[0]} in [ZX]) ;; *) echo "${fields[19]}" ;; esac
}

# Who uses the cluster, if it is somebody else.
other_user() {
    local pid start
    if [ -s "$NOTE" ]; then
        read -r pid start < "$NOTE" || true
        if [ "$pid" != "$OWNER" ] && [ -n "$start" ] && [ "$(start_of "$pid")" = "$start" ]; then
            echo "process $pid ($(tr '\0' ' ' < "/proc/$pid/cmdline" 2> /dev/null | cut -c 1-60))"
        fi
    elif pid_of slurmctld > /dev/null && [ -n "$(timeout 10 squeue -h 2> /dev/null)" ]; then
        echo "the jobs in its queue, whose owner is not noted"
    fi
}

mine() { [ -s "$NOTE" ] && [ "$(cat "$NOTE")" = "$OWNER $(start_of "$OWNER")" ]; }

# A daemon gets neither our output nor our lock: whoever reads the one or waits for the other would wait for it.
daemon() { (cd / && setsid "$@" < /dev/null >> "$ROOT/log/startup.log" 2>&1 9>&-); }

# ---- start --------------------------------------------------------------------------------------------------------------

missing() {
    local package
    for package in "${PACKAGES[@]}"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2> /dev/null)" = installed ] || echo "$package"
    done
}

# Why there can be no cluster here.
obstacle() {
    local user
    user=$(other_user)
    if [ -n "$user" ]; then echo "the test cluster of this machine is in use by $user"; return; fi
    if [ "$(id -u)" != 0 ]; then echo "a test cluster needs root"; return; fi
    if ! command -v dpkg-query apt-get > /dev/null; then echo "the test cluster is made from Debian's packages"; return; fi
    if [ -e /etc/slurm/slurm.conf ] && ! grep -q '^ClusterName=distillery-test$' /etc/slurm/slurm.conf; then
        echo "/etc/slurm/slurm.conf belongs to another cluster"
    fi
}

install() {
    export DEBIAN_FRONTEND=noninteractive
    local policy=/usr/sbin/policy-rc.d ours=0 log=/tmp/slurm-test-apt.log
    # Maintainer scripts shall start no daemon.
    if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' > $policy; chmod +x $policy; ours=1; fi
    get() { timeout 240 apt-get install -y -q --no-install-recommends $(missing) < /dev/null > $log 2>&1 9>&-; }
    get || { timeout 120 apt-get update -q > $log 2>&1 9>&- && get; } || true
    [ $ours = 0 ] || rm -f $policy
    [ -z "$(missing)" ] || cannot "apt-get could not install $(missing | tr '\n' ' '): $(tail -1 $log)"
}

usable() {  # every node has registered and takes jobs
    local states
    states=$(timeout 5 sinfo -h -N -o '%N %T' 2> /dev/null | sort -u) || return 1
    [ "$(wc -l <<< "$states")" = ${#NODES[@]} ] && ! grep -vqE ' (idle|mixed|allocated|completing)$' <<< "$states"
}

healthy() {
    local name
    for name in munged slurmctld "${NODES[@]/#/slurmd.}"; do pid_of "$name" > /dev/null || return 1; done
    usable
}

configure() {
    local host node gpu number=0
    host=$(hostname -s)
    rm -rf "$ROOT"
    mkdir -p "$ROOT"/{run,state,spool,log,munge,munge-run} /etc/slurm
    chmod 755 "$ROOT"
    sed -e "s|@ROOT@|$ROOT|g" -e "s|@HOST@|$host|g" -e "s|@PORT@|$CTLD_PORT|g" "$HERE/slurm.conf.in" > "$ROOT/slurm.conf"
    : > "$ROOT/gres.conf"
    for node in "${NODES[@]}"; do
        number=$((number + 1))
        echo "NodeName=$node NodeHostname=$host NodeAddr=127.0.0.1 Port=$((CTLD_PORT + 3 + number)) CPUs=$CPUS RealMemory=128000" \
            "Gres=gpu:fake:$GPUS State=UNKNOWN" >> "$ROOT/slurm.conf"
        # Only of a character device does Slurm make a CUDA_VISIBLE_DEVICES.
        mkdir -p "$ROOT/devices/$node"
        for gpu in $(seq 0 $((GPUS - 1))); do mknod -m 666 "$ROOT/devices/$node/gpu$gpu" c 1 3; done
        echo "NodeName=$node Name=gpu Type=fake File=$ROOT/devices/$node/gpu[0-$((GPUS - 1))]" >> "$ROOT/gres.conf"
    done
    ln -sfn "$ROOT/slurm.conf" /etc/slurm/slurm.conf
    ln -sfn "$ROOT/gres.conf" /etc/slurm/gres.conf
}

start_controller() {
    daemon slurmctld "$@" || die "slurmctld: $(tail -2 "$ROOT/log/slurmctld.log" "$ROOT/log/startup.log")"
    wait_for 30 scontrol ping || die "slurmctld does not answer: $(tail -2 "$ROOT/log/slurmctld.log")"
}

start_node() { daemon slurmd -N "$1" || die "slurmd of $1: $(tail -2 "$ROOT/log/slurmd.$1.log" "$ROOT/log/startup.log")"; }

start() {
    local why node
    why=$(obstacle)
    [ -z "$why" ] || cannot "$why"
    [ -z "$(missing)" ] || install
    if mine && healthy; then return; fi
    stop
    echo "$OWNER $(start_of "$OWNER")" > "$NOTE"
    configure
    chown munge: "$ROOT/munge" "$ROOT/munge-run"
    chmod 700 "$ROOT/munge"
    mungekey --create --keyfile="$ROOT/munge/munge.key"
    chown munge: "$ROOT/munge/munge.key"
    daemon runuser -u munge -- munged --key-file="$ROOT/munge/munge.key" --socket="$ROOT/munge-run/munge.socket" \
        --pid-file="$ROOT/munge-run/munged.pid" --log-file="$ROOT/munge/munged.log" --seed-file="$ROOT/munge/seed" \
        --num-threads=4 || die "munged: $(tail -2 "$ROOT/munge/munged.log" "$ROOT/log/startup.log")"
    wait_for 10 munge -S "$ROOT/munge-run/munge.socket" -n || die "munged does not answer"
    start_controller -i
    for node in "${NODES[@]}"; do start_node "$node"; done
    wait_for 30 usable || die "the nodes do not come up: $(sinfo -N 2>&1)"
}

# ---- stop, and what goes wrong ------------------------------------------------------------------------------------------

# All steps are stopped first: one that lived on would report the end of another, which a power cut does not.
kill_steps() {
    local step all
    all=$(steps "${1:-}")
    [ -z "$all" ] || kill -STOP $all 2> /dev/null || true
    for step in $all; do kill -KILL $(descendants "$step") "$step" 2> /dev/null || true; done
}

stop() {
    local node link
    [ -d "$ROOT" ] || return 0
    if pid_of slurmctld > /dev/null && [ "$(readlink /etc/slurm/slurm.conf)" = "$ROOT/slurm.conf" ]; then
        timeout 10 squeue -h -o %A 2> /dev/null | sort -u | xargs -r timeout 10 scancel 2> /dev/null || true
        none_left() { local left; left=$(timeout 5 squeue -h) && [ -z "$left" ]; }
        wait_for 8 none_left || true
    fi
    for node in "${NODES[@]}"; do end "slurmd.$node"; done
    end slurmctld
    kill_steps
    end munged
    rm -f "$ROOT"/run/*.pid
    for link in /etc/slurm/slurm.conf /etc/slurm/gres.conf; do
        case $(readlink "$link" || true) in "$ROOT"/*) rm -f "$link" ;; esac
    done
}

lose() {
    local pid
    pid=$(pid_of "slurmd.$1") || die "no slurmd of $1"
    kill -KILL "$pid"
    kill_steps "$1"
}

return_node() {
    [ -n "$(pid_of "slurmd.$1")" ] || start_node "$1"
    scontrol update NodeName="$1" State=RESUME 2> /dev/null || true
    wait_for 30 usable || die "$1 does not come back: $(sinfo -N 2>&1)"
}

# ---- the command -------------------------------------------------------------------------------------------------------

command=${1:-}; shift || true
if [ "$command" = check ]; then
    why=$(obstacle)
    [ -z "$why" ] || cannot "$why"
    exit
fi
exec 9> "$LOCK"
flock -w 300 9 || die "another start or stop is under way"
user=$(other_user)
[ "$command" = start ] || [ -z "$user" ] || die "the test cluster of this machine is in use by $user"
case $command in
    start) start ;;
    stop)
        stop
        rm -f "$NOTE"
        if [ "${1:-}" = --purge ]; then rm -rf "$ROOT"; fi ;;
    lose) lose "$1" ;;
    return) return_node "$1" ;;
    restart)
        end slurmctld
        sleep "${1:-0}"
        start_controller ;;
    *) die "usage: $0 start | stop [--purge] | check | lose NODE | return NODE | restart [SECONDS]" ;;
esac
