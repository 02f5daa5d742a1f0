//! A hostile client of the control socket: noise, broken and huge frames, requests of wrong types, descriptors where none
//! belong, and connections without end. The sandbox lives, serves others meanwhile, and keeps nothing of it.
//!
//! Another seed each day; `NACELLE_HOSTILE_SEED` sets it, `NACELLE_STRESS` the number of attacks (400).

mod bundles;

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use bundles::{Host, can_run, is_alive, until};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

/// xorshift64
struct Random(u64);

impl Random {
    fn of_today() -> Random {
        let seed = std::env::var("NACELLE_HOSTILE_SEED").ok().and_then(|text| text.parse().ok());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let seed = seed.unwrap_or(now.as_secs() / 86400);
        println!("seed {seed}");
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most)).map(|_| self.next() as u8).collect()
    }
}

/// A container called `c`, its socket, and its sandbox's pid.
struct Target {
    host: Host,
    socket: PathBuf,
    sandbox: i32,
}

impl Target {
    fn new() -> Target {
        let host = Host::new();
        let bundle = host.bundle("b", "echo ready; while :; do sleep 0.05; done");
        host.started("c", &bundle);
        host.wait_for_output("c", "ready");
        let state = std::fs::read(host.path("state/c/containers/c/state.json")).expect("a state");
        let state: Value = serde_json::from_slice(&state).expect("JSON");
        let sandbox = state["sandbox"]["process"]["pid"].as_i64().expect("a pid") as i32;
        Target { socket: host.path("state/c/control.sock"), host, sandbox }
    }

    fn connect(&self) -> UnixStream {
        let socket = UnixStream::connect(&self.socket).expect("the sandbox listens");
        socket.set_write_timeout(Some(Duration::from_secs(5))).expect("a socket");
        socket
    }

    #[track_caller]
    fn assert_serves(&self) {
        assert_eq!(self.host.run(&["exec", "c", "echo", "well"]).ok(), "well\n");
        assert!(is_alive(self.sandbox));
    }

    /// Descriptors and threads of the sandbox.
    fn usage(&self) -> (usize, usize) {
        let count = |name: &str| {
            std::fs::read_dir(format!("/proc/{}/{name}", self.sandbox)).map_or(0, Iterator::count)
        };
        (count("fd"), count("task"))
    }

    /// Waits until the sandbox has no more than it had.
    #[track_caller]
    fn assert_kept_nothing(&self, before: (usize, usize)) {
        until("the end of connections", || {
            let now = self.usage();
            now.0 <= before.0 + 8 && now.1 <= before.1 + 8
        });
    }
}

fn frame(body: &[u8], descriptors: usize) -> Vec<u8> {
    [&(body.len() as u32).to_le_bytes(), &(descriptors as u32).to_le_bytes(), body].concat()
}

/// Sends bytes with descriptors.
fn send(socket: &UnixStream, bytes: &[u8], descriptors: &[OwnedFd]) {
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(&borrowed).size()];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&borrowed));
    }
    // The sandbox may have had enough already.
    let _ = sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL);
}

/// Requests about a container that is not there, and harmless ones about the one that is.
fn requests() -> Vec<Value> {
    let process = json!({
        "program": "sh", "arguments": ["sh"], "environment": [], "cwd": "/", "uid": 0, "gid": 0, "groups": [], "umask": 18,
        "capabilities": { "bounding": 0, "permitted": 0, "effective": 0, "inheritable": 0, "ambient": 0 },
        "no_new_privileges": false, "limits": [], "oom_score_adj": 0, "streams": { "files": [[0, 0], [1, 1], [2, 2]] },
    });
    let root = json!({ "directory": 0, "layer": "through", "read_only": false });
    vec![
        json!("version"),
        json!({ "create": {
            "id": "x", "hostname": "x", "domainname": "", "gofer": [0, 1], "root": root, "mounts": [], "process": process,
        } }),
        json!({ "start": { "container": "x" } }),
        json!({ "execute": { "container": "c", "process": process, "link": 3 } }),
        json!({ "execute": { "container": "x", "process": process, "link": null } }),
        json!({ "signal": { "container": "x", "signal": 9, "target": "all" } }),
        json!({ "signal": { "container": "c", "signal": 0, "target": { "process": 1 } } }),
        json!({ "wait": { "container": "x", "target": "init" } }),
        json!({ "processes": { "container": "c" } }),
        json!({ "usage": { "container": "c" } }),
        json!({ "resume": { "container": "c" } }),
        json!({ "update": { "container": "x", "resources": {} } }),
        json!({ "state": { "container": "c" } }),
        json!({ "resize": { "container": "c", "pid": null } }),
        json!({ "destroy": { "container": "x" } }),
    ]
}

/// Something that is probably wrong in the place of a value.
fn nonsense(random: &mut Random) -> Value {
    match random.below(10) {
        0 => Value::Null,
        1 => json!(random.next()),
        2 => json!(-(random.below(1 << 40) as i64)),
        3 => json!(1e300),
        4 => json!(String::from_utf8_lossy(&random.bytes(64))),
        5 => json!("\0../../\u{10ffff}"),
        6 => json!("x".repeat(random.below(1 << 16))),
        7 => (0..random.below(200)).fold(json!([]), |inner, _| json!([inner])),
        8 => (0..random.below(2000)).map(|number| json!(number)).collect(),
        _ => json!({ "container": "x", "more": true }),
    }
}

