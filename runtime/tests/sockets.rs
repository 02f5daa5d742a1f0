//! Sockets of the host in a container's mounts: out of reach, unless `--host-uds=open` lets programs connect to them.

mod bundles;

use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};

use bundles::{Host, PATIENCE, can_run, compile};
use rustix::net::sockopt::socket_peercred;
use serde_json::{Value, json};

/// Whom a container's program that is no user of the host's is seen as.
const GUEST: u32 = 4321;

/// Servers in a directory.
struct Servers {
    directory: PathBuf,
    datagrams: UnixDatagram,
    /// The users and groups that connected to `stream`.
    peers: Receiver<(u32, u32)>,
}

impl Servers {
    fn new(directory: &Path) -> Servers {
        std::fs::create_dir(directory).expect("a directory");
        let listener = UnixListener::bind(directory.join("stream")).expect("bound");
        let (sender, peers) = channel();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let peer = socket_peercred(&stream).expect("a peer");
                let _ = sender.send((peer.uid.as_raw(), peer.gid.as_raw()));
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 1 << 16];
                    while let Ok(count @ 1..) = stream.read(&mut buffer) {
                        if stream.write_all(&buffer[..count]).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        let datagrams = UnixDatagram::bind(directory.join("datagram")).expect("bound");
        datagrams.set_read_timeout(Some(PATIENCE)).expect("set");
        serve_packets(&directory.join("packet"));
        // Nobody listens there any more.
        drop(UnixListener::bind(directory.join("dead")).expect("bound"));
        std::fs::write(directory.join("file"), "").expect("written");
        for name in ["stream", "datagram", "packet"] {
            std::fs::set_permissions(directory.join(name), Permissions::from_mode(0o777)).expect("ours");
        }
        Servers { directory: directory.to_owned(), datagrams, peers }
    }

    fn datagram(&self) -> String {
        let mut buffer = [0; 64];
        let count = self.datagrams.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    }
}

/// Echoes messages.
fn serve_packets(path: &Path) {
    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType, accept, bind, listen, recv, send,
        socket,
    };
    let listener = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).expect("a socket");
    bind(&listener, &SocketAddrUnix::new(path).expect("short")).expect("bound");
    listen(&listener, 4).expect("listens");
    std::thread::spawn(move || {
        while let Ok(connection) = accept(&listener) {
            let mut buffer = [0; 256];
            while let Ok((count @ 1.., _)) = recv(&connection, &mut buffer[..], RecvFlags::empty()) {
                let _ = send(&connection, &buffer[..count], SendFlags::NOSIGNAL);
            }
        }
    });
}

fn mounts(spec: &mut Value, list: &[(&str, &Path, &str)]) {
    for (destination, source, option) in list {
        spec["mounts"].as_array_mut().expect("a list").push(json!({
            "destination": destination, "type": "bind", "source": source, "options": ["rbind", option],
        }));
    }
}

/// A bundle whose program is `talk` with these arguments.
fn talker(host: &Host, name: &str, arguments: &[&str], change: impl FnOnce(&mut Value)) -> PathBuf {
    let bundle = host.bundle_with(name, "", |spec| {
        let mut all = vec!["/bin/talk"];
        all.extend(arguments);
        spec["process"]["args"] = json!(all);
        change(spec);
    });
    std::fs::copy(host.path("talk"), bundle.join("rootfs/bin/talk")).expect("a copy");
    bundle
}

#[test]
fn programs_connect_to_sockets_of_the_host_in_their_mounts_if_they_may() {
    let host = Host::new();
    if !can_run() || !compile("talk", &host.path("talk")) {
        return;
    }
    let servers = Servers::new(&host.path("servers"));
    let single = servers.directory.join("stream");
    let all = ["stream", "packet", "datagram", "refused", "dead", "refused", "file", "wrong", "packet"];
    for mode in ["--directfs=true", "--directfs=false"] {
        for option in ["rw", "ro"] {
            let name = format!("{mode}{option}");
            let arguments: Vec<_> = ["/vol"].into_iter().chain(all).collect();
            let bundle = talker(&host, &name, &arguments, |spec| {
                mounts(spec, &[("/vol", &servers.directory, option), ("/single/stream", &single, option)]);
            });
            let bundle = bundle.to_str().expect("text");
            let run = |id| host.run(&["--host-uds=open", mode, "run", "--bundle", bundle, id]);
            assert_eq!(run("c").ok(), "talked\n", "{name}");
            assert_eq!(servers.datagram(), "sent");
            assert_eq!(servers.datagram(), "connected");
        }
        let bundle = talker(&host, &format!("{mode}file"), &["/single", "stream"], |spec| {
            mounts(spec, &[("/single/stream", &single, "ro")]);
        });
        let ran =
            host.run(&["--host-uds=open", mode, "run", "--bundle", bundle.to_str().expect("text"), "c"]);
        assert_eq!(ran.ok(), "talked\n", "a mount of the socket alone");
    }
    host.assert_nothing_left();
}

#[test]
fn servers_see_the_user_who_connects_and_their_permissions_count() {
    let host = Host::new();
    if !can_run() || !compile("talk", &host.path("talk")) {
        return;
    }
    let servers = Servers::new(&host.path("servers"));
    let run = |name: &str, arguments: &[&str]| {
        let bundle = talker(&host, name, arguments, |spec| {
            spec["process"]["user"] = json!({ "uid": GUEST, "gid": GUEST + 1 });
            spec["process"]["capabilities"] = json!({});
            mounts(spec, &[("/vol", &servers.directory, "rw")]);
        });
        let bundle = bundle.to_str().expect("text").to_owned();
        assert_eq!(host.run(&["--host-uds=open", "run", "--bundle", &bundle, "c"]).ok(), "talked\n");
    };
    run("open", &["/vol", "stream"]);
    assert_eq!(servers.peers.recv_timeout(PATIENCE), Ok((GUEST, GUEST + 1)));
    let socket = servers.directory.join("stream");
    std::fs::set_permissions(&socket, Permissions::from_mode(0o700)).expect("ours");
    run("closed", &["/vol", "denied", "stream"]);
    chown(&socket, Some(GUEST), None).expect("root may");
    run("own", &["/vol", "stream"]);
    host.assert_nothing_left();
}

#[test]
fn without_the_flag_and_through_links_out_of_the_mount_there_is_nobody() {
    let host = Host::new();
    if !can_run() || !compile("talk", &host.path("talk")) {
        return;
    }
    let servers = Servers::new(&host.path("servers"));
    let outside = Servers::new(&host.path("outside"));
    let target = outside.directory.join("stream");
    symlink(&target, servers.directory.join("link")).expect("a link");
    symlink("../outside/stream", servers.directory.join("up")).expect("a link");
    let bundle = |name: &str, arguments: &[&str]| {
        let bundle = talker(&host, name, arguments, |spec| {
            mounts(spec, &[("/vol", &servers.directory, "rw")]);
        });
        bundle.to_str().expect("text").to_owned()
    };
    let closed = bundle("closed", &["/vol", "refused", "stream", "refused", "packet"]);
    assert_eq!(host.run(&["run", "--bundle", &closed, "c"]).ok(), "talked\n");
    let links = bundle("links", &["/vol", "stream", "missing", "link", "missing", "up"]);
    assert_eq!(host.run(&["--host-uds=open", "run", "--bundle", &links, "c"]).ok(), "talked\n");
    host.assert_nothing_left();
    assert!(outside.peers.try_recv().is_err());
    host.run(&["--host-uds=all", "list"]).fails_with("--host-uds all is not supported: none, open");
}
