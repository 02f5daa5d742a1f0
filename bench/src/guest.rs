//! The program that runs inside, and the files that it uses.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// Compiles the program and makes its files in `directory`; returns the program's path.
pub fn prepare(directory: &Path, linked_statically: bool) -> anyhow::Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/bench.c");
    let program = directory.join("bench");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "gcc".to_owned());
    let mut command = Command::new(&compiler);
    command.args(["-std=gnu11", "-O2", "-pthread", "-o"]).arg(&program).arg(&source);
    if linked_statically {
        command.arg("-static");
    }
    let output = command.output().with_context(|| format!("cannot run the C compiler {compiler}"))?;
    if !output.status.success() {
        bail!("cannot compile {}:\n{}", source.display(), String::from_utf8_lossy(&output.stderr));
    }
    let write = |name: &str, length: usize| {
        std::fs::write(directory.join(name), vec![b'x'; length])
            .with_context(|| format!("cannot write {name}"))
    };
    write("small", 64)?;
    std::fs::create_dir_all(directory.join("one/two/three/four"))?;
    write("one/two/three/four/small", 64)?;
    write("file", 64 << 20)?;
    std::fs::create_dir_all(directory.join("many"))?;
    for index in 0..100 {
        write(&format!("many/file {index}"), 0)?;
    }
    Ok(program)
}
