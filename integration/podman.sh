#!/bin/bash
# Drives an OCI runtime through Podman. Usage: podman.sh RUNTIME
. "$(dirname "$(realpath "$0")")/lib.sh"
needs podman conmon busybox catatonit

export CONTAINERS_CONF=$work/containers.conf CONTAINERS_STORAGE_CONF=$work/storage.conf
cat >"$CONTAINERS_CONF" <<CONF
[containers]
default_ulimits = []
log_driver = "k8s-file"
netns = "none"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "tested"
infra_image = "localhost/pause:1"
infra_command = "/pause"
runtime_supports_json = ["tested"]
runtime_supports_nocgroup = ["tested"]
[engine.runtimes]
tested = ["$runtime"]
CONF
cat >"$CONTAINERS_STORAGE_CONF" <<CONF
[storage]
driver = "overlay"
graphroot = "$work/graph"
runroot = "$work/run"
CONF
mkdir -p "$work/graph" "$work/run"
image=localhost/busybox:1
cleanup() {
    podman rm -af -t 0 >/dev/null 2>&1
    podman pod rm -af >/dev/null 2>&1
    for mount in $(awk -v w="$work" 'index($5, w) == 1 { print $5 }' /proc/self/mountinfo | sort -r); do
        umount -l "$mount"
    done
    rm -rf "$work"
}
trap cleanup EXIT
busybox_root "$work/rootfs"
tar -C "$work/rootfs" -c . | podman import -q -c 'CMD ["/bin/sh"]' \
    -c 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$image" >/dev/null || exit 1
tar -C "$work/rootfs" -c . | podman import -q -c 'CMD ["/pause"]' - localhost/pause:1 >/dev/null || exit 1

# A program, so that the asserts can bound its time.
mkdir "$work/bin" && printf '#!/bin/sh\nexec podman run --rm "$@"\n' >"$work/bin/run" && chmod +x "$work/bin/run"
PATH=$work/bin:$PATH
background() { # NAME [OPTION…]: a container that does nothing, and ends on SIGTERM
    local name=$1
    shift
    podman rm -f -t 0 "$name" >/dev/null 2>&1
    podman run -d --name "$name" "$@" "$image" sh -c 'trap "exit 0" TERM; while :; do sleep 0.1; done' >/dev/null
}
state() { podman inspect -f '{{.State.Status}}' "$1"; }
in_state() { [ "$(state "$1")" = "$2" ]; }
exit_code() { podman inspect -f '{{.State.ExitCode}}' "$1"; }

