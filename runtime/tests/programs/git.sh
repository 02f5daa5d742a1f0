#!/bin/sh
# needs: git
# time: 60
# A repository: init, add, commit, branch, merge, gc, fsck, clone.
set -eu
export HOME=$PWD LC_ALL=C GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=A GIT_COMMITTER_EMAIL=a@b
export GIT_AUTHOR_DATE='2001-02-03T04:05:06Z' GIT_COMMITTER_DATE='2001-02-03T04:05:06Z'
git init -q -b main repo; cd repo
mkdir dir; for i in $(seq 1 200); do seq 1 "$i" > "dir/file$i"; done; ln -s dir/file1 link; printf '#!/bin/sh\n' > run; chmod +x run
git add .; git commit -q -m first; git rev-parse HEAD
for i in 1 2 3 4 5; do echo "change $i" >> dir/file1; git commit -qam "change $i"; done
git checkout -q -b side; echo side > side; git add side; git commit -qm side; git checkout -q main; echo main > main; git add main; git commit -qm main; git merge -q -m merge side; git rev-parse HEAD
git log --oneline | wc -l; git log --format=%s -3; git status --short; echo dirty >> run; git status --short; git diff --stat | tail -1; git stash -q; git stash pop -q; git checkout -q run
git gc -q --prune=now; git count-objects -v | grep -E '^(count|packs|in-pack)'; git fsck --full --strict 2>&1 | grep -v '^notice' | wc -l
git grep -c change -- dir | head -2; git blame -s dir/file1 | tail -1 | cut -c1-8; git tag v1; git describe --tags; git archive HEAD | tar t | wc -l
cd ..; git clone -q repo clone; git clone -q --bare --no-local repo bare.git; (cd clone && git rev-parse HEAD && git fsck 2>&1 | grep -c error || true); ls clone | sort | tr '\n' ' '; echo
cd clone; git rm -q -r dir; git commit -qm remove; git push -q ../bare.git HEAD:refs/heads/pushed; git -C ../bare.git log --format=%s -1 pushed; git worktree add -q ../tree HEAD; ls ../tree | wc -l; git bisect start HEAD HEAD~3 > /dev/null 2>&1; git bisect reset 2> /dev/null; git rebase -q HEAD~1; git clean -fdxq; git reflog | wc -l | awk '{ print ($1 > 2) }'
