#!/bin/bash
# Drives an OCI runtime through an ordinary user's Podman. Usage: podman_rootless.sh RUNTIME
#
# Run by root, who becomes a user that exists in this script's mount namespace only.
if [ "$(id -u)" = 0 ] && [ -z "${INTEGRATION_NAMESPACE:-}" ] && command -v unshare >/dev/null; then
    INTEGRATION_NAMESPACE=1 exec unshare --mount -- "$0" "$@"
fi
. "$(dirname "$(realpath "$0")")/lib.sh"
needs podman conmon busybox catatonit unshare setpriv newuidmap newgidmap

uid=54321
ids=700000 # The first of those that the user's containers may have.
cleanup() {
    as podman rm -af -t 0 >/dev/null 2>&1
    as podman pod rm -af >/dev/null 2>&1
    as podman system migrate >/dev/null 2>&1 # ends the process that keeps the user's namespace
    for mount in $(awk -v w="$work" 'index($5, w) == 1 { print $5 }' /proc/self/mountinfo | sort -r); do
        umount -l "$mount"
    done
    rm -rf "$work"
}
trap cleanup EXIT
mkdir "$work/etc"
for file in passwd group subuid subgid; do
    { cat "/etc/$file"; case $file in
        passwd) echo "tester:x:$uid:$uid::$work/home:/bin/sh" ;;
        group) echo "tester:x:$uid:" ;;
        *) echo "tester:$ids:65536" ;;
    esac; } >"$work/etc/$file" 2>/dev/null
    [ -e "/etc/$file" ] || : >"/etc/$file"
    mount --bind "$work/etc/$file" "/etc/$file" || exit 1
done
chmod 755 "$work" "$work/etc"
install -d -o $uid -g $uid -m 700 "$work/home" "$work/xdg"
install -d -o $uid -g $uid -m 755 "$work/bin" "$work/tmp" "$work/volume"
# Where it was built, others may not go.
install -m 755 "$runtime" "$work/bin/tested"
cat >"$work/containers.conf" <<CONF
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
tested = ["$work/bin/tested"]
CONF
cat >"$work/storage.conf" <<CONF
[storage]
driver = "vfs"
graphroot = "$work/home/graph"
runroot = "$work/xdg/run"
rootless_storage_path = "$work/home/graph"
CONF
# Becomes the user. A program, so that the asserts can bound its time.
cat >"$work/bin/as" <<SH
#!/bin/sh
exec setpriv --reuid $uid --regid $uid --clear-groups -- env -i -C "$work/tmp" PATH="$work/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin" \
    HOME="$work/home" USER=tester XDG_RUNTIME_DIR="$work/xdg" TMPDIR="$work/tmp" TERM=xterm \
    CONTAINERS_CONF="$work/containers.conf" CONTAINERS_STORAGE_CONF="$work/storage.conf" "\$@"
SH
printf '#!/bin/sh\nexec as podman run --rm "$@"\n' >"$work/bin/run"
chmod +x "$work/bin/as" "$work/bin/run"
PATH=$work/bin:$PATH
if ! as unshare --user true 2>/dev/null; then
    echo "skipped: ordinary users may not make user namespaces here"
    exit 77
fi

image=localhost/busybox:1
busybox_root "$work/rootfs"
tar -C "$work/rootfs" -c . | as podman import -q -c 'CMD ["/bin/sh"]' \
    -c 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$image" >/dev/null || exit 1
tar -C "$work/rootfs" -c . | as podman import -q -c 'CMD ["/pause"]' - localhost/pause:1 >/dev/null || exit 1

background() { # NAME [OPTION…]: a container that does nothing, and ends on SIGTERM
    local name=$1
    shift
    as podman rm -f -t 0 "$name" >/dev/null 2>&1
    as podman run -d --name "$name" "$@" "$image" sh -c 'trap "exit 0" TERM; while :; do sleep 0.1; done' >/dev/null
}
in_state() { [ "$(as podman inspect -f '{{.State.Status}}' "$1")" = "$2" ]; }
exit_code() { as podman inspect -f '{{.State.ExitCode}}' "$1"; }