# Running, and what comes out of it.
check run_prints expect hello run $image echo hello
check run_exit_status status_is 7 run $image sh -c 'exit 7'
check run_init_is_protected_from_itself expect alive run $image sh -c 'kill -9 $$; echo alive'
check run_killed_by_signal status_is 143 run --init $image sh -c 'kill -15 $$'
check run_stdin expect HELLO bash -c "echo hello | podman run -i --rm $image tr a-z A-Z"
check run_stdin_large expect 3000000 bash -c "head -c 3000000 /dev/zero | podman run -i --rm $image wc -c"
check run_stdout_large expect 3000000 bash -c "podman run --rm $image head -c 3000000 /dev/zero | wc -c"
stderr_apart() { [ "$(run $image sh -c 'echo out; echo err >&2' 2>/dev/null)" = out ]; }
check run_stderr_is_apart stderr_apart
check run_missing_program status_is 127 run $image /no/such/program
check run_missing_in_path status_is 127 run $image no-such-program
check run_not_executable status_is 126 run $image /bin/not-executable
check run_directory_is_no_program status_is 126 run $image /etc
check run_working_directory expect /var/tmp run -w /var/tmp $image pwd
check run_environment expect "a b" run -e X="a b" $image sh -c 'echo "$X"'
check run_entrypoint expect "x y" run --entrypoint echo $image x y
check run_hostname expect box run --hostname box $image hostname
check run_user expect "1000:1000" run --user 1000:1000 $image sh -c 'echo $(id -u):$(id -g)'
check run_user_by_name expect 65534 run --user nobody $image id -u
check run_supplementary_groups matches '(^| )777( |$)' run --user nobody --group-add 777 $image id -G
check run_init_reaps matches 'catatonit|podman-init' run --init $image ps -o pid,args
check run_pid_is_1 expect 1 run $image sh -c 'echo $$'
check run_cidfile bash -c "podman run --rm --cidfile $work/cid $image true && test -s $work/cid"
check run_read_only fails_with 'Read-only' run --read-only $image touch /file
check run_read_only_tmp_is_writable run --read-only $image touch /tmp/file
check run_tmpfs matches 'tmpfs.*size=(1024|1)' run --tmpfs /mine:size=1m $image sh -c 'grep /mine /proc/mounts'
check run_tmpfs_is_full fails_with 'No space' run --tmpfs /mine:size=1m $image dd if=/dev/zero of=/mine/x bs=64k count=32
check run_shm_size matches ' 65536 ' run --shm-size 64m $image df -k /dev/shm
mkdir -p "$work/volume" && echo data >"$work/volume/file"
check run_volume expect data run -v "$work/volume:/v" $image cat /v/file
check run_volume_writes bash -c "podman run --rm -v $work/volume:/v $image sh -c 'echo new >/v/new' && grep -q new $work/volume/new"
check run_volume_read_only fails_with 'Read-only' run -v "$work/volume:/v:ro" $image touch /v/x
check run_volume_owner bash -c "podman run --rm -v $work/volume:/v $image sh -c 'touch /v/o && chown 123:456 /v/o' && [ \$(stat -c %u:%g $work/volume/o) = 123:456 ]"
check run_volume_of_a_file expect data run -v "$work/volume/file:/etc/one" $image cat /etc/one
check run_named_volume bash -c "podman run --rm -v named:/v $image sh -c 'echo kept >/v/f' && podman run --rm -v named:/v $image grep -q kept /v/f && podman volume rm named"
check run_volumes_from bash -c "podman create --name holder -v vf:/v $image true >/dev/null && podman run --rm --volumes-from holder $image sh -c 'echo x >/v/f' && podman rm holder >/dev/null && podman volume rm vf"
chmod 711 "$work"
check run_volume_given bash -c "mkdir $work/given && podman run --rm -v $work/given:/v:U --user 1000:1000 $image touch /v/f && [ \$(stat -c %u $work/given/f) = 1000 ]"
check run_volume_overlaid expect $'ok\nabsent' bash -c "podman run --rm -v $work/volume:/v:O $image sh -c 'touch /v/over && echo ok'; test -e $work/volume/over || echo absent"
check run_volume_no_programs fails_with 'ermission denied' run -v "$work/rootfs/bin:/v:noexec" $image /v/busybox true
check run_mount_type_tmpfs run --mount type=tmpfs,dst=/t,tmpfs-size=1m $image touch /t/x
check run_mount_type_image run --mount type=image,src=$image,dst=/img $image test -x /img/bin/busybox
check run_tmpfs_begins_with_the_image expect root run --mount type=tmpfs,dst=/etc,tmpcopyup $image sh -c 'cut -d: -f1 /etc/passwd | head -n 1'
check run_secret bash -c "echo s3 | podman secret create sec - >/dev/null; podman run --rm --secret sec $image cat /run/secrets/sec | grep -q s3; r=\$?; podman secret rm sec >/dev/null; exit \$r"
check run_preserved_descriptor expect data bash -c "podman run --rm --preserve-fds 1 $image cat /proc/self/fd/3 3<$work/volume/file"
mapped="--uidmap 0:100000:65536 --gidmap 0:100000:65536"
check userns_ids expect "0 0" run $mapped $image sh -c 'touch /x; echo $(id -u) $(stat -c %u /x)'
check userns_volume_given bash -c "mkdir $work/theirs && podman run --rm $mapped -v $work/theirs:/v:U --user 5:5 $image touch /v/f && [ \$(stat -c %u $work/theirs/f) = 100005 ]"
check userns_has_no_power_over_others fails_with 'denied|not permitted' run $mapped -v "$work/volume:/v" $image sh -c 'echo x >/v/file'
userns_exec() { podman run -d --name ue $mapped $image sleep 100 >/dev/null && expect 0 podman exec ue id -u && podman cp "$work/volume/file" ue:/tmp/f && expect data podman exec ue cat /tmp/f; local r=$?; podman rm -f -t 0 ue >/dev/null; return $r; }
check userns_exec_and_cp userns_exec
check run_mount_type_bind expect data run --mount type=bind,src="$work/volume",dst=/v,ro $image cat /v/file
check run_writes_vanish expect gone bash -c "podman run --rm $image touch /tmp/here; podman run --rm $image sh -c 'test -e /tmp/here || echo gone'"
check run_devices matches 'null.*zero|zero.*null' run $image sh -c 'echo $(ls /dev)'
check run_dev_null run $image sh -c 'echo x >/dev/null && head -c 4 /dev/urandom | wc -c'
check run_proc_is_own expect 1 run $image sh -c 'ls -d /proc/[0-9]* | head -1 | tr -d /a-z'
check run_proc_masked bash -c "podman run --rm $image sh -c 'test ! -s /proc/kcore && ! cat /proc/timer_list 2>/dev/null | grep -q .'"
check run_proc_sys_read_only fails_with 'Read-only|denied|nonexistent|can.t create' run $image sh -c 'echo 1 >/proc/sys/kernel/panic'
check run_caps_default matches '^CapEff:.*00000000800405fb|^CapEff:.*00000000a80425fb' run $image grep CapEff /proc/self/status
check run_cap_drop_all matches '^CapEff:.*0000000000000000' run --cap-drop all $image grep CapEff /proc/self/status
check run_cap_drop_chown fails_with 'not permitted' run --cap-drop chown $image chown 1 /tmp
check run_cap_add matches '^CapEff:.*0000000000200000' run --cap-drop all --cap-add sys_admin $image grep CapEff /proc/self/status
check run_no_new_privileges matches 'NoNewPrivs:.*1' run --security-opt no-new-privileges $image grep NoNewPrivs /proc/self/status
check run_seccomp_is_on matches 'Seccomp:.*2' run $image grep '^Seccomp:' /proc/self/status
check run_ulimit expect 123 run --ulimit nofile=123:123 --ulimit nproc=1000:1000 $image sh -c 'ulimit -n'
check run_umask expect 0077 run --umask 0077 $image sh -c umask
check run_sysctl expect 12345 run --sysctl kernel.shmmni=12345 $image cat /proc/sys/kernel/shmmni
check run_memory_limit status_is 137 run --memory 32m $image sh -c 'head -c 200m /dev/zero | tail >/dev/null; exit $?'
check run_pids_limit matches "can.t fork|Resource temporarily" bash -c "podman run --rm --pids-limit 5 $image sh -c 'for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait' 2>&1; true"
check run_oom_score_adj expect 500 run --oom-score-adj 500 $image cat /proc/self/oom_score_adj
check run_privileged run --privileged $image true
check run_stop_signal_default bash -c "podman run -d --name ss $image sleep 100 >/dev/null; podman stop -t 1 ss >/dev/null; r=\$(podman inspect -f '{{.State.ExitCode}}' ss); podman rm ss >/dev/null; [ \$r = 137 ] || { echo \$r; false; }"
check run_network_none matches 'lo' run --network none $image sh -c 'ls /sys/class/net; cat /proc/net/dev'
check run_host_names bash -c "[ \$(podman run --rm --uts host $image hostname) = \$(hostname) ]"
check run_systemd_mounts matches tmpfs run --systemd=always $image grep ' /run ' /proc/mounts
check run_timezone run --tz UTC $image date
check run_cgroups_disabled expect yes run --cgroups disabled $image echo yes
check run_conmon_cgroups expect yes run --cgroups no-conmon $image echo yes

