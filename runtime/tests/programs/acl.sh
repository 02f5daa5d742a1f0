#!/bin/sh
# needs: setfacl getfacl tar
# Access control lists: set, shown, inherited, copied, archived and restored.
set -eu
export LC_ALL=C
umask 022
: > file; setfacl -m u:1234:rw,g:5678:r file; getfacl file; ls -l file | cut -c1-11
mkdir directory; setfacl -d -m u:1234:rwx directory; : > directory/file; mkdir directory/inner
getfacl directory directory/file directory/inner; ls -ld directory/inner | cut -c1-11
cp -a file copy; getfacl copy; cp file plain; getfacl plain; chmod g-w file; getfacl -n file
all='file copy plain directory directory/file directory/inner'
getfacl $all > lists; setfacl -b $all; getfacl $all | grep -c 1234 || true
setfacl --restore=lists; getfacl $all | cmp - lists && echo restored
setfacl -x u:1234 file; getfacl file; setfacl -k directory; getfacl directory
setfacl -m x:rw file 2>/dev/null || echo "status $?"
setfacl -d -m u:1:r file 2>/dev/null || echo "no default list of a file"
tar --acls -cf archive $all; mkdir there; tar --acls -xf archive -C there; (cd there; getfacl $all)
shared=$(mktemp -d /dev/shm/lists.XXXXXX); cp -a copy "$shared/file"; (cd "$shared"; getfacl file); rm -r "$shared"