/// Changes a value somewhere within.
fn spoil(value: &mut Value, random: &mut Random) {
    let inside = random.below(4) > 0;
    match value {
        Value::Object(map) if inside && !map.is_empty() => {
            let key = map.keys().nth(random.below(map.len())).expect("a key").clone();
            if random.below(8) == 0 {
                map.remove(&key);
            } else if let Some(inner) = map.get_mut(&key) {
                spoil(inner, random);
            }
        }
        Value::Array(list) if inside && !list.is_empty() => {
            let at = random.below(list.len());
            spoil(&mut list[at], random);
        }
        _ => *value = nonsense(random),
    }
}

fn some_request(random: &mut Random) -> Vec<u8> {
    let all = requests();
    let mut envelope = json!({ "version": 1, "request": all[random.below(all.len())] });
    for _ in 0..random.below(3) {
        let mut request = envelope["request"].take();
        spoil(&mut request, random);
        // A container that is there may not be named by chance.
        envelope["request"] = request;
    }
    if random.below(10) == 0 {
        spoil(&mut envelope, random);
    }
    envelope.to_string().into_bytes()
}

fn descriptors(random: &mut Random) -> Vec<OwnedFd> {
    let count = [0, 1, 2, 4, 5, 100, 253][random.below(7)];
    let one = || match std::fs::File::open("/dev/null") {
        Ok(null) => OwnedFd::from(null),
        Err(error) => panic!("no /dev/null: {error}"),
    };
    (0..count).map(|_| one()).collect()
}

/// One attack. Returns the connection if it is to stay open.
fn attack(target: &Target, random: &mut Random) -> Option<UnixStream> {
    let mut socket = target.connect();
    match random.below(8) {
        0 => drop(socket.write_all(&random.bytes(5000))),
        // Half of a frame.
        1 => {
            let whole = frame(&some_request(random), 0);
            drop(socket.write_all(&whole[..random.below(whole.len())]));
        }
        2 => drop(socket.write_all(&[&u32::MAX.to_le_bytes()[..], &random.bytes(64)].concat())),
        3 => drop(socket.write_all(&frame(&random.bytes(300), 0))),
        // More and fewer descriptors than announced, and some in the middle of the body.
        4 => {
            let body = some_request(random);
            let given = descriptors(random);
            send(&socket, &frame(&body, random.below(260)), &given);
        }
        5 => {
            let whole = frame(&some_request(random), 0);
            let (first, second) = whole.split_at(random.below(whole.len()));
            drop(socket.write_all(first));
            send(&socket, second, &descriptors(random));
        }
        // Requests without end, the answers to which nobody reads.
        6 => {
            let one = frame(b"{\"version\":1,\"request\":\"version\"}", 0);
            drop(socket.write_all(&one.repeat(1 + random.below(2000))));
        }
        _ => {
            let given = descriptors(random);
            send(&socket, &frame(&some_request(random), given.len()), &given);
            let _ = socket.set_read_timeout(Some(Duration::from_millis(20)));
            let _ = socket.read(&mut [0; 1000]);
        }
    }
    (random.below(2) == 0).then_some(socket)
}

#[test]
fn nonsense_on_the_control_socket_harms_nobody() {
    if !can_run() {
        return;
    }
    let target = Target::new();
    let before = target.usage();
    let mut random = Random::of_today();
    let rounds = std::env::var("NACELLE_STRESS").ok().and_then(|text| text.parse().ok()).unwrap_or(400);
    let mut open = Vec::new();
    for round in 0..rounds {
        open.extend(attack(&target, &mut random));
        if open.len() > 100 {
            open.swap_remove(random.below(100));
        }
        if round % 80 == 79 {
            target.assert_serves();
        }
    }
    target.assert_serves();
    assert_eq!(target.host.list(), ["c"]);
    drop(open);
    target.assert_kept_nothing(before);
    target.host.run(&["delete", "--force", "c"]).ok();
    target.host.assert_nothing_left();
}

#[test]
fn thousands_of_connections_keep_nobody_out() {
    if !can_run() {
        return;
    }
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("within the maximum");
    let count = limit.maximum.map_or(3000, |most| most.min(3100) as usize - 100);
    let target = Target::new();
    let before = target.usage();
    let mut open = Vec::new();
    for number in 0..count {
        let mut socket = target.connect();
        // Some have begun to say something.
        if number % 3 == 0 {
            let _ = socket.write_all(&[1, 0]);
        }
        open.push(socket);
        if number % 1000 == 999 {
            target.assert_serves();
        }
    }
    target.assert_serves();
    let (descriptors, threads) = target.usage();
    assert!(descriptors < 1500 && threads < 1500, "{descriptors} descriptors, {threads} threads");
    drop(open);
    target.assert_kept_nothing(before);
    target.assert_serves();
}