# Terminals.
check run_tty expect /dev/pts/0 run -t $image tty
check run_tty_is_a_terminal run -t $image sh -c 'test -t 0 && test -t 1'
tty_interactive() { printf 'echo $((6*7))\nexit 5\n' | timeout 30 script -qec "podman run --rm -it $image sh" /dev/null; [ "${PIPESTATUS[1]}" = 5 ]; }
check run_tty_interactive tty_interactive

tty_size() { timeout 30 script -qec "stty rows 33 cols 77; podman run --rm -it $image sh -c 'sleep 0.3; stty size'" /dev/null </dev/null | grep -q '33 77'; }
check run_tty_size tty_size

# In the background.
detached() { background d1 && eventually in_state d1 running && podman rm -f -t 0 d1; }
check detached_runs detached
logs() { podman run -d --name l1 $image sh -c 'echo one; echo two >&2' >/dev/null && podman wait l1 >/dev/null && expect $'one\ntwo' podman logs l1 && podman rm l1; }
check logs_has_both_streams logs
follow() { podman run -d --name l2 $image sh -c 'for i in 1 2 3; do echo $i; sleep 0.3; done' >/dev/null && expect $'1\n2\n3' podman logs -f l2 && podman rm l2; }
check logs_follow follow
waits() { podman run -d --name w1 $image sh -c 'sleep 0.5; exit 9' >/dev/null && expect 9 podman wait w1 && podman rm w1; }
check wait_gives_the_status waits

