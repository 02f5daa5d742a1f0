#!/bin/bash
# Drives an OCI runtime through containerd's stock runc shim. Usage: containerd.sh RUNTIME
. "$(dirname "$(realpath "$0")")/lib.sh"
needs containerd ctr containerd-shim-runc-v2 busybox python3

cat >"$work/config.toml" <<CONF
version = 2
root = "$work/root"
state = "$work/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$work/c.sock"
[plugins."io.containerd.runtime.v1.linux"]
no_shim = true
CONF
containerd -c "$work/config.toml" >"$work/containerd.log" 2>&1 &
daemon=$!
export CONTAINERD_ADDRESS=$work/c.sock
cleanup() {
    local id
    for id in $(ctr task ls -q 2>/dev/null); do timeout 20 ctr task kill -s 9 "$id"; timeout 20 ctr task rm -f "$id"; done >/dev/null 2>&1
    kill $daemon
    wait $daemon
    for mount in $(awk -v w="$work" 'index($5, w) == 1 { print $5 }' /proc/self/mountinfo | sort -r); do
        umount -l "$mount"
    done
    rm -rf "$work"
} 2>/dev/null
trap cleanup EXIT
eventually ctr version >/dev/null || { cat "$work/containerd.log"; exit 1; }
busybox_root "$work/rootfs"
image=localhost/busybox:1
"$here/image.py" "$work/rootfs" $image "$work/image.tar" /bin/sh && ctr image import "$work/image.tar" >/dev/null || exit 1

mkdir "$work/bin"
cat >"$work/bin/run" <<SH
#!/bin/sh
# run [OPTION…] ID COMMAND…: with options before the image's name
options=
while case \$1 in -*) true;; *) false;; esac; do options="\$options \$1"; shift; done
exec ctr run --rm --runc-binary $runtime \$options $image "\$@"
SH
chmod +x "$work/bin/run"
PATH=$work/bin:$PATH
background() { # NAME
    ctr run -d --runc-binary "$runtime" $image "$1" sh -c 'trap "exit 0" TERM; while :; do sleep 0.1; done'
}
gone() { # NAME: ends and removes it
    timeout 20 ctr task kill -s 9 "$1" >/dev/null 2>&1
    eventually is_stopped "$1"
    timeout 20 ctr task rm "$1" >/dev/null 2>&1
    timeout 20 ctr container rm "$1" >/dev/null
}
is() { ctr task ls | grep -q "^$1 .*$2"; }
is_stopped() { ! ctr task ls | grep -q "^$1 " || is "$1" STOPPED; }

check run_prints expect hi run c1 echo hi
check run_exit_status status_is 7 run c2 sh -c 'exit 7'
check run_missing fails_with 'no such file|not found' run c3 /no/such/program
check run_not_executable fails_with 'permission denied' run c4 /bin/not-executable
check run_environment expect v run --env=K=v c5 sh -c 'echo $K'
check run_working_directory expect /tmp run --cwd=/tmp c6 pwd
check run_read_only fails_with 'Read-only' run --read-only c7 touch /x
mkdir "$work/volume" && echo data >"$work/volume/file"
check run_mount expect data run --mount=type=bind,src="$work/volume",dst=/v,options=rbind:ro c8 cat /v/file
check run_hostname_is_own run c9 hostname
check run_stdin expect abc bash -c "echo abc | timeout 20 ctr run --rm --runc-binary $runtime $image c10 head -1"
check run_large_output expect 3000000 bash -c "ctr run --rm --runc-binary $runtime $image c11 head -c 3000000 /dev/zero | wc -c"
tty() { timeout 30 script -qec "ctr run --rm -t --runc-binary $runtime $image c12 tty" /dev/null | grep -q /dev/pts/0; }
check run_tty tty
check run_seccomp matches 'Seccomp:.*2' run --seccomp c13 grep Seccomp: /proc/self/status
check run_memory_limit status_is 137 run --memory-limit=33554432 c14 sh -c 'head -c 200m /dev/zero | tail >/dev/null; exit $?'
check run_pid_file bash -c "ctr run --rm --pid-file $work/pid --runc-binary $runtime $image c15 true && test -s $work/pid"
check run_privileged matches '^CapEff:.*000001ff|^CapEff:.*0000003f' run --privileged c16 grep CapEff /proc/self/status
check run_no_new_privileges matches 'NoNewPrivs:.*1' run c17 grep NoNewPrivs /proc/self/status
check run_cgroup_is_made bash -c "ctr run -d --cgroup /integration-test --runc-binary $runtime $image c19 sleep 100 && ls -d /sys/fs/cgroup/*/integration-test; r=\$?; ctr task kill -s 9 c19; sleep 0.5; ctr task rm c19 >/dev/null; ctr container rm c19; exit \$r"