# Running, and what comes out of it.
check run_prints expect hello run $image echo hello
check run_exit_status status_is 7 run $image sh -c 'exit 7'
check run_stdin expect HELLO bash -c "echo hello | as podman run -i --rm $image tr a-z A-Z"
check run_missing_program status_is 127 run $image /no/such/program
check run_not_executable status_is 126 run $image /bin/not-executable
check run_is_root_inside expect "0 0" run $image sh -c 'touch /x; echo $(id -u) $(stat -c %u /x)'
check run_user expect "1000:1000" run --user 1000:1000 $image sh -c 'echo $(id -u):$(id -g)'
check run_user_by_name expect 65534 run --user nobody $image id -u
check run_changes_owners expect "5:6" run $image sh -c 'touch /x; chown 5:6 /x; stat -c %u:%g /x'
check run_keeps_the_users_id expect "$uid" run --userns keep-id $image id -u
check run_hostname expect box run --hostname box $image hostname
check run_read_only fails_with 'Read-only' run --read-only $image touch /file
check run_tmpfs matches 'tmpfs.*size=(1024|1)' run --tmpfs /mine:size=1m $image sh -c 'grep /mine /proc/mounts'
check run_init matches 'catatonit|podman-init' run --init $image ps -o pid,args
check run_caps_drop matches '^CapEff:.*0000000000000000' run --cap-drop all $image grep CapEff /proc/self/status
check run_seccomp_is_on matches 'Seccomp:.*2' run $image grep '^Seccomp:' /proc/self/status
check run_tty expect /dev/pts/0 run -t $image tty
check run_proc_is_own expect 1 run $image sh -c 'echo $$'
check run_privileged run --privileged $image true

# Volumes: who files belong to, inside and outside.
echo data >"$work/volume/file" && chown $uid:$uid "$work/volume/file"
check volume_is_roots_inside expect "0:0" run -v "$work/volume:/v" $image stat -c %u:%g /v/file
volume_root() { run -v "$work/volume:/v" $image touch /v/by-root && expect "$uid:$uid" stat -c %u:%g "$work/volume/by-root"; }
check volume_files_of_root_are_the_users volume_root
volume_given() { run -v "$work/volume:/v" $image sh -c 'touch /v/o && chown 5:6 /v/o' && expect "$((ids + 4)):$((ids + 5))" stat -c %u:%g "$work/volume/o"; }
check volume_files_of_others_are_mapped volume_given
volume_kept() { run --userns keep-id -v "$work/volume:/v" $image touch /v/kept && expect "$uid:$uid" stat -c %u:%g "$work/volume/kept"; }
check volume_with_the_users_id volume_kept
echo secret >"$work/closed" && chmod 600 "$work/closed"
check volume_of_root_stays_closed fails_with 'denied' run -v "$work/closed:/closed" $image cat /closed
check volume_read_only fails_with 'Read-only' run -v "$work/volume:/v:ro" $image touch /v/x
check named_volume bash -c "run -v named:/v $image sh -c 'echo kept >/v/f' && run -v named:/v $image grep -q kept /v/f && as podman volume rm named"

