//! What crossing into and out of a guest costs: `cargo run --release -p platform --example stub_bench`.
//!
//! Prints the median of several rounds for each operation, beside the host's own cost where there is such a thing.

#![allow(unsafe_code, reason = "guest code is assembled with the program")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::*;
use platform::{MemoryOp, Platform};

guest_code!(call_loop, "2: mov eax, 39", "syscall", "jmp 2b");

const ROUNDS: usize = 7;

/// The median time of one of `count` operations.
fn measure<T>(count: u32, mut operation: impl FnMut() -> T) -> Duration {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            (0..count).for_each(|_| drop(std::hint::black_box(operation())));
            start.elapsed() / count
        })
        .collect();
    times.sort();
    times[ROUNDS / 2]
}

fn print(name: &str, time: Duration, native: Option<Duration>) {
    let micros = |time: Duration| format!("{:.2} µs", time.as_nanos() as f64 / 1000.0);
    println!("{name:28} {:>12} {:>12}", micros(time), native.map_or("-".into(), micros));
}

fn main() {
    let platform = platform();
    println!("{:28} {:>12} {:>12}", "", "guest", "native");
    let mut context = start(&platform, call_loop());
    let native = measure(2000, host::rustix::process::getppid);
    print("system call", measure(2000, || syscall(&mut *context)), Some(native));
    let space = context.space().clone();
    let mut page = [0; 4096];
    print("read of 8 bytes", measure(2000, || space.read(DATA, &mut page[..8])), None);
    print("read of a page", measure(2000, || space.read(DATA, &mut page)), None);
    print("write of a page", measure(2000, || space.write(DATA, &page)), None);
    let base = 0x3000_0000;
    let pair = [anonymous(base, 8192, RW), MemoryOp::Unmap { address: base, length: 8192 }];
    // SAFETY: maps and unmaps fresh memory that nothing refers to.
    let native = measure(2000, || unsafe {
        let address =
            libc::mmap(std::ptr::null_mut(), 8192, 3, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
        libc::munmap(address, 8192);
    });
    let time = measure(1000, || context.memory(&pair).expect("mapped"));
    print("mmap and munmap, one batch", time, Some(native));
    let file = std::sync::Arc::new(std::fs::File::open("/proc/self/exe").expect("this program").into());
    let map = MemoryOp::Map {
        address: base,
        length: 8192,
        protection: 1,
        shared: false,
        flags: 0,
        file: Some((&file, 0)),
    };
    print("mapping a file", measure(200, || context.memory(&[map]).expect("mapped")), None);
    let exchange = measure(1000, || context.compare_exchange(DATA, 0, 0));
    print("compare and exchange", exchange, None);
    let interrupter = context.interrupter();
    let pending = measure(1000, || {
        interrupter.interrupt();
        context.run();
    });
    print("pending interrupt", pending, None);
    print(
        "spawn, run, end",
        measure(200, || {
            let mut thread = context.spawn().expect("a thread");
            syscall(&mut *thread);
        }),
        Some(measure(200, || std::thread::spawn(|| ()).join().expect("ends"))),
    );
    // SAFETY: the child does nothing but exit.
    let native = measure(50, || unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::_exit(0);
        }
        libc::waitpid(child, std::ptr::null_mut(), 0);
    });
    print("fork", measure(100, || context.fork().expect("a child")), Some(native));
    print(
        "fork, run to a call",
        measure(100, || {
            let mut child = context.fork().expect("a child");
            syscall(&mut *child);
        }),
        None,
    );
    print("create", measure(50, || drop(platform.create().expect("a space"))), None);
    print(
        "create after a rest",
        {
            let mut times: Vec<Duration> = (0..20)
                .map(|_| {
                    std::thread::sleep(Duration::from_millis(10));
                    let start = Instant::now();
                    drop(platform.create().expect("a space"));
                    start.elapsed()
                })
                .collect();
            times.sort();
            times[10]
        },
        None,
    );
}