background box
check exec_prints expect hi podman exec box echo hi
check exec_exit_status status_is 3 podman exec box sh -c 'exit 3'
check exec_stdin expect abc bash -c 'echo abc | podman exec -i box cat'
check exec_environment expect v podman exec -e K=v box sh -c 'echo $K'
check exec_user expect 65534 podman exec -u nobody box id -u
check exec_workdir expect /etc podman exec -w /etc box pwd
check exec_missing status_is 127 podman exec box no-such-program
check exec_not_executable status_is 126 podman exec box /bin/not-executable
check exec_tty expect yes podman exec -t box sh -c 'test -t 0 && echo yes'
exec_interactive() { printf 'echo $((6*7))\nexit 5\n' | timeout 30 script -qec "podman exec -it box sh" /dev/null >"$work/typed"; [ "${PIPESTATUS[1]}" = 5 ] && grep -q 42 "$work/typed"; }
check exec_tty_interactive exec_interactive
exec_size() { timeout 30 script -qec "stty rows 33 cols 77; podman exec -it box sh -c 'sleep 0.3; stty size'" /dev/null </dev/null | grep -q '33 77'; }
check exec_tty_size exec_size
shares() { podman run --rm --pid container:box $image ps | grep -q trap; }
check run_shares_processes shares
check exec_detached bash -c "podman exec -d box touch /tmp/by-exec && sleep 1 && podman exec box test -e /tmp/by-exec"
check exec_sees_processes matches 'trap' podman exec box ps
check exec_privileged podman exec --privileged box true
check exec_many_at_once bash -c 'for i in 1 2 3 4 5 6 7 8; do podman exec box echo $i >/dev/null & p="$p $!"; done; for q in $p; do wait $q || exit 1; done'
check top_lists matches 'sleep|trap|sh' podman top box
check top_fields matches 'PID' podman top box pid user args
check stats_once matches 'box' podman stats --no-stream box
check inspect_pid bash -c 'kill -0 $(podman inspect -f "{{.State.Pid}}" box)'
check cp_in bash -c "echo inside >$work/in && podman cp $work/in box:/tmp/in && podman exec box grep -q inside /tmp/in"
check cp_out bash -c "podman exec box sh -c 'echo outside >/tmp/out' && podman cp box:/tmp/out $work/out && grep -q outside $work/out"
check cp_directory bash -c "mkdir -p $work/tree/a && echo x >$work/tree/a/b && podman cp $work/tree box:/tmp/ && podman exec box grep -q x /tmp/tree/a/b"
check cp_out_of_volume bash -c "podman cp box:/etc/passwd - | tar -t | grep -q passwd"
cp_volume() { podman run -d --name cv -v "$work/volume:/v" $image sleep 100 >/dev/null && podman cp cv:/v/file "$work/out" && podman cp "$work/in" cv:/v/in && grep -q inside "$work/volume/in"; local r=$?; podman rm -f -t 0 cv >/dev/null; return $r; }
check cp_of_a_volume cp_volume
cp_stopped() { podman create --name cs $image cat /tmp/in >/dev/null && podman cp "$work/in" cs:/tmp/in && expect inside podman start -a cs; local r=$?; podman rm -f cs >/dev/null; return $r; }
check cp_to_a_stopped_one cp_stopped
check diff_shows_writes matches '/root/changed' bash -c 'podman exec box touch /root/changed; podman diff box'
check commit_keeps_writes bash -c "podman commit -q box localhost/committed:1 >/dev/null && podman run --rm localhost/committed:1 test -e /root/changed"
check export_has_files matches 'bin/busybox' bash -c 'podman export box | tar -t'
paused() { podman pause box >/dev/null && in_state box paused && podman unpause box >/dev/null && in_state box running && podman exec box true; }
check pause_and_unpause paused
paused_stops() { podman exec -d box sh -c 'while :; do echo x >>/tmp/count; sleep 0.05; done'; sleep 0.5; podman pause box >/dev/null; local a b; a=$(stat -c %s "$(podman mount box)/tmp/count"); sleep 0.5; b=$(stat -c %s "$(podman mount box)/tmp/count"); podman unpause box >/dev/null; [ "$a" = "$b" ] && [ "$a" -gt 0 ]; }
check pause_really_stops paused_stops
check update_is_seen bash -c 'podman inspect box >/dev/null'
check kill_signal bash -c "podman run -d --name k1 $image sh -c 'trap \"echo got; exit 4\" USR1; while :; do sleep 0.1; done' >/dev/null; sleep 0.5; podman kill -s USR1 k1 >/dev/null; r=\$(podman wait k1); podman logs k1 | grep -q got && podman rm k1 && [ \$r = 4 ]"
check kill_default bash -c "podman run -d --name k2 $image sleep 100 >/dev/null; podman kill k2 >/dev/null; r=\$(podman wait k2); podman rm k2; [ \$r = 137 ]"
stops() { background s1 && podman stop -t 5 s1 >/dev/null && [ "$(exit_code s1)" = 0 ] && podman rm s1; }
check stop_by_signal stops
restarts() { background r1 && local before; before=$(podman inspect -f '{{.State.Pid}}' r1); podman restart -t 1 r1 >/dev/null && in_state r1 running && [ "$(podman inspect -f '{{.State.Pid}}' r1)" != "$before" ] && podman rm -f -t 0 r1; }
check restart restarts
starts_again() { podman run --name again $image sh -c 'echo x >>/n; wc -l </n' && expect 2 podman start -a again && podman rm again; }
check start_again_keeps_files starts_again
attaches() { podman run -d --name at $image sh -c 'sleep 1; echo late; exit 6' >/dev/null; expect late podman attach at && expect 6 podman wait at && podman rm at; }
check attach_gets_output attaches
restart_policy() { podman run -d --name rp --restart on-failure:2 $image sh -c 'exit 1' >/dev/null; eventually bash -c '[ "$(podman inspect -f "{{.RestartCount}}" rp)" = 2 ]'; local r=$?; podman rm -f -t 0 rp >/dev/null; return $r; }
check restart_policy restart_policy
health() { background h1 --health-cmd 'test -e /tmp' --health-interval disable && expect "" podman healthcheck run h1; local r=$?; podman rm -f -t 0 h1 >/dev/null; return $r; }
check healthcheck health
unhealthy() { background h2 --health-cmd 'exit 1' --health-interval disable; fails_with unhealthy podman healthcheck run h2; local r=$?; podman rm -f -t 0 h2 >/dev/null; return $r; }
check healthcheck_fails unhealthy
mounts() { local root; root=$(podman mount box) && test -x "$root/bin/busybox"; }
check mount_shows_the_root mounts
renamed() { podman rename box box2 && podman exec box2 true && podman rename box2 box; }
check rename renamed
podman rm -f -t 0 box >/dev/null
check remove_force_while_running bash -c "podman run -d --name f1 $image sleep 100 >/dev/null && podman rm -f -t 0 f1"
check create_then_remove bash -c "podman create --name c1 $image true >/dev/null && podman rm c1"
init_then_remove() { podman create --name c2 $image true >/dev/null && podman init c2 >/dev/null && in_state c2 initialized && podman rm -f c2; }
check init_then_remove init_then_remove
init_then_start() { podman create --name c3 $image sh -c 'exit 8' >/dev/null && podman init c3 >/dev/null && podman start c3 >/dev/null && expect 8 podman wait c3 && podman rm c3; }
check init_then_start init_then_start
many() { local i; for i in 1 2 3 4 5 6; do podman run -d --name "m$i" $image sleep 100 >/dev/null & done; wait; [ "$(podman ps -q | wc -l)" = 6 ] && podman rm -f -t 0 m1 m2 m3 m4 m5 m6; }
check many_at_once many

