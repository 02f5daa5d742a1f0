use std::fs;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::storage::injected::{self, DEATH, Fault};
use super::*;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Saved {
    number: u64,
    text: String,
}

fn value(number: u64) -> Saved {
    Saved { number, text: "x".repeat(usize::try_from(number).unwrap() * 100) }
}

fn id(name: &str) -> Id {
    Id::new(name).unwrap()
}

fn full(sandbox: &str, container: &str) -> FullId {
    FullId { sandbox_id: id(sandbox), container_id: id(container) }
}

fn make(root: &Path, sandbox: &str, container: &str) -> StateFile {
    let mut file = StateFile::new(root, full(sandbox, container));
    file.lock_for_new().unwrap();
    file.save_locked(&value(1)).unwrap();
    file.unlock();
    file
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn find_name(root: &Path, name: &str) -> Result<String> {
    find(root, None, &id(name), LoadOpts::default()).map(|file| file.id().to_string())
}

/// Nothing at all lies below a directory.
fn is_empty(root: &Path) -> bool {
    fs::read_dir(root).unwrap().next().is_none()
}

#[test]
fn what_is_saved_is_read_back_by_others() {
    let root = directory();
    let mut file = make(root.path(), "s", "s");
    let other = find(root.path(), None, &id("s"), LoadOpts::default()).unwrap();
    assert_eq!(other.load::<Saved>().unwrap(), value(1));
    let before = other.stat().unwrap();
    file.lock(TryLock::Block).unwrap();
    file.save_locked(&value(2)).unwrap();
    // Readers do not wait for the lock.
    assert_eq!(other.load::<Saved>().unwrap(), value(2));
    let after = other.stat().unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_ne!((before.ino(), before.size()), (after.ino(), after.size()));
    file.destroy().unwrap();
    assert!(matches!(other.load::<Saved>(), Err(Error::NotFound(_))));
    assert!(matches!(other.stat(), Err(Error::NotFound(_))));
    assert!(is_empty(root.path()));
    file.destroy().unwrap();
    file.unlock();
}

#[test]
fn nothing_is_saved_without_the_lock() {
    let root = directory();
    let file = make(root.path(), "s", "s");
    assert!(matches!(file.save_locked(&value(2)), Err(Error::NotLocked(_))));
    assert_eq!(file.load::<Saved>().unwrap(), value(1));
}

#[test]
fn asking_for_a_missing_container_leaves_nothing_behind() {
    let root = directory();
    let below = root.path().join("not/there");
    for root in [root.path(), &below] {
        let error = find_name(root, "c").unwrap_err();
        assert_eq!(error.to_string(), "container \"c\" does not exist");
        let mut file = StateFile::new(root, full("c", "c"));
        for error in [
            file.load::<Saved>().unwrap_err(),
            file.lock(TryLock::Block).unwrap_err(),
            file.stat().unwrap_err(),
        ] {
            assert!(error.to_string().contains("does not exist"), "{error}");
        }
        file.destroy().unwrap();
        assert!(list(root).unwrap().is_empty());
    }
    assert!(is_empty(root.path()));
}

#[test]
fn a_whole_name_beats_the_beginning_of_another() {
    let root = directory();
    make(root.path(), "foo", "foo");
    make(root.path(), "foobar", "foobar");
    make(root.path(), "foobar", "foobaz");
    assert_eq!(find_name(root.path(), "foo").unwrap(), "foo/foo");
    assert_eq!(find_name(root.path(), "foobaz").unwrap(), "foobar/foobaz");
    assert_eq!(find_name(root.path(), "foobar").unwrap(), "foobar/foobar");
    let error = find_name(root.path(), "foob").unwrap_err().to_string();
    assert_eq!(error, "id \"foob\" is ambiguous and could refer to multiple containers: foobar, foobaz");
    // The beginning of a sandbox's name is none of a container's in it.
    make(root.path(), "pod", "one");
    assert!(find_name(root.path(), "po").is_err());
    assert_eq!(find_name(root.path(), "on").unwrap(), "pod/one");
    let exact = LoadOpts { exact: true, ..LoadOpts::default() };
    assert!(matches!(find(root.path(), None, &id("on"), exact), Err(Error::NotFound(_))));
    assert!(find(root.path(), Some(&id("pod")), &id("one"), exact).is_ok());
    assert!(matches!(find(root.path(), Some(&id("foo")), &id("one"), exact), Err(Error::NotFound(_))));
}

#[test]
fn only_the_first_container_stands_for_a_sandbox() {
    let root = directory();
    make(root.path(), "pod", "pod");
    make(root.path(), "pod", "podling");
    let options = LoadOpts { root_container: true, ..LoadOpts::default() };
    let found = find(root.path(), None, &id("po"), options).unwrap();
    assert!(found.id().is_root());
    assert!(matches!(find(root.path(), None, &id("podling"), options), Err(Error::NotRoot(_))));
}

#[test]
fn names_that_look_like_patterns_or_separators_are_literal() {
    let root = directory();
    make(root.path(), "a_sandbox", "a_sandbox");
    make(root.path(), "a", "state.json");
    make(root.path(), "containers", "containers");
    assert_eq!(find_name(root.path(), "state.json").unwrap(), "a/state.json");
    assert_eq!(find_name(root.path(), "containers").unwrap(), "containers/containers");
    assert!(find_name(root.path(), "a.").is_err());
    let all: Vec<_> = list(root.path()).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(all, ["a/state.json", "a_sandbox/a_sandbox", "containers/containers"]);
}

#[test]
fn names_are_unique_among_all_sandboxes() {
    let root = directory();
    make(root.path(), "one", "same");
    let mut other = StateFile::new(root.path(), full("two", "same"));
    assert!(matches!(other.lock_for_new(), Err(Error::AlreadyExists(_))));
    assert_eq!(list(root.path()).unwrap(), [full("one", "same")]);
    // Somebody who is just making it has the name, too.
    let mut making = StateFile::new(root.path(), full("one", "next"));
    making.lock_for_new().unwrap();
    let mut other = StateFile::new(root.path(), full("two", "next"));
    assert!(matches!(other.lock_for_new(), Err(Error::AlreadyExists(_))));
    // But not one who died over it.
    drop(making);
    other.lock_for_new().unwrap();
    other.save_locked(&value(1)).unwrap();
    assert_eq!(find_name(root.path(), "next").unwrap(), "two/next");
}

#[test]
fn sandboxes_are_listed_once_and_only_their_own_containers_belong_to_them() {
    let root = directory();
    for (sandbox, container) in [("pod", "pod"), ("pod", "b"), ("pod2", "pod2"), ("pod2", "a")] {
        make(root.path(), sandbox, container);
    }
    fs::write(root.path().join("some file"), "").unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    fs::create_dir(root.path().join("empty")).unwrap();
    assert_eq!(list_sandboxes(root.path()).unwrap(), [full("pod", "pod"), full("pod2", "pod2")]);
    assert_eq!(list_sandbox(root.path(), &id("pod")).unwrap(), [full("pod", "b"), full("pod", "pod")]);
}

#[test]
fn a_corrupt_file_spoils_only_its_own_container() {
    let root = directory();
    let good = make(root.path(), "good", "good");
    let mut bad = make(root.path(), "bad", "bad");
    let path = bad.container_dir().join(STATE);
    for rubbish in [&b""[..], b"{", b"\xff\xfe", b"null", b"{\"number\":-1}"] {
        fs::write(&path, rubbish).unwrap();
        let error = bad.load::<Saved>().unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains("bad"), "{error}");
        assert_eq!(good.load::<Saved>().unwrap(), value(1));
        assert_eq!(list(root.path()).unwrap().len(), 2);
        let mut again = StateFile::new(root.path(), full("bad", "bad"));
        assert!(matches!(again.lock_for_new(), Err(Error::AlreadyExists(_))));
    }
    bad.destroy().unwrap();
    assert_eq!(list(root.path()).unwrap(), [full("good", "good")]);
    make(root.path(), "bad", "bad");
}