# In the background.
background box || echo "no container to work with"
check exec_prints expect hi as podman exec box echo hi
check exec_exit_status status_is 3 as podman exec box sh -c 'exit 3'
check exec_stdin expect abc bash -c 'echo abc | as podman exec -i box cat'
check exec_user expect 65534 as podman exec -u nobody box id -u
check exec_missing status_is 127 as podman exec box no-such-program
check exec_tty expect yes as podman exec -t box sh -c 'test -t 0 && echo yes'
check exec_detached bash -c "as podman exec -d box touch /tmp/by-exec && sleep 1 && as podman exec box test -e /tmp/by-exec"
check exec_many_at_once bash -c 'for i in 1 2 3 4 5 6; do as podman exec box echo $i >/dev/null & p="$p $!"; done; for q in $p; do wait $q || exit 1; done'
check top_lists matches 'sleep|trap|sh' as podman top box
check inspect_pid bash -c 'kill -0 $(as podman inspect -f "{{.State.Pid}}" box)'
check diff_shows_writes matches '/root/changed' bash -c 'as podman exec box touch /root/changed; as podman diff box'
check commit_keeps_writes bash -c "as podman commit -q box localhost/committed:1 >/dev/null && run localhost/committed:1 test -e /root/changed"
check export_has_files matches 'bin/busybox' bash -c "as podman export -o $work/tmp/exported box && tar -tf $work/tmp/exported"
as podman rm -f -t 0 box >/dev/null
logs() { as podman run -d --name l1 $image sh -c 'echo one; echo two >&2' >/dev/null && as podman wait l1 >/dev/null && expect $'one\ntwo' as podman logs l1 && as podman rm l1; }
check logs_has_both_streams logs
waits() { as podman run -d --name w1 $image sh -c 'sleep 0.5; exit 9' >/dev/null && expect 9 as podman wait w1 && as podman rm w1; }
check wait_gives_the_status waits
kills() { as podman run -d --name k1 $image sh -c 'trap "exit 4" USR1; while :; do sleep 0.1; done' >/dev/null; sleep 0.5; as podman kill -s USR1 k1 >/dev/null; expect 4 as podman wait k1 && as podman rm k1; }
check kill_signal kills
stops() { background s1 && as podman stop -t 5 s1 >/dev/null && [ "$(exit_code s1)" = 0 ] && as podman rm s1; }
check stop_by_signal stops
stop_hard() { as podman run -d --name s2 $image sleep 100 >/dev/null && as podman stop -t 1 s2 >/dev/null && [ "$(exit_code s2)" = 137 ] && as podman rm s2; }
check stop_by_force stop_hard
restarts() { background r1 && as podman restart -t 1 r1 >/dev/null && in_state r1 running && as podman rm -f -t 0 r1; }
check restart restarts
attaches() { as podman run -d --name at $image sh -c 'sleep 1; echo late; exit 6' >/dev/null; expect late as podman attach at && expect 6 as podman wait at && as podman rm at; }
check attach_gets_output attaches
starts_again() { as podman run --name again $image sh -c 'echo x >>/n; wc -l </n' && expect 2 as podman start -a again && as podman rm again; }
check start_again_keeps_files starts_again
cp_stopped() { echo inside >"$work/tmp/in" && as podman create --name cs $image cat /tmp/in >/dev/null && as podman cp "$work/tmp/in" cs:/tmp/in && expect inside as podman start -a cs; local r=$?; as podman rm -f cs >/dev/null; return $r; }
check cp_to_a_stopped_one cp_stopped
health() { background h1 --health-cmd 'test -e /tmp' --health-interval disable && expect "" as podman healthcheck run h1; local r=$?; as podman rm -f -t 0 h1 >/dev/null; return $r; }
check healthcheck health
build() { install -d -o $uid "$work/tmp/b" && printf 'FROM %s\nRUN echo built >/built\nUSER 1000\nRUN id -u | grep 1000\nCMD ["cat","/built"]\n' $image >"$work/tmp/b/Containerfile" && as podman build --isolation=oci --network none -q -t localhost/built:1 "$work/tmp/b" && expect built run localhost/built:1; }
check build build
pod() {
    as podman pod create --name p --share ipc,uts --network none >/dev/null &&
        as podman run -d --pod p --name p1 $image sleep 100 >/dev/null &&
        as podman run -d --pod p --name p2 $image sleep 100 >/dev/null &&
        expect one as podman exec p1 echo one && expect two as podman exec p2 echo two &&
        as podman pod stop -t 1 p >/dev/null && as podman pod rm -f p >/dev/null
}
check pod_of_two pod
as podman pod rm -f p >/dev/null 2>&1
many() { local i; for i in 1 2 3 4; do as podman run -d --name "m$i" $image sleep 100 >/dev/null & done; wait; [ "$(as podman ps -q | wc -l)" = 4 ] && as podman rm -f -t 0 m1 m2 m3 m4; }
check many_at_once many
nothing_left() { as podman rm -af -t 0 >/dev/null; as podman pod rm -af >/dev/null; sleep 2; ! pgrep -af "$work" | grep -v "podman_rootless.sh\|pgrep\|podman pause\|catatonit"; }
check nothing_is_left nothing_left
finish
