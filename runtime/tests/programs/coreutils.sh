#!/bin/bash
# needs: bash find grep sed awk sort xargs diff
# Coreutils, findutils, grep, sed, awk.
set -u
export LC_ALL=C TZ=UTC
mkdir -p tree/{a,b,c}/{1,2,3}; for d in tree/*/*; do seq 1 20 > "$d/numbers"; done
echo hidden > tree/.hidden; ln -s a/1/numbers tree/link; ln tree/a/1/numbers tree/hard; mkfifo tree/pipe
chmod 640 tree/b/1/numbers; touch -d '2001-02-03 04:05:06.789' tree/b/2/numbers
ls -1FA tree; ls -R tree | wc -l
ls -l --time-style=+%s tree/b/2/numbers | awk '{ print $1, $2, $5, $6, $7 }'
stat -c '%n %F %a %h %s %N' tree/hard tree/link tree/pipe tree/a
stat -c '%Y %y' tree/b/2/numbers
cp -a tree copy; diff -r --no-dereference tree copy 2>&1 | grep -v fifo; echo "diff $?"
find copy -type f | sort; find copy -type f -links 2 -printf '%p %n %m\n' | sort; find copy -newermt 2001-03-01 -name numbers | wc -l
find copy -type d -name '[12]' -prune -o -type f -print | sort; find copy -type l -exec readlink {} \;
find copy -name numbers -print0 | xargs -0 -n 3 -P 2 cat | sort -n | uniq -c | head -3
find copy -path '*/c/*' -delete; find copy | wc -l
mv copy/a copy/renamed; ls copy; rm -r copy; ls -d copy 2>&1 | sed 's/.*: //'
install -D -m 751 tree/.hidden x/y/z; stat -c %a x/y/z; rmdir x 2>&1 | sed 's/.*: //'
seq 1 100 | sort -R --random-source=/dev/zero | sort -n | md5sum
seq 1 100000 | sort -rn --parallel=2 -S 1M | tail -1
seq 100 | split -l 30 - part.; wc -l part.*; seq 20 | csplit -s - 7 14; wc -l xx*
seq 5 | paste -sd+ | sed 's/+/ + /g'; seq 12 | pr -3 -t -l4 | tr -s ' \t' ' '
join <(seq 1 5) <(seq 3 8); comm -12 <(seq 1 5) <(seq 3 8); seq 10 | shuf -n 3 --random-source=/dev/zero | wc -l
echo 'the quick brown fox' | fold -w 7 | nl | expand | cut -c1-12; echo abc | od -An -tx1; echo abc | base64; echo abc | sha1sum
printf 'b 2\na 10\nc 1\n' | sort -k2n; printf 'x\ty\n' | unexpand -a | cat -A; printf 'a b\nb c\n' | tsort
dd if=/dev/zero bs=64k count=32 2> log | tr '\0' z | sha256sum; head -2 log
dd if=/dev/urandom of=random bs=1M count=4 status=none; cp --sparse=always random again; cmp random again && echo equal
truncate -s 10M sparse; stat -c '%s %b' sparse; echo x | dd of=sparse bs=1 seek=5000000 conv=notrunc status=none; stat -c %s sparse
date -u -d @86400 +%F; date -d '2020-02-29 +1 year' +%F; env -i A=1 env; expr 3 \* 4; factor 1234567891; numfmt --to=iec 1048576
test -r tree/.hidden && echo readable; test tree/hard -ef tree/a/1/numbers && echo 'same file'; realpath --relative-to=tree/b tree/a; basename /x/y.c .c
timeout 0.1 sleep 5; echo "timeout $?"; nohup true > /dev/null 2>&1; echo "nohup $?"; n=$(nice); echo $(($(nice -n 3 nice) - n)); env -u HOME printenv HOME; echo "env $?"
tail -n +18 tree/a/1/numbers; (sleep 0.2; echo more >> growing) & : > growing; timeout 1 tail -f -s 0.05 growing | head -1; wait
mktemp -d ./t.XXXX | wc -c; tee a1 a2 < tree/.hidden; cat a1 a2; cksum a1; sum a1; wc -c < a1; ln -sfn nowhere dangling; test -e dangling || echo dangling
chmod -R go= tree; find tree -perm /077 ! -type l | wc -l; du -s --apparent-size tree/a/1 | cut -f2; id -u | grep -c '[0-9]'; touch -r tree/b/2/numbers a1; stat -c %Y a1
mkdir ro && chmod 555 ro && { [ "$(id -u)" = 0 ] || { touch ro/x 2>&1 | sed 's/.*: //'; }; }; ls /nonexistent 2>&1; cat < . 2>&1 | sed 's/.*: //'
grep -rn '^1[0-9]$' tree/a | sort | tail -2; grep -c 1 tree/a/1/numbers; grep -v . tree/.hidden; echo "grep $?"; echo aXbXc | grep -o X | wc -l; grep -P '\d{2}$' tree/a/1/numbers | tail -1
sed -i 's/^1$/one/; /^2$/d; $a last' tree/a/2/numbers; head -2 tree/a/2/numbers; sed -n '3,5p;5q' tree/a/3/numbers; sed -E 's/(.)(.)/\2\1/' <<< ab; sed 'N;s/\n/-/' <<< $'1\n2'
awk -F: '$3 == 0 { print $1 }' /etc/passwd; awk 'BEGIN { while (("echo piped; echo twice" | getline line) > 0) print "got", line; printf "%.3f %d\n", 3.14159, 42; system("exit 3") }'
awk '{ print > ("out." ($1 % 3)) } END { print NR }' tree/b/1/numbers; cat out.0 | tr '\n' ' '; echo; awk 'BEGIN { "date +%Y" | getline y; print (y > 2000) }'