detached() { background d1 && is d1 RUNNING && gone d1; }
check detached detached
background box || echo "no container to work with"
check task_list matches 'box .*RUNNING' ctr task ls
check exec_prints expect hi ctr task exec --exec-id e1 box echo hi
check exec_exit_status status_is 5 ctr task exec --exec-id e2 box sh -c 'exit 5'
check exec_missing fails_with 'no such file|not found' ctr task exec --exec-id e3 box /no/such/program
check exec_working_directory expect /etc ctr task exec --exec-id e4 --cwd /etc box pwd
exec_tty() { timeout 30 script -qec "ctr task exec -t --exec-id e6 box tty" /dev/null | grep -q /dev/pts/; }
check exec_tty exec_tty
check exec_detached bash -c "ctr task exec -d --exec-id e7 box touch /tmp/detached && sleep 1 && ctr task exec --exec-id e8 box test -e /tmp/detached"
check exec_many bash -c 'for i in 1 2 3 4 5 6; do ctr task exec --exec-id m$i box true & p="$p $!"; done; for q in $p; do wait $q || exit 1; done'
check task_ps matches '[0-9]' ctr task ps box
check metrics_memory matches 'memory.usage_in_bytes +[1-9]' ctr task metrics box
check metrics_cpu matches 'cpuacct.usage +[1-9]' ctr task metrics box
check metrics_pids matches 'pids.current +[1-9]' ctr task metrics box
paused() { ctr task pause box && is box PAUSED && ctr task resume box && is box RUNNING && ctr task exec --exec-id p1 box true; }
check pause_and_resume paused
signalled() { ctr run -d --runc-binary "$runtime" $image k1 sh -c 'trap "exit 4" USR1; while :; do sleep 0.1; done' && sleep 0.5 && ctr task kill -s USR1 k1 && eventually is_stopped k1 && { ctr task rm k1; ctr container rm k1; true; }; }
check kill_signal signalled
kill_all() { ctr run -d --runc-binary "$runtime" $image k2 sh -c 'sleep 1000 & sleep 1000 & wait' && ctr task kill -a -s 9 k2 && eventually is_stopped k2; local r=$?; ctr task rm k2; ctr container rm k2; return $r; }
check kill_all kill_all
twice() { ctr run -d --runc-binary "$runtime" $image k3 sleep 100 && ctr task kill -s 9 k3 && eventually is_stopped k3; ctr task kill -s 9 k3; ctr task rm k3; ctr container rm k3; }
check kill_of_a_stopped_one_and_remove twice
# The last one that uses the box: to look the user up, ctr mounts the overlay a second time, which upsets writes.
check exec_user expect 65534 ctr task exec --exec-id e5 --user nobody box id -u
forced() { background f1 && ctr task rm -f f1 >/dev/null; ! ctr task ls | grep -q '^f1 ' && ctr container rm f1; }
check remove_force forced
gone box
created() { ctr container create --runc-binary "$runtime" $image n1 && ctr task start -d n1 && is n1 RUNNING; local r=$?; gone n1; return $r; }
created_plain() { ctr container create $image n1 2>/dev/null; ctr container rm n1; }
check container_create created_plain
events_of_exit() { timeout 20 ctr events >"$work/events" & local e=$!; sleep 0.5; run ev1 sh -c 'exit 3'; sleep 1; kill $e; grep -q '/tasks/exit.*' "$work/events" && grep -q '/tasks/delete' "$work/events"; }
check events events_of_exit
oom_event() { timeout 30 ctr events >"$work/events" & local e=$!; sleep 0.5; run --memory-limit=33554432 om sh -c 'head -c 200m /dev/zero | tail >/dev/null'; sleep 1; kill $e; grep -q '/tasks/oom' "$work/events"; }
check oom_event oom_event
many() { local i; for i in 1 2 3 4 5 6; do background "m$i" & done; wait; [ "$(ctr task ls -q | grep -c '^m')" = 6 ]; local r=$?; for i in 1 2 3 4 5 6; do gone "m$i"; done; return $r; }
check many_at_once many
no_shim() { ! pgrep -f "[c]ontainerd-shim.*$work"; }
nothing_left() { [ -z "$(ctr task ls -q)" ] && eventually no_shim; }
check nothing_is_left nothing_left
finish
