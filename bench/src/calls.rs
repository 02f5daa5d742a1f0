//! How the system calls of programs come: by patched call sites, or trapped by the host.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

/// What the programs walk over.
const TREE: &str = "/usr/include";

/// A program that is looked at.
struct Program {
    what: &'static str,
    /// A shell command that makes it in the working directory; `$1` is the directory of the sources.
    build: &'static str,
    /// A shell command that `exec`s it.
    run: &'static str,
}

const PROGRAMS: [Program; 9] = [
    Program { what: "C, glibc", build: "gcc -O2 -o glibc $1/walk.c", run: "exec ./glibc $TREE" },
    Program {
        what: "C, glibc, linked statically",
        build: "gcc -O2 -static -o static $1/walk.c",
        run: "exec ./static $TREE",
    },
    Program { what: "C, musl", build: "musl-gcc -O2 -o musl $1/walk.c", run: "exec ./musl $TREE" },
    Program {
        what: "C, musl, linked statically",
        build: "musl-gcc -O2 -static -o musl-static $1/walk.c",
        run: "exec ./musl-static $TREE",
    },
    Program {
        what: "Go",
        build: "GOCACHE=$PWD/cache GO111MODULE=off go build -o go $1/walk.go",
        run: "exec ./go $TREE",
    },
    Program { what: "Node", build: "node --version", run: "exec node $SOURCES/walk.js $TREE" },
    Program { what: "Java", build: "javac -d . $1/Walk.java", run: "exec java Walk $TREE" },
    Program {
        what: "Python",
        build: "/usr/bin/python3 --version",
        run: "exec /usr/bin/python3 -c 'import os, sys\nfor d, _, names in os.walk(sys.argv[1]):\n  for n in names: open(os.path.join(d, n), \"rb\").read()' $TREE",
    },
    Program {
        what: "a shell that runs 100 short programs",
        build: "true",
        run: "i=0; while [ $i -lt 100 ]; do cat $SOURCES/walk.c > /dev/null; i=$((i+1)); done",
    },
];

/// How the calls of a program have come.
struct Counts {
    trapped: u64,
    patched: u64,
    sites: u64,
}

/// The table, in Markdown.
pub fn table(nacelle: &Path) -> anyhow::Result<String> {
    let place = tempfile::tempdir().context("cannot make a working directory")?;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/calls");
    let mut text = "| program | calls of the kernel | trapped | share | patched sites |\n\
                    | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for program in &PROGRAMS {
        let built = Command::new("sh")
            .args(["-ec", program.build, "sh"])
            .arg(&sources)
            .current_dir(place.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        if !built.success() {
            let _ = writeln!(text, "| {} | cannot be built here | | | |", program.what);
            continue;
        }
        let Counts { trapped, patched, sites } =
            count(nacelle, program, place.path(), &sources).with_context(|| program.what.to_owned())?;
        let calls = trapped + patched;
        let share = 100.0 * trapped as f64 / calls.max(1) as f64;
        let _ = writeln!(text, "| {} | {calls} | {trapped} | {share:.1} % | {sites} |", program.what);
    }
    Ok(text)
}

fn count(nacelle: &Path, program: &Program, place: &Path, sources: &Path) -> anyhow::Result<Counts> {
    let volume = format!("{0}:{0}:ro", place.display());
    let sources_volume = format!("{0}:{0}:ro", sources.display());
    let output = Command::new(nacelle)
        .args(["--debug", "do", "--volume", &volume, "--volume", &sources_volume, "--cwd"])
        .arg(place)
        .args(["--env", &format!("TREE={TREE}"), "--env", &format!("SOURCES={}", sources.display())])
        .args(["--", "sh", "-c", program.run])
        .output()?;
    let log = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", output.status, log.trim());
    let line =
        log.lines().rfind(|line| line.contains("how system calls came")).context("the log has no counts")?;
    let field = |name: &str| -> anyhow::Result<u64> {
        let rest = line.split_once(name).with_context(|| format!("no {name} in the log"))?.1;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().with_context(|| format!("{name}{rest}"))
    };
    Ok(Counts { trapped: field("trapped=")?, patched: field("patched=")?, sites: field("sites=")? })
}
