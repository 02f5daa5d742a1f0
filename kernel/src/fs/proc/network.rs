//! `/proc/PID/net`: sockets, and the interfaces of a network that is not there.

use crate::Kernel;
use crate::net::address::Name;
use crate::net::socket::{Kind, Socket};

/// The files, by their names in the process's directory.
pub const FILES: &[&str] = &[
    "net/arp",
    "net/dev",
    "net/dev_mcast",
    "net/if_inet6",
    "net/igmp",
    "net/ipv6_route",
    "net/netlink",
    "net/netstat",
    "net/packet",
    "net/protocols",
    "net/raw",
    "net/raw6",
    "net/route",
    "net/rt_cache",
    "net/snmp",
    "net/sockstat",
    "net/sockstat6",
    "net/tcp",
    "net/tcp6",
    "net/udp",
    "net/udp6",
    "net/unix",
    "net/wireless",
];

const INET: &str =
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
const INET6: &str = "  sl  local_address                         remote_address                        st tx_queue \
                     rx_queue tr tm->when retrnsmt   uid  timeout inode";
const DEVICES: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0";

/// The text of a file.
pub fn text(kernel: &Kernel, name: &str) -> Option<String> {
    let text = match name.strip_prefix("net/")? {
        "unix" => return Some(unix(kernel)),
        "dev" => DEVICES,
        "arp" => "IP address       HW type     Flags       HW address            Mask     Device",
        "route" => {
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT                             "
        }
        "tcp" | "udp" | "raw" => INET,
        "tcp6" | "udp6" | "raw6" => INET6,
        "sockstat" => {
            return Some(format!(
                "sockets: used {}\nTCP: inuse 0 orphan 0 tw 0 alloc 0 mem 0\nUDP: inuse 0 mem 0\nUDPLITE: inuse 0\n\
                 RAW: inuse 0\nFRAG: inuse 0 memory 0\n",
                sockets(kernel).len()
            ));
        }
        "sockstat6" => {
            "TCP6: inuse 0\nUDP6: inuse 0\nUDPLITE6: inuse 0\nRAW6: inuse 0\nFRAG6: inuse 0 memory 0"
        }
        "netlink" => {
            "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode"
        }
        "packet" => "sk       RefCnt Type Proto  Iface R Rmem   User   Inode",
        "igmp" => "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter",
        "protocols" => {
            "protocol  size sockets  memory press maxhdr  slab module     cl co di ac io in de sh ss gs se re bi br ha uh gp em"
        }
        "wireless" => {
            "Inter-| sta-|   Quality        |   Discarded packets               | Missed | WE\n \
             face | tus | link level noise |  nwid  crypt   frag  retry   misc | beacon | 22"
        }
        "dev_mcast" | "if_inet6" | "ipv6_route" | "netstat" | "rt_cache" | "snmp" => {
            return Some(String::new());
        }
        _ => return None,
    };
    Some(format!("{text}\n"))
}

/// A line of `net/unix`.
struct Line {
    inode: u64,
    references: usize,
    kind: Kind,
    listening: bool,
    connected: bool,
    name: Vec<u8>,
}

/// The sockets that some process has open, each once.
fn sockets(kernel: &Kernel) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for task in kernel.tasks.all() {
        for (_, file, _) in task.files().entries() {
            let Some(socket) = file.ops().downcast_ref::<Socket>() else { continue };
            let inode = file.inode().map_or(0, |inode| inode.common().id);
            if seen.insert(inode) {
                let endpoint = &socket.endpoint;
                lines.push(Line {
                    inode,
                    references: std::sync::Arc::strong_count(endpoint),
                    kind: socket.kind(),
                    listening: endpoint.is_listening(),
                    connected: endpoint.is_connected(),
                    name: endpoint.name().map(shown).unwrap_or_default(),
                });
            }
        }
    }
    lines
}

/// A name as `net/unix` shows it.
fn shown(name: Name) -> Vec<u8> {
    match name {
        Name::Path(path) => path,
        Name::Abstract(name) => {
            let zeros = name.into_iter().map(|byte| if byte == 0 { b'@' } else { byte });
            std::iter::once(b'@').chain(zeros).collect()
        }
    }
}

fn unix(kernel: &Kernel) -> String {
    let mut text = "Num       RefCount Protocol Flags    Type St Inode Path\n".to_owned();
    for line in sockets(kernel) {
        // SO_ACCEPTCON; SS_UNCONNECTED and SS_CONNECTED
        let (flags, state) = (if line.listening { 0x10000 } else { 0 }, if line.connected { 3 } else { 1 });
        let (references, kind, inode) = (line.references, line.kind as u32, line.inode);
        text +=
            &format!("{inode:016x}: {references:08X} 00000000 {flags:08X} {kind:04X} {state:02X} {inode:5}");
        if !line.name.is_empty() {
            text += &format!(" {}", String::from_utf8_lossy(&line.name));
        }
        text.push('\n');
    }
    text
}