#[test]
fn files_of_a_container_vanish_with_it_and_those_of_its_sandbox_do_not() {
    let root = directory();
    let mut file = make(root.path(), "s", "s");
    fs::create_dir_all(file.container_dir().join("deep/er")).unwrap();
    fs::write(file.container_dir().join("deep/er/file"), "").unwrap();
    fs::write(file.sandbox_dir().join("socket"), "").unwrap();
    file.destroy().unwrap();
    assert!(!file.container_dir().exists());
    assert!(file.sandbox_dir().join("socket").exists());
    assert!(list(root.path()).unwrap().is_empty());
}

#[test]
fn a_lock_is_waited_for_or_not() {
    let root = directory();
    let mut file = make(root.path(), "s", "s");
    file.lock(TryLock::Block).unwrap();
    let mut other = StateFile::new(root.path(), full("s", "s"));
    let error = other.lock(TryLock::Try).unwrap_err();
    assert!(matches!(error, Error::StateFileLocked(_)));
    assert!(error.to_string().starts_with("state file locked"));
    let wait = LoadOpts { try_lock: TryLock::Try, ..LoadOpts::default() };
    assert!(matches!(find(root.path(), None, &id("s"), wait), Err(Error::StateFileLocked(_))));
    assert!(find(root.path(), None, &id("s"), LoadOpts::default()).is_ok());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            other.lock(TryLock::Block).unwrap();
            other.load::<Saved>().unwrap()
        });
        file.save_locked(&value(7)).unwrap();
        file.unlock();
        assert_eq!(waiting.join().unwrap(), value(7));
    });
}

