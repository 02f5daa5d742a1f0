#!/bin/bash
# needs: bash
# Process substitution, coprocesses, job control, traps and the rest of bash.
set -u
diff <(seq 1 5) <(seq 1 6); echo "diff $?"
tee >(sort -r > reversed) <<< $'a\nb\nc' > /dev/null; wait $!; sleep 0.1; cat reversed
paste <(seq 3) <(seq 4 6) <(echo x; echo y; echo z)
coproc CALC { while read -r line; do echo $((line)); done; }
echo '6*7' >&"${CALC[1]}"; read -r answer <&"${CALC[0]}"; echo "coproc $answer"
eval "exec ${CALC[1]}>&-"; wait "$CALC_PID"; echo "coproc ended $?"
set -o pipefail; false | true | (exit 5) | true; echo "pipe $? ${PIPESTATUS[*]}"
set +o pipefail; false | true; echo "pipe $? "
# Jobs.
for i in 1 2 3; do (sleep $((i - 1)).1; exit $i) & done
for i in 1 2 3; do wait -n; echo "job $?"; done
sleep 100 & kill %1; wait %1; echo "killed $?"
set -m
sleep 100 & kill -STOP %1; sleep 0.1; jobs | sed 's/ *sleep.*//'; kill -CONT %1; kill %1; wait %1 2>/dev/null; echo "status $?"
set +m
# Traps.
trap 'echo "caught $?"' USR1 USR2
kill -USR1 $$; kill -USR2 $$
trap 'echo chld' CHLD; /bin/true; trap - CHLD
trap 'echo debug-off' DEBUG; trap - DEBUG
trap 'echo err line' ERR; false; trap - ERR
(trap 'echo subshell exit' EXIT; exit 3); echo $?
(sleep 0.1; kill -ALRM $$) & trap 'echo alarm' ALRM; wait; wait; echo waited
read -t 0.05 -r x < <(sleep 1); echo "read timed out $(($? > 128))"
# Strings, arrays, expansion.
declare -A map=([one]=1 [two]=2); echo "${map[one]} ${#map[@]}"
list=(a b c); echo "${list[@]:1}" "${list[-1]}" "${!list[*]}"
s=hello; echo "${s^^} ${s:1:3} ${s/l/L} ${s//l/L} ${#s} ${s%l*} ${s##*l}"
printf '%05d|%-5s|%x|%q\n' 42 ab 255 'a b'
[[ abc =~ ^a(.)c$ ]] && echo "regex ${BASH_REMATCH[1]}"
mapfile -t lines < <(printf '%s\n' x y z); echo "${#lines[@]} ${lines[2]}"
echo {1..3}{a,b} ; echo $((0x1f + 017 + 2#101))
exec {fd}> file; echo "to $fd" | sed 's/[0-9][0-9]*/N/' >&$fd; exec {fd}>&-; cat file
: > empty; [ -e empty ] && [ ! -s empty ] && echo 'empty is empty'
cat /dev/fd/3 3<<< 'by number'
( ulimit -n 20; ulimit -n ); ( umask 077; touch private; stat -c %a private )
f() { local -i depth=$1; ((depth == 0)) && return 0; f $((depth - 1)); }; f 200 && echo recursion
yes | head -1000 | wc -l
( exec -a other bash -c 'echo $0' )
bash -c 'kill -SEGV $$'; echo "segv $?"
bash -c 'kill -ABRT $$'; echo "abrt $?"
# Once from timeout, and once more with its group.
timeout --preserve-status -s INT 1 bash -c 'trap "trap \"\" INT; echo int; exit 9" INT; sleep 5 & wait'; echo "int $?"
time_text=$( { time true; } 2>&1 ); [[ $time_text == *real*user*sys* ]] && echo timed
[ -t 0 ] || echo 'no terminal'
echo "$BASHPID" | grep -c '^[0-9]*$'
wait; echo end
