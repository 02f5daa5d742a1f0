#!/bin/bash
# needs: ps top free id stat mount df lsof
# What tells of the system: the shape is compared, since the numbers differ.
set -u
export LC_ALL=C
sleep 43210 & sleeper=$!
ps aux | head -1 | tr -s ' '; ps aux | awk -v pid=$sleeper '$2 == pid { print $1 == "'"$(id -un)"'" || $1 == "'"$(id -u)"'", $3 < 50, $7, $8, $9 ~ /^[0-9:A-Za-z]+$/, $10, $11, $12 }'
ps -o pid= -p $sleeper | grep -c $sleeper; ps -o ppid= -p $sleeper | tr -d ' ' | grep -cx $$; ps -o comm=,args= -p $sleeper
ps -eo pid,ppid,pgid,sid,tty,stat,nlwp,rss,vsz,etimes,comm | awk -v pid=$sleeper '$1 == pid { print $6, $7, ($8 > 0), ($9 > $8), ($10 >= 0 && $10 < 60), $11 }'
ps -o lstart= -p $sleeper | awk '{ print NF }'; test "$(date -d "$(ps -o lstart= -p $sleeper)" +%s)" -ge "$(($(date +%s) - 60))" && echo 'started just now'
ps -ef | awk -v pid=$sleeper '$2 == pid' | grep -c 'sleep 43210'; ps -L -p $$ -o lwp= | tr -d ' ' | grep -cx $$; pgrep -f 'sleep 4321[0]' | grep -cx $sleeper
ps --forest -o pid,comm -p $$,$sleeper | awk 'NR > 1 { $1 = ""; print }'
top -bn1 | sed -n '1,7p' | sed -E 's/[0-9.:]+/N/g; s/ +/ /g' | awk 'NR == 2 || NR == 7 { print $1, $2 } NR >= 3 && NR <= 5 { print $1 }'
top -bn1 -p $sleeper | tail -1 | awk '{ print $NF, $(NF-4) }'
free | awk '{ print $1, NF, ($2 >= $3) }'; free -b | awk '/Mem/ { print ($2 > 100000000), ($7 > 0) }'
df / | awk 'NR == 2 { print NF, ($2 > 0), $6 }'; df -i / > /dev/null; echo "df -i $?"; df -h | head -1 | tr -s ' '
mount | grep -c ' on / type '; mount | grep -E -c ' on /proc type proc '; findmnt -n -o TARGET / ; mountpoint /proc
id; id -G | wc -w; groups > /dev/null; echo "groups $?"
stat -c '%n %F %a %U %G' / /etc /etc/passwd /dev/null /usr/bin/env; stat -f -c '%n' /
uname -s; uname -m; uname -n | wc -l; hostname | grep -c .; arch; nproc | grep -c '^[1-9]'; getconf PAGESIZE; getconf _NPROCESSORS_ONLN | grep -c .
uptime | grep -c 'load average'; w -h > /dev/null; echo "w $?"; cat /proc/loadavg | awk '{ print NF }'; cat /proc/uptime | awk '{ print NF, ($1 > 0) }'
exec 7< /etc/passwd 8> written 9<> both; ls -l /proc/$$/fd/[789] | awk '{ print substr($1, 1, 10), $(NF-2), $(NF-1), ($NF ~ /passwd$|written$|both$/) }' | sed -E 's,/proc/[0-9]+,/proc/N,'
open=$(for p in /proc/[0-9]*/fd; do readlink "$p"/* 2>/dev/null; done); grep -c "^$PWD/both\$" <<< "$open"
lsof -p $$ 2>/dev/null | awk '$4 ~ /^[78]/ { print $1, $4, $5, $NF ~ /passwd$|written$|both$/ }'; lsof -t written 2>/dev/null | grep -cx $$
cat /proc/$$/fdinfo/7 | head -3 | awk '{ print $1 }'; tr '\0' ' ' < /proc/$sleeper/cmdline; echo; cat /proc/self/environ | tr '\0' '\n' | grep -c LC_ALL
readlink /proc/$sleeper/exe | xargs basename; test "$(readlink /proc/$$/cwd)" = "$PWD" && echo cwd; readlink /proc/self/root; cat /proc/$sleeper/comm
awk '/^(State|Threads|PPid|Uid|SigIgn)/ { print $1, NF }' /proc/$sleeper/status; awk '{ print NF }' /proc/$sleeper/stat /proc/$sleeper/statm
grep -c '^processor' /proc/cpuinfo | grep -cx "$(nproc --all)"; head -1 /proc/meminfo | awk '{ print $1, $3 }'; head -1 /proc/stat | awk '{ print $1, NF }'; grep -c . /proc/filesystems | awk '{ print ($1 > 3) }'; awk '/^(Cached|MemAvailable|Active):/ { print $1, ($2 > 0) }' /proc/meminfo
awk '$NF ~ /stack|heap/ { print $NF, $2 }' /proc/self/maps | sort
vmstat 2>/dev/null | awk 'NR == 3 { print NF }'; cat /proc/sys/kernel/ostype /proc/sys/kernel/ngroups_max /proc/sys/kernel/overflowuid; kill $sleeper; wait $sleeper; echo "sleeper $?"; ps -p $sleeper > /dev/null; echo "gone $?"
sleep 43211 & sleeper=$!
pmap $sleeper | tail -1 | awk '{ print $1 }'; pmap -x $sleeper > /dev/null; echo "pmap $?"; lscpu | grep -c '^CPU(s):'; head -1 /proc/self/smaps_rollup | awk '{ print $NF }'
ls /sys/devices/system/cpu | grep -c '^cpu[0-9]' | grep -cx "$(nproc --all)"; cat /sys/class/net/lo/mtu; readlink /proc/net; cat /proc/net/dev | grep -c lo:; kill $sleeper