#[test]
fn a_lock_on_a_container_that_was_deleted_meanwhile_is_none() {
    let root = directory();
    let mut file = make(root.path(), "s", "s");
    file.lock(TryLock::Block).unwrap();
    let mut waiter = StateFile::new(root.path(), full("s", "s"));
    std::thread::scope(|scope| {
        // There is a moment at which there is no such container; whoever asks then asks again.
        let waiting = scope.spawn(|| {
            loop {
                match waiter.lock(TryLock::Block) {
                    Err(Error::NotFound(_)) => std::thread::yield_now(),
                    other => return other,
                }
            }
        });
        file.destroy().unwrap();
        // Made anew while the old lock is still held: another directory.
        let mut new = StateFile::new(root.path(), full("s", "s"));
        new.lock_for_new().unwrap();
        new.save_locked(&value(2)).unwrap();
        file.unlock();
        new.unlock();
        waiting.join().unwrap().unwrap();
    });
    // What the waiter holds is the new one's.
    let mut third = StateFile::new(root.path(), full("s", "s"));
    assert!(matches!(third.lock(TryLock::Try), Err(Error::StateFileLocked(_))));
}

#[test]
fn of_fifty_makers_of_one_container_one_wins() {
    let root = directory();
    let (barrier, winners) = (Barrier::new(50), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                let mut file = StateFile::new(root.path(), full("s", "s"));
                barrier.wait();
                match file.lock_for_new() {
                    Ok(()) => {
                        winners.fetch_add(1, Ordering::Relaxed);
                        file.save_locked(&value(1)).unwrap();
                    }
                    Err(error) => {
                        assert_eq!(error.to_string(), "container with id \"s\" already exists");
                    }
                }
            });
        }
    });
    assert_eq!(winners.into_inner(), 1);
    assert_eq!(list(root.path()).unwrap().len(), 1);
}

/// A whole life, in as many steps as possible.
fn life(root: &Path) -> Result<()> {
    let mut file = StateFile::new(root, full("s", "c"));
    file.lock_for_new()?;
    file.save_locked(&value(1))?;
    file.save_locked(&value(2))?;
    fs::write(file.container_dir().join("file"), "").unwrap();
    file.destroy()
}

/// Whatever happened before, the container is whole or not there, and everything can be done again.
fn check_after_fault(root: &Path) {
    match find_name(root, "c") {
        Ok(_) => {
            let saved: Saved = StateFile::new(root, full("s", "c")).load().unwrap();
            assert!(saved == value(1) || saved == value(2), "{saved:?}");
            StateFile::new(root, full("s", "c")).destroy().unwrap();
        }
        Err(Error::NotFound(_)) => drop(remove_leftovers(root, &id("c")).unwrap()),
        Err(error) => panic!("{error}"),
    }
    assert!(list(root).unwrap().is_empty());
    life(root).unwrap();
}

#[test]
fn a_step_that_fails_leaves_the_container_whole_or_not_there() {
    let root = directory();
    let mut steps = 0;
    loop {
        injected::at(steps, Fault::Error);
        let result = life(root.path());
        if injected::clear() {
            result.unwrap();
            break;
        }
        assert!(matches!(result, Err(Error::Io { .. })), "step {steps}");
        check_after_fault(root.path());
        assert!(is_empty(root.path()), "after step {steps}");
        steps += 1;
    }
    assert!(steps > 15, "{steps} steps");
}

const CHILD_ROOT: &str = "NACELLE_TEST_STATE_ROOT";
const CHILD_ORDER: &str = "NACELLE_TEST_STATE_ORDER";

/// Runs [`child`] in another process.
fn in_child(root: &Path, order: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "state::tests::child", "--nocapture"]);
    command.env(CHILD_ROOT, root).env(CHILD_ORDER, order).stdout(Stdio::null());
    command
}

