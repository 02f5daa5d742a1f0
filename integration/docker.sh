#!/bin/bash
# Drives an OCI runtime through dockerd. Usage: docker.sh RUNTIME
. "$(dirname "$(realpath "$0")")/lib.sh"
needs dockerd containerd docker busybox tini

export DOCKER_HOST=unix://$work/d.sock
cat >"$work/daemon.json" <<CONF
{
  "data-root": "$work/data", "exec-root": "$work/exec", "pidfile": "$work/pid", "hosts": ["$DOCKER_HOST"],
  "storage-driver": "overlay2", "iptables": false, "bridge": "none", "exec-opts": ["native.cgroupdriver=cgroupfs"],
  "oom-score-adjust": 0, "runtimes": {"tested": {"path": "$runtime"}}, "default-runtime": "tested"
}
CONF
PATH=$PATH:/usr/sbin:/sbin dockerd --config-file "$work/daemon.json" >"$work/dockerd.log" 2>&1 &
daemon=$!
cleanup() {
    timeout 60 docker ps -aq | xargs -r timeout 60 docker rm -f >/dev/null
    kill $daemon
    wait $daemon
    for mount in $(awk -v w="$work" 'index($5, w) == 1 { print $5 }' /proc/self/mountinfo | sort -r); do
        umount -l "$mount"
    done
    rm -rf "$work"
} 2>/dev/null
trap cleanup EXIT
eventually docker version >/dev/null || { tail -20 "$work/dockerd.log"; exit 1; }
busybox_root "$work/rootfs"
image=localhost/busybox:1
tar -C "$work/rootfs" -c . | docker import -c 'CMD ["/bin/sh"]' \
    -c 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - $image >/dev/null || exit 1

mkdir "$work/bin" && printf '#!/bin/sh\nexec docker run --rm --network none "$@"\n' >"$work/bin/run" && chmod +x "$work/bin/run"
PATH=$work/bin:$PATH
background() { # NAME [OPTION…]
    local name=$1
    shift
    docker run -d --network none --name "$name" "$@" $image sh -c 'trap "exit 0" TERM; while :; do sleep 0.1; done' >/dev/null
}
in_state() { [ "$(docker inspect -f '{{.State.Status}}' "$1")" = "$2" ]; }
exit_code() { docker inspect -f '{{.State.ExitCode}}' "$1"; }

