//! How each runtime starts a program over the host's own root directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, ensure};
use serde_json::json;

/// A way to run a program.
#[derive(Debug)]
pub struct Runtime {
    /// Its name in the table.
    pub name: &'static str,
    kind: Kind,
    /// The directory that the program may write to.
    directory: PathBuf,
    /// Where bundles and states go.
    bundles: PathBuf,
}

#[derive(Debug)]
enum Kind {
    Native,
    Nacelle {
        program: PathBuf,
        options: &'static [&'static str],
    },
    /// An OCI runtime that takes `run --bundle DIR ID`, with these global options; the root directory of its bundles.
    Bundle {
        program: PathBuf,
        options: Vec<String>,
        root: PathBuf,
    },
}

/// The given nacelle, or the one that was built beside this program.
pub fn nacelle(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    Ok(match given {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("nacelle"),
    })
}

impl Runtime {
    /// The native host first, then nacelle, then what was given.
    pub fn all(
        nacelle: Option<PathBuf>,
        baseline: Option<PathBuf>,
        sleeping: bool,
        runsc: Option<PathBuf>,
        runc: Option<PathBuf>,
        directory: &Path,
        bundles: &Path,
    ) -> anyhow::Result<Vec<Runtime>> {
        let nacelle = self::nacelle(nacelle)?;
        let state = |name: &str| bundles.join(name).display().to_string();
        let plain = |program| Kind::Nacelle { program, options: &[] };
        let mut kinds = vec![("native", Kind::Native), ("nacelle", plain(nacelle.clone()))];
        if sleeping {
            kinds.push(("sleeping", Kind::Nacelle { program: nacelle, options: &["--no-spinning"] }));
        }
        kinds.extend(baseline.map(|path| ("baseline", plain(path))));
        kinds.extend(runsc.map(|path| {
            let options =
                ["--root", &state("runsc"), "--platform=systrap", "--network=none", "--ignore-cgroups"];
            let options = options.map(str::to_owned).to_vec();
            ("runsc", Kind::Bundle { program: path, options, root: "/".into() })
        }));
        if let Some(program) = runc {
            let options = vec!["--root".to_owned(), state("runc")];
            let root = bundles.join("root");
            fs::create_dir(&root)?;
            kinds.push(("runc", Kind::Bundle { program, options, root }));
        }
        for (name, kind) in &kinds {
            if let Kind::Nacelle { program: path, .. } | Kind::Bundle { program: path, .. } = kind {
                ensure!(path.is_file(), "{name}: there is no {} (cargo build --release?)", path.display());
            }
            if let Kind::Bundle { .. } = kind {
                ensure!(rustix::process::getuid().is_root(), "measuring {name} needs root");
            }
        }
        let runtime = |(name, kind)| Runtime {
            name,
            kind,
            directory: directory.to_owned(),
            bundles: bundles.to_owned(),
        };
        Ok(kinds.into_iter().map(runtime).collect())
    }

    /// A command that runs the given one in this runtime.
    pub fn command(&self, arguments: &[String]) -> anyhow::Result<Command> {
        let mut command = match &self.kind {
            Kind::Native => {
                let mut command = Command::new(&arguments[0]);
                command.args(&arguments[1..]);
                command
            }
            Kind::Nacelle { program, options } => {
                let directory = self.directory.display();
                let mut command = Command::new(program);
                command.args(["do", "--volume", &format!("{directory}:{directory}")]);
                command.args(*options).arg("--").args(arguments);
                command
            }
            Kind::Bundle { program, options, root } => {
                static CONTAINERS: AtomicU32 = AtomicU32::new(0);
                let number = CONTAINERS.fetch_add(1, Ordering::Relaxed);
                let id = format!("nacelle-bench-{}-{number}", std::process::id());
                let bundle = self.bundles.join(&id);
                fs::create_dir(&bundle)?;
                fs::write(bundle.join("config.json"), self.config(arguments, root).to_string())
                    .context("cannot write a bundle")?;
                let mut command =
                    if root == Path::new("/") { Command::new(program) } else { bound_root(root, program) };
                command.args(options).arg("run").arg("--bundle").arg(&bundle).arg(&id);
                command
            }
        };
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// A bundle's specification: the host's root, read-only, and the directory.
    fn config(&self, arguments: &[String], root: &Path) -> serde_json::Value {
        let directory = self.directory.display().to_string();
        let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
        let namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0},
                "args": arguments,
                "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "cwd": "/",
            },
            "root": {"path": root, "readonly": true},
            "hostname": "bench",
            "mounts": [
                mount("/proc", "proc", "proc", &[]),
                mount("/dev", "tmpfs", "tmpfs", &["nosuid", "mode=755"]),
                mount(&directory, "bind", &directory, &["bind", "rw"]),
            ],
            "linux": {"namespaces": namespaces},
        })
    }
}

/// A command that runs `program` where `root` shows the host's root directory: runc cannot use `/` itself. The mount
/// exists in a namespace of the command's own, so that nobody else ever sees it.
fn bound_root(root: &Path, program: &Path) -> Command {
    let mut command = Command::new("unshare");
    let script = r#"mount --rbind / "$0" && exec "$@""#;
    command.args(["--mount", "--propagation=private", "sh", "-c", script]).arg(root).arg(program);
    command
}