build() { mkdir -p "$work/b" && printf 'FROM %s\nRUN echo built >/built\nRUN --mount=type=tmpfs,target=/t touch /t/x\nRUN --mount=type=cache,target=/c touch /c/x\nCOPY x /x\nUSER 1000\nRUN id -u | grep 1000\nCMD ["cat","/built"]\n' $image >"$work/b/Containerfile" && touch "$work/b/x" && podman build --isolation=oci --network none -q -t localhost/built:1 "$work/b" && expect built run localhost/built:1; }
check build build
check build_fails fails_with 'exit status 3|status 3' bash -c "printf 'FROM $image\nRUN exit 3\n' | podman build --isolation=oci --network none -"

# Pods.
pod() {
    podman pod create --name p --share ipc,uts --network none >/dev/null &&
        podman run -d --pod p --name p1 $image sleep 100 >/dev/null &&
        podman run -d --pod p --name p2 $image sleep 100 >/dev/null &&
        expect one podman exec p1 echo one && expect two podman exec p2 echo two &&
        podman pod stop -t 1 p >/dev/null && podman pod rm -f p >/dev/null
}
check pod_of_two pod
podman pod rm -f p >/dev/null 2>&1
kube() {
    cat >"$work/pod.yaml" <<YAML
apiVersion: v1
kind: Pod
metadata: {name: kp}
spec:
  containers:
  - {name: a, image: $image, command: [sh, -c, "echo from a; sleep 100"]}
  - {name: b, image: $image, command: [sleep, "100"]}
YAML
    podman play kube --network none "$work/pod.yaml" >/dev/null && eventually bash -c 'podman logs kp-a | grep -q "from a"' && podman exec kp-b true
    local r=$?
    podman pod rm -f -t 0 kp >/dev/null
    return $r
}
check play_kube kube
nothing_left() { podman rm -af -t 0 >/dev/null; podman pod rm -af >/dev/null; sleep 2; ! pgrep -af "$work" | grep -v "podman.sh\|pgrep"; }
check nothing_is_left nothing_left
finish
