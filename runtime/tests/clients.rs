//! Drives `nacelle` through the container managers that people use: the suites of `integration/`, each a script that prints
//! `ok NAME` or `FAIL NAME …` per check. A suite whose programs are not installed is skipped with the reason.
//!
//! ```text
//! cargo test -p runtime --test clients            all of them; FILTER=REGEX picks checks by name
//! integration/podman.sh PATH-OF-A-RUNTIME         one suite by hand, with any runtime
//! ```

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Mutex;

/// The status of a suite that cannot run here.
const SKIPPED: i32 = 77;

/// The suites start daemons and look for what is left over: one at a time.
static ONE: Mutex<()> = Mutex::new(());

/// Checks that fail, each with its reason. One that is listed and passes fails the test, as in the conformance suite.
const EXPECTED_FAILURES: &[(&str, &str, &str)] = &[];

/// Runs a suite, or its checks whose names match `filter`.
fn run(name: &str, filter: &str) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../integration").join(name).with_extension("sh");
    let mut command = Command::new("timeout");
    command.args(["--kill-after=30", "900"]).arg(&script).arg(env!("CARGO_BIN_EXE_nacelle"));
    command.env("FILTER", filter).output().expect("the suite starts")
}

/// The checks of a report that failed.
fn failures(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("FAIL ")?.split(' ').next()).collect()
}

fn suite(name: &str) {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut output = run(name, ".");
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.code() == Some(SKIPPED) {
        assert!(std::env::var_os("NACELLE_REQUIRE_ALL").is_none(), "cannot be skipped here: {text}");
        eprintln!("{text}");
        return;
    }
    let known =
        |check: &&str| EXPECTED_FAILURES.iter().any(|(of, failing, _)| *of == name && failing == check);
    let failed: Vec<_> = failures(&text).into_iter().filter(|check| !known(check)).collect();
    if !failed.is_empty() {
        // Daemons with time limits of their own, on a machine with other work to do: a failure counts if it comes twice.
        eprintln!("{name}: once more: {}", failed.join(" "));
        output = run(name, &format!("^({})$", failed.join("|")));
        let again = String::from_utf8_lossy(&output.stdout);
        let passes: Vec<_> = text.lines().filter(|line| line.starts_with("ok ")).collect();
        text = format!("{}\n{again}", passes.join("\n"));
    }
    let mut wrong = Vec::new();
    let mut passed = 0;
    for line in text.lines() {
        let mut words = line.splitn(3, ' ');
        let (word, check) = (words.next(), words.next().unwrap_or_default());
        let expected = EXPECTED_FAILURES.iter().find(|(of, failing, _)| *of == name && *failing == check);
        match (word, expected) {
            (Some("ok"), None) => passed += 1,
            (Some("ok"), Some(_)) => wrong.push(format!("{check} passes, but is listed as failing")),
            (Some("FAIL"), None) => wrong.push(line.to_owned()),
            _ => {}
        }
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(wrong.is_empty(), "{name}: {passed} checks pass, but\n{}\n{errors}", wrong.join("\n"));
    assert!(passed > 0 && text.contains(" passed, "), "{name} did not get to its end:\n{text}\n{errors}");
    println!("{name}: {passed} checks pass");
}

#[test]
fn podman() {
    suite("podman");
}

#[test]
fn podman_of_an_ordinary_user() {
    suite("podman_rootless");
}

#[test]
fn containerd() {
    suite("containerd");
}

#[test]
fn kubernetes_interface() {
    suite("cri");
}

#[test]
fn docker() {
    suite("docker");
}
