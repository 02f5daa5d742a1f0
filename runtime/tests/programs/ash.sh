#!/bin/busybox ash
# needs: busybox
# Pipes, here-documents, background jobs, traps and wait in busybox's shell.
export PATH=/nowhere
busybox echo "$0" | busybox grep -c ash
busybox seq 1 1000 | busybox awk '{ s += $1 } END { print s }'
busybox cat <<END | busybox tr a-z A-Z | busybox rev
here $((6 * 7)) document
$(busybox echo nested | busybox sed s/e/E/g)
END
busybox cat <<-'END'
	no $expansion here
	END
# Background jobs and their statuses.
(exit 3) & one=$!
(busybox sleep 0.1; exit 4) & two=$!
wait $one; echo "one $?"
wait $two; echo "two $?"
wait; echo "all $?"
# Traps.
trap 'echo usr1' USR1
trap 'echo exit $?' EXIT
kill -USR1 $$
(trap 'echo inner; exit 7' TERM; kill -TERM $(exec busybox sh -c 'echo $PPID'); echo never) ; echo "sub $?"
busybox sh -c 'kill -KILL $$'; echo "killed $?"
busybox sh -c 'trap "" TERM; kill -TERM $$; echo survived'
# A pipe that closes early.
busybox yes | busybox head -n 2
# Redirections.
exec 5> out; echo five >&5; exec 5>&-; busybox cat out
{ echo to-out; echo to-err >&2; } 2>&1 >/dev/null | busybox cat
busybox cat < out > copy; busybox cmp out copy && echo same
while read -r word rest; do echo "$rest $word"; done <<END
first second third
fourth fifth
END
set -- a 'b c' d; for word; do echo "[$word]"; done
case abc in a*c) echo matched;; *) echo no;; esac
f() { local x=1; echo "$x $# $*"; return 9; }; f p q; echo $?
busybox mkfifo pipe; busybox sh -c 'echo through > pipe' & busybox cat pipe; wait
busybox find . -type f | busybox sort | busybox xargs busybox wc -c
busybox tar c out copy | busybox gzip | busybox gunzip | busybox tar t
busybox timeout 1 busybox sleep 5; echo "timeout $?"
