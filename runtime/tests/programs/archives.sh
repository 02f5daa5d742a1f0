#!/bin/bash
# needs: tar gzip sha256sum diff
# time: 120
# Round trips of trees through tar and gzip, checksums, dd, diff. TREE=/usr/share takes all of it.
set -eu
export LC_ALL=C
share=${TREE:-/usr/share/doc/bash /usr/share/zoneinfo /usr/share/terminfo}
mkdir out
for tree in $share; do [ -d "$tree" ] && echo "$tree"; done > trees
tar cf - -T trees 2>/dev/null | gzip -1 > all.tar.gz
gzip -t all.tar.gz && gzip -dc all.tar.gz | tar xf - -C out
while read -r tree; do diff -r --no-dereference "$tree" "out$tree" && echo "same $tree"; done < trees
(cd out && find . -type f -print0 | sort -z | xargs -0 sha256sum) > sums
(cd out && sha256sum -c --quiet ../sums) && echo verified
sed 's, \./, /,' sums | sha256sum -c --quiet && echo 'as the originals'
wc -l < sums; sha256sum < sums
find out -printf '%P %y %m %s %l\n' | grep -v ' d ' | sort | sha256sum
tar tf all.tar.gz | wc -l
find /usr/lib/x86_64-linux-gnu -maxdepth 1 -type f -name 'lib[a-e]*.so*' -size -3M | sort | head -40 | xargs sha256sum | sha256sum
dd if=all.tar.gz of=copy bs=7777 status=none; cmp all.tar.gz copy && echo copied
tar cf a.tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C out . && sha256sum < a.tar
split -b 1M a.tar piece. && cat piece.* | cmp - a.tar && echo joined
chmod -R u+w out && rm -rf out && ls
