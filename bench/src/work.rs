//! Workloads: real programs that do what users have them do, and the files that they do it with.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

use crate::cases::{Case, Kind};

/// Directories of the big tree, and files in each of them.
const DIRECTORIES: usize = 500;
const FILES: usize = 200;
/// Sources of the program that is built.
const SOURCES: usize = 24;

const fn work(name: &'static str, what: &'static str, script: &'static str) -> Case {
    Case { name, what, kind: Kind::Work(script) }
}

/// The workloads. `$1` is the directory with their files.
pub const ALL: [Case; 8] = [
    work("work-find", "`find /usr | wc -l`", "find /usr -xdev | wc -l"),
    work("work-python", "python3 importing 100 modules", "/usr/bin/python3 $1/modules.py"),
    work(
        "work-git",
        "`git status` in a tree of 100,000 files",
        "cd $1/tree && GIT_OPTIONAL_LOCKS=0 git -c safe.directory='*' -c core.fsmonitor=false status --porcelain | wc -l",
    ),
    work("work-tar", "`tar` of 100,000 small files", "tar -C $1 --exclude=.git -cf - tree | wc -c"),
    work("work-walk", "a walk over 100,000 files with lstat(2)", "find $1/tree -newer $1/file | wc -l"),
    work(
        "work-make",
        "`make -j2` of a C program of 24 files",
        "make -s -C $1/project clean && make -s -j2 -C $1/project",
    ),
    work("work-sqlite", "1000 transactions of sqlite3", "/usr/bin/python3 $1/inserts.py $1/database"),
    work(
        "work-shell",
        "a shell script of 200 programs",
        "i=0; while [ $i -lt 100 ]; do cat $1/small | /usr/bin/head -c 1; i=$((i+1)); done",
    ),
];

const MODULES: &str = "\
import pkgutil, importlib, sys
names = '''abc argparse ast asyncio base64 bisect bz2 calendar cgi cmd code codecs collections colorsys compileall
configparser contextlib copy csv ctypes curses dataclasses datetime decimal difflib dis doctest email enum filecmp fileinput
fnmatch fractions ftplib functools getopt getpass gettext glob graphlib gzip hashlib heapq hmac html http.client http.server
imaplib inspect io ipaddress json keyword linecache locale logging lzma mailbox mimetypes multiprocessing netrc numbers
operator optparse os pathlib pdb pickle pickletools platform plistlib poplib pprint profile pstats py_compile pyclbr queue
quopri random re sched secrets selectors shelve shlex shutil signal smtplib socket socketserver sqlite3 ssl statistics string
subprocess sysconfig tarfile tempfile textwrap threading timeit tokenize trace traceback turtle types typing unittest urllib.request
uuid venv wave weakref webbrowser xml.dom.minidom xml.etree.ElementTree xmlrpc.client zipapp zipfile zoneinfo'''.split()
done = 0
for name in names:
    try:
        importlib.import_module(name)
        done += 1
    except ImportError:
        pass
assert done >= 100, done
";

const INSERTS: &str = "\
import os, sqlite3, sys
if os.path.exists(sys.argv[1]):
    os.unlink(sys.argv[1])
database = sqlite3.connect(sys.argv[1])
database.execute('pragma synchronous = off')
database.execute('create table numbers (id integer primary key, text text)')
database.commit()
for number in range(1000):
    database.execute('insert into numbers values (?, ?)', (number, 'x' * 100))
    database.commit()
database.close()
";

/// Makes the files that these cases need, unless they are there.
pub fn prepare(cases: &[Case], directory: &Path) -> anyhow::Result<()> {
    let wanted = |names: &[&str], made: &str| {
        cases.iter().any(|case| names.contains(&case.name)) && !directory.join(made).exists()
    };
    let write = |name: &str, text: &str| {
        fs::write(directory.join(name), text).with_context(|| format!("cannot write {name}"))
    };
    write("modules.py", MODULES)?;
    write("inserts.py", INSERTS)?;
    if wanted(&["work-git", "work-tar", "work-walk"], "tree") {
        for number in 0..DIRECTORIES {
            let place = format!("tree/{}/{number}", number / 20);
            fs::create_dir_all(directory.join(&place))?;
            for file in 0..FILES {
                write(&format!("{place}/file-{file}.txt"), "a small file\n")?;
            }
        }
    }
    if wanted(&["work-git"], "tree/.git") {
        let script = "cd \"$0\" && git init -q && git add . && \
                      git -c user.name=bench -c user.email=bench@localhost commit -qm tree";
        let status = Command::new("sh").args(["-c", script]).arg(directory.join("tree")).status()?;
        ensure!(status.success(), "cannot make a git repository (is git there?)");
    }
    if wanted(&["work-make"], "project") {
        project(directory, &write)?;
    }
    Ok(())
}

fn project(directory: &Path, write: &dyn Fn(&str, &str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    fs::create_dir(directory.join("project"))?;
    let names: Vec<String> = (0..SOURCES).map(|number| format!("part{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        let text = format!(
            "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include \"all.h\"\n\
             static int less(const void *a, const void *b) {{ return *(int *)a - *(int *)b; }}\n\
             int {name}(int n) {{ int v[64]; for (int i = 0; i < 64; i++) v[i] = (i * n + {number}) % 97;\n\
             qsort(v, 64, sizeof *v, less); return v[n % 64]; }}\n"
        );
        write(&format!("project/{name}.c"), &text)?;
    }
    let declarations: Vec<String> = names.iter().map(|name| format!("int {name}(int n);")).collect();
    write("project/all.h", &(declarations.join("\n") + "\n"))?;
    let calls: Vec<String> = names.iter().map(|name| format!("{name}(count)")).collect();
    let main =
        format!("#include \"all.h\"\nint main(int count, char **v) {{ return {}; }}\n", calls.join(" + "));
    write("project/main.c", &main)?;
    let objects: Vec<String> = names.iter().map(|name| format!("{name}.o")).collect();
    let makefile = format!(
        "CFLAGS = -O1\nOBJECTS = main.o {}\nall: program\nprogram: $(OBJECTS)\n\t$(CC) -o $@ $(OBJECTS)\n\
         $(OBJECTS): all.h\nclean:\n\trm -f program $(OBJECTS)\n",
        objects.join(" ")
    );
    write("project/Makefile", &makefile)
}