/// No test by itself: what other processes do.
#[test]
fn child() {
    let (Some(root), Ok(order)) = (std::env::var_os(CHILD_ROOT), std::env::var(CHILD_ORDER)) else { return };
    let root = Path::new(&root);
    match order.split_once(' ') {
        Some(("die", step)) => {
            injected::at(step.parse().unwrap(), Fault::Death);
            life(root).unwrap();
        }
        Some(("contend", seed)) => contend(root, seed.parse().unwrap()),
        _ => panic!("no such order: {order}"),
    }
}

#[test]
fn a_process_that_dies_at_any_step_leaves_the_container_whole_or_not_there() {
    let root = directory();
    for step in 0.. {
        let status = in_child(root.path(), &format!("die {step}")).status().unwrap();
        if status.success() {
            assert!(step > 15, "{step} steps");
            break;
        }
        assert_eq!(status.code(), Some(DEATH));
        check_after_fault(root.path());
        assert!(is_empty(root.path()), "after step {step}");
    }
}

/// Makes, changes and deletes containers that others also make, change and delete. Exclusion is checked with files that
/// can be made only once.
fn contend(root: &Path, seed: u64) {
    let outside = root.parent().unwrap();
    let exclusive = |name: &str, work: &mut dyn FnMut()| {
        let path = outside.join(format!("held-{name}"));
        fs::OpenOptions::new().write(true).create_new(true).open(&path).expect("two hold one lock");
        work();
        fs::remove_file(&path).unwrap();
    };
    let mut random = seed;
    for _ in 0..150 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let name = format!("c{}", (random >> 40) % 3);
        let mut file = StateFile::new(root, full("s", &name));
        match (random >> 50) % 4 {
            0 | 1 => match file.lock_for_new() {
                Ok(()) => exclusive(&name, &mut || file.save_locked(&value(3)).unwrap()),
                Err(Error::AlreadyExists(_)) => {}
                Err(error) => panic!("{error}"),
            },
            2 => match file.lock(TryLock::Block) {
                Ok(()) => exclusive(&name, &mut || {
                    let number = file.load::<Saved>().unwrap().number;
                    file.save_locked(&value((number + 1) % 20)).unwrap();
                }),
                Err(Error::NotFound(_)) => {}
                Err(error) => panic!("{error}"),
            },
            _ => match file.lock(TryLock::Block) {
                Ok(()) => {
                    exclusive(&name, &mut || drop(file.load::<Saved>().unwrap()));
                    // In the midst of it another may make a new one.
                    file.destroy().unwrap();
                }
                Err(Error::NotFound(_)) => {}
                Err(error) => panic!("{error}"),
            },
        }
        drop(file);
        for id in list(root).unwrap() {
            match StateFile::new(root, id).load::<Saved>() {
                Ok(saved) => assert_eq!(saved, value(saved.number)),
                Err(Error::NotFound(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn processes_do_not_get_into_each_others_way() {
    let outside = directory();
    let root = outside.path().join("root");
    let children: Vec<_> =
        (0..6).map(|seed| in_child(&root, &format!("contend {seed}")).spawn().unwrap()).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    for name in ["c0", "c1", "c2"] {
        StateFile::new(&root, full("s", name)).destroy().unwrap();
        remove_leftovers(&root, &id(name)).unwrap();
    }
    assert!(is_empty(&root));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_value_comes_back(number in any::<u64>(), text in ".*") {
        let root = directory();
        let mut file = StateFile::new(root.path(), full("s", "c"));
        file.lock_for_new().unwrap();
        let saved = Saved { number, text };
        file.save_locked(&saved).unwrap();
        prop_assert_eq!(file.load::<Saved>().unwrap(), saved);
    }

    #[test]
    fn a_search_finds_what_the_rules_say(names in proptest::collection::btree_set("[ab]{1,4}", 1..8), wanted in "[ab]{1,4}") {
        let root = directory();
        for name in &names {
            make(root.path(), name, name);
        }
        let fits: Vec<_> = names.iter().filter(|name| name.starts_with(&wanted)).cloned().collect();
        match find_name(root.path(), &wanted) {
            Ok(found) if names.contains(&wanted) => prop_assert_eq!(found, format!("{wanted}/{wanted}")),
            Ok(found) => prop_assert_eq!(vec![found], fits.iter().map(|name| format!("{name}/{name}")).collect::<Vec<_>>()),
            Err(Error::NotFound(_)) => prop_assert!(fits.is_empty()),
            Err(Error::Ambiguous { candidates, .. }) => {
                prop_assert!(fits.len() > 1 && !names.contains(&wanted));
                prop_assert_eq!(candidates, fits);
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
