//! What is left of address spaces that are gone. Alone in its process, because it counts that process's children.

#![allow(unsafe_code, reason = "guest code is assembled with the test")]
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(dead_code, reason = "the helpers are shared with the other tests")]

mod common;

use std::time::{Duration, Instant};

use common::*;
use platform::Platform;

guest_code!(count_calls, "2: mov eax, 39", "syscall", "inc r12", "jmp 2b");

#[test]
fn create_and_drop_leaves_nothing_behind() {
    let platform = platform();
    drop(start(&platform, count_calls()));
    let fds = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let children = || {
        let own = std::process::id();
        let mut count = 0;
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
            let mut fields = stat.rsplit(')').next().unwrap().split_ascii_whitespace();
            count += usize::from(fields.nth(1) == Some(&own.to_string()));
        }
        count
    };
    // At rest there are the zygote and two fresh address spaces, which the platform makes in the background; what
    // belongs to a dead process goes shortly after it.
    let at_rest = || {
        let deadline = Instant::now() + Duration::from_secs(10);
        let (mut last, mut same) = ((0, 0), 0);
        while last.0 != 3 || same < 20 {
            assert!(Instant::now() < deadline, "{last:?} processes and fds");
            std::thread::sleep(Duration::from_millis(10));
            let now = (children(), fds());
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
        last.1
    };
    let before = at_rest();
    for round in 0..1000 {
        let mut context = platform.create().unwrap();
        if round % 10 == 0 {
            drop(context.fork().unwrap());
            drop(context.spawn().unwrap());
        }
    }
    assert_eq!(at_rest(), before);
}
