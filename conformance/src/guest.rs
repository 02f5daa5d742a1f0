//! Finding and compiling the guest programs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs};

use anyhow::{Context as _, bail};

/// What the name of a statically linked variant ends with.
pub const STATIC_SUFFIX: &str = "-static";

/// The subjects that are linked statically as well: a static program needs less of a kernel to start.
const STATIC_SUBJECTS: [&str; 2] = ["process", "misc"];

/// Bad buffers and lengths, which the warnings switched off are about, are what many cases are about.
const FLAGS: [&str; 10] = [
    "-std=gnu11",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-format-truncation",
    "-Wno-nonnull",
    "-Wno-stringop-overflow",
    "-Wno-stringop-overread",
    "-O1",
    "-pthread",
];

/// A guest program: one C file, linked one way.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The file's name without `.c`, with [`STATIC_SUFFIX`] for a static variant.
    pub subject: String,
    source: PathBuf,
}

impl Guest {
    /// All guest programs, in alphabetical order.
    pub fn all() -> anyhow::Result<Vec<Guest>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest");
        let mut guests = Vec::new();
        for entry in fs::read_dir(&directory).with_context(|| format!("listing {}", directory.display()))? {
            let source = entry?.path();
            if source.extension().is_none_or(|extension| extension != "c") {
                continue;
            }
            let Some(subject) = source.file_stem().and_then(|stem| stem.to_str()) else { continue };
            if STATIC_SUBJECTS.contains(&subject) {
                guests.push(Guest { subject: format!("{subject}{STATIC_SUFFIX}"), source: source.clone() });
            }
            guests.push(Guest { subject: subject.to_owned(), source });
        }
        guests.sort_by(|one, other| one.subject.cmp(&other.subject));
        Ok(guests)
    }

    /// Whether this is the static variant of another guest.
    pub fn is_static(&self) -> bool {
        self.subject.ends_with(STATIC_SUFFIX)
    }

    /// Compiles the program unless it is newer than its sources, and returns its path.
    pub fn compile(&self, compiler: &str, directory: &Path) -> anyhow::Result<PathBuf> {
        let program = directory.join(&self.subject);
        let header = self.source.with_file_name("test.h");
        if is_newer(&program, &[&self.source, &header]) {
            return Ok(program);
        }
        fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
        // Renamed into place, so that tests that run at the same time never see half a program.
        static BUILDS: AtomicUsize = AtomicUsize::new(0);
        let build = BUILDS.fetch_add(1, Ordering::Relaxed);
        let unfinished = directory.join(format!("{}.{}.{build}", self.subject, std::process::id()));
        let mut command = Command::new(compiler);
        command.args(FLAGS);
        if self.is_static() {
            command.arg("-static");
        }
        let output =
            command.arg("-o").arg(&unfinished).arg(&self.source).output().context("running the compiler")?;
        if !output.status.success() {
            bail!("compiling {}:\n{}", self.source.display(), String::from_utf8_lossy(&output.stderr));
        }
        fs::rename(&unfinished, &program).with_context(|| format!("renaming {}", unfinished.display()))?;
        Ok(program)
    }
}

fn is_newer(program: &Path, sources: &[&Path]) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    let Ok(built) = modified(program) else { return false };
    sources.iter().all(|source| modified(source).is_ok_and(|time| time < built))
}

/// The C compiler to use, or why there is none.
pub fn compiler() -> Result<String, String> {
    let compiler = env::var("CC").unwrap_or_else(|_| "gcc".to_owned());
    match Command::new(&compiler).arg("--version").output() {
        Ok(output) if output.status.success() => Ok(compiler),
        _ => Err(format!("the C compiler `{compiler}` does not run")),
    }
}

/// The directory that cargo builds this profile into: the test executable lies in its `deps`.
fn profile_directory() -> anyhow::Result<PathBuf> {
    let executable = env::current_exe().context("finding the test executable")?;
    let directory =
        executable.ancestors().nth(2).context("the test executable lies in no target directory")?;
    Ok(directory.to_owned())
}

/// Where the compiled guests go.
pub fn build_directory() -> anyhow::Result<PathBuf> {
    Ok(profile_directory()?.join("conformance"))
}

/// The `nacelle` binary to test, or why there is none.
pub fn nacelle() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os("NACELLE") {
        let path = PathBuf::from(path);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(format!("NACELLE={}: no such file", path.display()))
        };
    }
    let path = profile_directory().map_err(|error| error.to_string())?.join("nacelle");
    if path.is_file() { Ok(path) } else { Err(format!("{} has not been built", path.display())) }
}