check run_prints expect hello run $image echo hello
check run_exit_status status_is 7 run $image sh -c 'exit 7'
check run_missing_program status_is 127 run $image /no/such/program
check run_missing_in_path status_is 127 run $image no-such-program
check run_not_executable status_is 126 run $image /bin/not-executable
check run_stdin expect HELLO bash -c "echo hello | docker run -i --rm --network none $image tr a-z A-Z"
check run_large_output expect 3000000 bash -c "docker run --rm --network none $image head -c 3000000 /dev/zero | wc -c"
check run_environment expect "a b" run -e X="a b" $image sh -c 'echo "$X"'
check run_hostname expect box run --hostname box $image hostname
check run_user expect 1000:1000 run --user 1000:1000 $image sh -c 'echo $(id -u):$(id -g)'
check run_groups matches '(^| )777( |$)' run --user nobody --group-add 777 $image id -G
check run_working_directory_is_made expect /made/here run -w /made/here $image pwd
check run_init matches 'docker-init' run --init $image ps -o pid,args
check run_read_only fails_with 'Read-only' run --read-only $image touch /file
check run_tmpfs run --tmpfs /mine:size=1m $image sh -c 'grep -q "/mine tmpfs" /proc/mounts && ! dd if=/dev/zero of=/mine/x bs=64k count=32'
check run_shm_size matches ' 32768 ' run --shm-size 32m $image df -k /dev/shm
mkdir -p "$work/volume" && echo data >"$work/volume/file"
check run_volume expect data run -v "$work/volume:/v" $image cat /v/file
background volumed -v "$work/volume:/v"
check cp_of_a_volume bash -c "docker cp volumed:/v/file $work/copy && echo n >$work/n && docker cp $work/n volumed:/v/n && grep -q n $work/volume/n"
check cp_of_an_archive bash -c "tar -C $work -cf - volume | docker cp - volumed:/tmp && docker exec volumed grep -q data /tmp/volume/file"
check run_shares_processes bash -c "docker run --rm --network none --pid container:volumed $image ps | grep -q trap"
docker rm -f volumed >/dev/null
ipc() { background sharing --ipc shareable && docker exec sharing touch /dev/shm/x && run --ipc container:sharing $image test -e /dev/shm/x; local r=$?; docker rm -f sharing >/dev/null; return $r; }
check run_shares_ipc ipc
check run_host_names bash -c "[ \$(docker run --rm --network none --uts host $image hostname) = \$(hostname) ]"
check run_mount_type_tmpfs run --mount type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=0700 $image sh -c '[ $(stat -c %a /t) = 700 ] && touch /t/x'
check build bash -c "mkdir $work/b; printf 'FROM $image\nRUN echo built >/built\nUSER 1000\nRUN id -u | grep 1000\nCMD cat /built\n' >$work/b/Dockerfile; DOCKER_BUILDKIT=0 docker build --network none -q -t localhost/built $work/b && [ \$(docker run --rm --network none localhost/built) = built ]"
sizes() { timeout 30 script -qec "stty rows 33 cols 77; docker run --rm -it --network none $image sh -c 'sleep 0.5; stty size'" /dev/null </dev/null | grep -q '33 77'; }
check run_tty_size sizes
check run_volume_writes bash -c "docker run --rm --network none -v $work/volume:/v $image sh -c 'echo new >/v/new' && grep -q new $work/volume/new"
check run_volume_read_only fails_with 'Read-only' run -v "$work/volume:/v:ro" $image touch /v/x
check run_named_volume bash -c "docker run --rm --network none -v named:/v $image sh -c 'echo kept >/v/f' && docker run --rm --network none -v named:/v $image grep -q kept /v/f && docker volume rm named"
check run_etc_files matches 'localhost' run $image cat /etc/hosts
check run_caps matches '^CapEff:.*00000000a80425fb' run $image grep CapEff /proc/self/status
check run_cap_drop matches '^CapEff:.*0000000000000000' run --cap-drop all $image grep CapEff /proc/self/status
check run_privileged matches '^CapEff:.*(000001ff|0000003f)' run --privileged $image grep CapEff /proc/self/status
check run_no_new_privileges matches 'NoNewPrivs:.*1' run --security-opt no-new-privileges $image grep NoNewPrivs /proc/self/status
check run_seccomp matches 'Seccomp:.*2' run $image grep '^Seccomp:' /proc/self/status
check run_seccomp_unconfined matches 'Seccomp:.*0' run --security-opt seccomp=unconfined $image grep '^Seccomp:' /proc/self/status
check run_ulimit expect 123 run --ulimit nofile=123:123 $image sh -c 'ulimit -n'
check run_sysctl expect 12345 run --sysctl kernel.shmmni=12345 $image cat /proc/sys/kernel/shmmni
check run_memory_limit status_is 137 run --memory 32m $image sh -c 'head -c 200m /dev/zero | tail >/dev/null; exit $?'
check run_pids_limit matches "can.t fork|Resource temporarily" bash -c "docker run --rm --network none --pids-limit 5 $image sh -c 'for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait' 2>&1; true"
check run_cpus run --cpus 0.5 $image true
check run_oom_score expect 500 run --oom-score-adj 500 $image cat /proc/self/oom_score_adj
check run_tty matches /dev/pts/0 run -t $image tty
tty_interactive() { printf 'echo $((6*7))\nexit 5\n' | timeout 30 script -qec "docker run --rm --network none -it $image sh" /dev/null; [ "${PIPESTATUS[1]}" = 5 ]; }
check run_tty_interactive tty_interactive
check run_cidfile bash -c "docker run --rm --network none --cidfile $work/cid $image true && test -s $work/cid"

