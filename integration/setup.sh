#!/bin/bash
# Installs what the suites in this directory need, on Debian, as root.
set -euo pipefail
packages=(podman conmon catatonit busybox-static containerd docker.io umoci skopeo
    python3-grpcio python3-grpc-tools python3-protobuf runc procps util-linux)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} = 0 ] && exit 0
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
