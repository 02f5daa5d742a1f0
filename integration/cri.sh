#!/bin/bash
# Drives an OCI runtime through containerd's plug-in for Kubernetes (CRI). Usage: cri.sh RUNTIME
. "$(dirname "$(realpath "$0")")/lib.sh"
needs containerd ctr containerd-shim-runc-v2 busybox
/usr/bin/python3 -c 'import grpc, grpc_tools' 2>/dev/null || needs python3-grpc-tools

cat >"$work/config.toml" <<CONF
version = 2
root = "$work/root"
state = "$work/state"
[grpc]
address = "$work/c.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:1"
disable_apparmor = true
restrict_oom_score_adj = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "$runtime"
CONF
containerd -c "$work/config.toml" >"$work/containerd.log" 2>&1 &
daemon=$!
cleanup() {
    local id
    for id in $(ctr -a "$work/c.sock" -n k8s.io task ls -q); do
        timeout 20 ctr -a "$work/c.sock" -n k8s.io task rm -f "$id"
    done >/dev/null
    kill $daemon
    wait $daemon
    for mount in $(awk -v w="$work" 'index($5, w) == 1 { print $5 }' /proc/self/mountinfo | sort -r); do
        umount -l "$mount"
    done
    find /sys/fs/cgroup -depth -type d -path '*/integration-pods*' -exec rmdir {} +
    rm -rf "$work"
} 2>/dev/null
trap cleanup EXIT
busybox_root "$work/rootfs"
"$here/image.py" "$work/rootfs" localhost/busybox:1 "$work/busybox.tar" /bin/sh || exit 1
"$here/image.py" "$work/rootfs" localhost/pause:1 "$work/pause.tar" /pause || exit 1
import() { ctr -a "$work/c.sock" -n k8s.io image import "$1"; }
eventually import "$work/busybox.tar" >/dev/null && import "$work/pause.tar" >/dev/null || { tail -5 "$work/containerd.log"; exit 1; }
/usr/bin/python3 "$here/cri.py" "$work/c.sock" "$work" localhost/busybox:1
