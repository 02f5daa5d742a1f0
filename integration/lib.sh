# Shared by the suites that drive an OCI runtime through real clients. Sourced, not run.
#
# A suite is `SUITE.sh RUNTIME`: RUNTIME is the path of an OCI runtime. It prints a line per check (`ok NAME` or
# `FAIL NAME` with what was seen) and a last line of counts; its status says whether all passed.
# FILTER=REGEX runs only the checks whose names match.

set -u
runtime=$(realpath "${1:?usage: $0 RUNTIME}")
here=$(dirname "$(realpath "$0")")
work=$(mktemp -d "${TMPDIR:-/tmp}/integration.XXXXXX")
cd "$work" # conmon leaves files where it is started
passed=0
failed=0

# check NAME COMMAND…: passes if the command succeeds within a minute. What it prints is shown if not.
check() {
    local name=$1 output status
    shift
    [[ $name =~ ${FILTER:-.} ]] || return 0
    output=$("$@" 2>&1 </dev/null)
    status=$?
    if [ $status = 0 ]; then
        passed=$((passed + 1))
        echo "ok $name"
    else
        failed=$((failed + 1))
        echo "FAIL $name (status $status): $(tail -c 600 <<<"$output" | tr '\n' '|')"
    fi
}

# Asserts for use inside of checks.
expect() { # WANTED COMMAND…: the command succeeds and prints exactly WANTED
    local wanted=$1 got status
    shift
    got=$(timeout 60 "$@" 2>&1)
    status=$?
    got=${got//$'\r'/}
    [ $status = 0 ] && [ "$got" = "$wanted" ] && return 0
    echo "status $status, wanted «$wanted», got «$got»"
    return 1
}
matches() { # REGEX COMMAND…: the command succeeds and its output matches
    local wanted=$1 got status
    shift
    got=$(timeout 60 "$@" 2>&1)
    status=$?
    [ $status = 0 ] && grep -Eq -- "$wanted" <<<"$got" && return 0
    echo "status $status, wanted a match of «$wanted», got «$got»"
    return 1
}
status_is() { # STATUS COMMAND…: the command ends with STATUS
    local wanted=$1 got status
    shift
    got=$(timeout 60 "$@" 2>&1)
    status=$?
    [ $status = "$wanted" ] && return 0
    echo "wanted status $wanted, got $status: $got"
    return 1
}
fails_with() { # REGEX COMMAND…: the command fails and its output matches
    local wanted=$1 got status
    shift
    got=$(timeout 60 "$@" 2>&1)
    status=$?
    [ $status != 0 ] && [ $status != 124 ] && grep -Eq -- "$wanted" <<<"$got" && return 0
    echo "status $status, wanted a failure matching «$wanted», got «$got»"
    return 1
}
eventually() { # COMMAND…: the command succeeds within ten seconds
    local try
    for try in $(seq 50); do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.2
    done
    "$@"
}

# A root file system of busybox, as a directory.
busybox_root() { # DIRECTORY
    mkdir -p "$1"/{bin,etc,proc,sys,dev,tmp,root,var/tmp,home,usr/bin}
    cp "$(command -v busybox)" "$1/bin/busybox"
    local applet
    for applet in $("$1/bin/busybox" --list); do
        [ -e "$1/bin/$applet" ] || ln -s /bin/busybox "$1/bin/$applet"
    done
    printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/sh\n' >"$1/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\nextra:x:777:nobody\n' >"$1/etc/group"
    chmod 1777 "$1/tmp" "$1/var/tmp"
    printf 'not a program\n' >"$1/bin/not-executable"
    # What holds a pod's namespaces.
    printf '#!/bin/sh\ntrap "exit 0" TERM\nwhile :; do sleep 1; done\n' >"$1/pause" && chmod +x "$1/pause"
}

finish() {
    echo
    echo "$passed passed, $failed failed"
    [ $failed = 0 ]
}

# Skips the whole suite where a tool is missing.
needs() {
    local tool
    for tool in "$@"; do
        if ! PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null; then
            echo "skipped: $tool is not installed (.ci/tools installs what the suites need on Debian)"
            rm -rf "$work"
            exit 77
        fi
    done
    if [ "$(id -u)" != 0 ]; then
        echo "skipped: the suites need root"
        rm -rf "$work"
        exit 77
    fi
}