background box || echo "no container to work with"
check exec_prints expect hi docker exec box echo hi
check exec_exit_status status_is 3 docker exec box sh -c 'exit 3'
check exec_stdin expect abc bash -c 'echo abc | docker exec -i box cat'
check exec_environment expect v docker exec -e K=v box sh -c 'echo $K'
check exec_user expect 65534 docker exec -u nobody box id -u
check exec_workdir expect /etc docker exec -w /etc box pwd
check exec_missing fails_with 'not found' docker exec box no-such-program
check exec_not_executable status_is 126 docker exec box /bin/not-executable
check exec_tty matches /dev/pts/ docker exec -t box tty
check exec_detached bash -c "docker exec -d box touch /tmp/by-exec && sleep 1 && docker exec box test -e /tmp/by-exec"
check exec_many bash -c 'for i in 1 2 3 4 5 6; do docker exec box true & p="$p $!"; done; for q in $p; do wait $q || exit 1; done'
check top matches 'PID' docker top box
check stats matches 'box' docker stats --no-stream box
check inspect_pid bash -c 'kill -0 $(docker inspect -f "{{.State.Pid}}" box)'
check cp_in bash -c "echo inside >$work/in && docker cp $work/in box:/tmp/in && docker exec box grep -q inside /tmp/in"
check cp_out bash -c "docker exec box sh -c 'echo outside >/root/out' && docker cp box:/root/out $work/out && grep -q outside $work/out"
check diff matches '/root/changed' bash -c 'docker exec box touch /root/changed; docker diff box'
check commit bash -c "docker commit box localhost/committed:1 >/dev/null && docker run --rm --network none localhost/committed:1 test -e /root/changed"
check export matches bin/busybox bash -c 'docker export box | tar -t'
paused() { docker pause box && in_state box paused && docker unpause box && in_state box running && docker exec box true; }
check pause_and_unpause paused
check update_limits bash -c "docker update --memory 64m --memory-swap 64m box && docker inspect -f '{{.HostConfig.Memory}}' box | grep -q 67108864"
check update_pids bash -c "docker update --pids-limit 50 box"
check rename bash -c 'docker rename box box2 && docker exec box2 true && docker rename box2 box'
docker rm -f box >/dev/null
logs() { docker run -d --network none --name l1 $image sh -c 'echo one; sleep 0.2; echo two >&2' >/dev/null && docker wait l1 >/dev/null && expect $'one\ntwo' docker logs l1 && docker rm l1; }
check logs_has_both_streams logs
waits() { docker run -d --network none --name w1 $image sh -c 'sleep 0.5; exit 9' >/dev/null && expect 9 docker wait w1 && docker rm w1; }
check wait_gives_the_status waits
kills() { docker run -d --network none --name k1 $image sh -c 'trap "exit 4" USR1; while :; do sleep 0.1; done' >/dev/null; sleep 0.5; docker kill -s USR1 k1 >/dev/null && expect 4 docker wait k1 && docker rm k1; }
check kill_signal kills
stops() { background s1 && docker stop -t 5 s1 >/dev/null && [ "$(exit_code s1)" = 0 ] && docker rm s1; }
check stop_by_signal stops
stop_hard() { docker run -d --network none --name s2 $image sleep 100 >/dev/null && docker stop -t 1 s2 >/dev/null && [ "$(exit_code s2)" = 137 ] && docker rm s2; }
check stop_by_force stop_hard
restarts() { background r1 && docker restart -t 1 r1 >/dev/null && in_state r1 running && docker rm -f r1; }
check restart restarts
# Its processes are there as soon as the engine says that it runs.
top_after() { local i; background r2 && for i in 1 2 3; do docker restart -t 1 r2 >/dev/null && matches 'sleep|trap' docker top r2 || break; done; local r=$?; [ "$i" = 3 ] || r=1; docker rm -f r2 >/dev/null; return $r; }
check top_after_a_restart top_after
again() { docker run --network none --name again $image sh -c 'echo x >>/n; wc -l </n' >/dev/null && expect 2 docker start -a again && docker rm again; }
check start_again_keeps_files again
policy() { docker run -d --network none --name rp --restart on-failure:2 $image sh -c 'exit 1' >/dev/null; eventually bash -c '[ "$(docker inspect -f "{{.RestartCount}}" rp)" = 2 ]'; local r=$?; docker rm -f rp >/dev/null; return $r; }
check restart_policy policy
health() { background h1 --health-cmd 'test -e /tmp' --health-interval 1s && eventually bash -c '[ "$(docker inspect -f "{{.State.Health.Status}}" h1)" = healthy ]'; local r=$?; docker rm -f h1 >/dev/null; return $r; }
check healthcheck health
oom() { docker run --network none --memory 32m --name o1 $image sh -c 'head -c 200m /dev/zero | tail >/dev/null; exit $?' >/dev/null; matches true docker inspect -f '{{.State.OOMKilled}}' o1; local r=$?; docker rm o1 >/dev/null; return $r; }
check oom_is_reported oom
check remove_force bash -c "docker run -d --network none --name f1 $image sleep 100 >/dev/null && docker rm -f f1"
check create_then_remove bash -c "docker create --network none --name c1 $image true >/dev/null && docker rm c1"
many() { local i; for i in 1 2 3 4 5 6; do docker run -d --network none --name "m$i" $image sleep 100 >/dev/null & done; wait $(jobs -p | grep -v "^$daemon\$"); [ "$(docker ps -q | wc -l)" = 6 ] && docker rm -f m1 m2 m3 m4 m5 m6; }
check many_at_once many
no_shim() { ! pgrep -f "[c]ontainerd-shim.*$work"; }
nothing_left() { [ -z "$(docker ps -aq)" ] && eventually no_shim; }
check nothing_is_left nothing_left
finish
