//! Socket options, `socket(7)`.

use std::time::Duration;

use abi::time::TimeVal;
use abi::{Errno, SysResult};
use bitflags::bitflags;
use zerocopy::IntoBytes;

use super::address::AF_UNIX;
use super::socket::{Kind, Socket};
use crate::error::SyscallResult;
use crate::task::CurrentTask;
use crate::task::credentials::Capability;
use crate::user::UserPtr;

/// `SOL_SOCKET`: the level of the options that all sockets have.
pub const SOL_SOCKET: i32 = 1;

/// What a buffer holds at first, as Linux counts it: twice what can be asked for.
pub const DEFAULT_BUFFER: u32 = 212_992;
const MAX_BUFFER: u32 = 2 * 212_992;
/// The most that `SO_SNDBUFFORCE` gives.
const MAX_FORCED_BUFFER: u32 = 8 << 20;
const MIN_SEND_BUFFER: u32 = 4608;
const MIN_RECEIVE_BUFFER: u32 = 2304;

const SO_DEBUG: i32 = 1;
const SO_REUSEADDR: i32 = 2;
const SO_TYPE: i32 = 3;
const SO_ERROR: i32 = 4;
const SO_DONTROUTE: i32 = 5;
const SO_BROADCAST: i32 = 6;
const SO_SNDBUF: i32 = 7;
const SO_RCVBUF: i32 = 8;
const SO_KEEPALIVE: i32 = 9;
const SO_OOBINLINE: i32 = 10;
const SO_PRIORITY: i32 = 12;
const SO_LINGER: i32 = 13;
const SO_REUSEPORT: i32 = 15;
const SO_PASSCRED: i32 = 16;
const SO_PEERCRED: i32 = 17;
const SO_RCVLOWAT: i32 = 18;
const SO_SNDLOWAT: i32 = 19;
const SO_RCVTIMEO: i32 = 20;
const SO_SNDTIMEO: i32 = 21;
const SO_PEERNAME: i32 = 28;
const SO_TIMESTAMP: i32 = 29;
const SO_ACCEPTCONN: i32 = 30;
const SO_SNDBUFFORCE: i32 = 32;
const SO_RCVBUFFORCE: i32 = 33;
const SO_PASSSEC: i32 = 34;
const SO_TIMESTAMPNS: i32 = 35;
const SO_MARK: i32 = 36;
const SO_PROTOCOL: i32 = 38;
const SO_DOMAIN: i32 = 39;
const SO_PEERGROUPS: i32 = 59;
const SO_RCVTIMEO_NEW: i32 = 66;
const SO_SNDTIMEO_NEW: i32 = 67;

bitflags! {
    /// The options that are on or off.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Switches: u32 {
        /// `SO_DEBUG`
        const DEBUG = 1 << 0;
        /// `SO_REUSEADDR`
        const REUSEADDR = 1 << 1;
        /// `SO_DONTROUTE`
        const DONTROUTE = 1 << 2;
        /// `SO_BROADCAST`
        const BROADCAST = 1 << 3;
        /// `SO_KEEPALIVE`
        const KEEPALIVE = 1 << 4;
        /// `SO_OOBINLINE`
        const OOBINLINE = 1 << 5;
        /// `SO_REUSEPORT`
        const REUSEPORT = 1 << 6;
        /// `SO_PASSCRED`
        const PASSCRED = 1 << 7;
        /// `SO_PASSSEC`
        const PASSSEC = 1 << 8;
    }
}

impl Switches {
    fn of(option: i32) -> Option<Switches> {
        Some(match option {
            SO_DEBUG => Switches::DEBUG,
            SO_REUSEADDR => Switches::REUSEADDR,
            SO_DONTROUTE => Switches::DONTROUTE,
            SO_BROADCAST => Switches::BROADCAST,
            SO_KEEPALIVE => Switches::KEEPALIVE,
            SO_OOBINLINE => Switches::OOBINLINE,
            SO_REUSEPORT => Switches::REUSEPORT,
            SO_PASSCRED => Switches::PASSCRED,
            SO_PASSSEC => Switches::PASSSEC,
            _ => return None,
        })
    }
}

/// The options of a socket.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Those that are on.
    pub switches: Switches,
    /// `SO_SNDBUF`, as `getsockopt(2)` gives it.
    pub send_buffer: u32,
    pub(super) receive_buffer: u32,
    pub(super) receive_low: i32,
    pub(super) priority: i32,
    pub(super) linger: [i32; 2],
    /// `SO_RCVTIMEO`; `None` for ever.
    pub receive_timeout: Option<Duration>,
    /// `SO_SNDTIMEO`; `None` for ever.
    pub send_timeout: Option<Duration>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            switches: Switches::empty(),
            send_buffer: DEFAULT_BUFFER,
            receive_buffer: DEFAULT_BUFFER,
            receive_low: 1,
            priority: 0,
            linger: [0; 2],
            receive_timeout: None,
            send_timeout: None,
        }
    }
}

fn timeout_value(timeout: Option<Duration>) -> TimeVal {
    timeout.unwrap_or_default().into()
}

/// `getsockopt(2)` at the level of sockets: the value's bytes.
pub fn get(task: &CurrentTask, socket: &Socket, option: i32) -> SysResult<Vec<u8>> {
    let options = *socket.options.lock();
    if let Some(switch) = Switches::of(option) {
        return Ok(i32::from(options.switches.contains(switch)).to_ne_bytes().to_vec());
    }
    let number = match option {
        SO_TYPE => socket.kind() as i32,
        SO_DOMAIN => i32::from(AF_UNIX),
        SO_PROTOCOL | SO_MARK | SO_TIMESTAMP | SO_TIMESTAMPNS => 0,
        SO_ERROR => socket.endpoint.take_error().map_or(0, Errno::raw),
        SO_ACCEPTCONN => i32::from(socket.endpoint.is_listening()),
        SO_SNDBUF => options.send_buffer.cast_signed(),
        SO_RCVBUF => options.receive_buffer.cast_signed(),
        SO_RCVLOWAT => options.receive_low,
        SO_SNDLOWAT => 1,
        SO_PRIORITY => options.priority,
        SO_LINGER => return Ok(options.linger.as_bytes().to_vec()),
        SO_RCVTIMEO | SO_RCVTIMEO_NEW => {
            return Ok(timeout_value(options.receive_timeout).as_bytes().to_vec());
        }
        SO_SNDTIMEO | SO_SNDTIMEO_NEW => return Ok(timeout_value(options.send_timeout).as_bytes().to_vec()),
        SO_PEERCRED => return Ok(socket.endpoint.peer_credentials().seen_by(task).as_bytes().to_vec()),
        SO_PEERGROUPS => {
            let groups = socket.endpoint.peer_groups().ok_or(Errno::ENODATA)?;
            return Ok(groups.as_bytes().to_vec());
        }
        SO_PEERNAME => return Ok(super::address::encode(socket.endpoint.peer_name(task)?.as_ref())),
        _ => return Err(Errno::ENOPROTOOPT),
    };
    Ok(number.to_ne_bytes().to_vec())
}

/// `setsockopt(2)` at the level of sockets.
pub fn set(task: &CurrentTask, socket: &Socket, option: i32, value: u64, length: u32) -> SyscallResult<()> {
    if length < 4 {
        return Err(Errno::EINVAL.into());
    }
    let number = task.read_object(UserPtr::<i32>::new(value))?;
    let size = |limit: u32, least: u32| number.cast_unsigned().min(limit / 2).saturating_mul(2).max(least);
    let mut change = *socket.options.lock();
    match option {
        SO_SNDBUF => change.send_buffer = size(MAX_BUFFER, MIN_SEND_BUFFER),
        SO_RCVBUF => change.receive_buffer = size(MAX_BUFFER, MIN_RECEIVE_BUFFER),
        SO_SNDBUFFORCE | SO_RCVBUFFORCE if !task.credentials().has(Capability::NET_ADMIN) => {
            return Err(Errno::EPERM.into());
        }
        SO_SNDBUFFORCE => change.send_buffer = size(MAX_FORCED_BUFFER, MIN_SEND_BUFFER),
        SO_RCVBUFFORCE => change.receive_buffer = size(MAX_FORCED_BUFFER, MIN_RECEIVE_BUFFER),
        SO_RCVLOWAT => change.receive_low = number.max(1),
        SO_PRIORITY => change.priority = number,
        SO_LINGER => {
            if length < 8 {
                return Err(Errno::EINVAL.into());
            }
            change.linger = task.read_object(UserPtr::new(value))?;
        }
        SO_RCVTIMEO | SO_RCVTIMEO_NEW | SO_SNDTIMEO | SO_SNDTIMEO_NEW => {
            if length < 16 {
                return Err(Errno::EINVAL.into());
            }
            let time: TimeVal = task.read_object(UserPtr::new(value))?;
            let time = if time.sec < 0 {
                // Linux takes a negative time for none at all; nothing waits then.
                Duration::from_nanos(1)
            } else {
                time.to_duration().ok_or(Errno::EDOM)?
            };
            let timeout = (!time.is_zero()).then_some(time);
            if matches!(option, SO_RCVTIMEO | SO_RCVTIMEO_NEW) {
                change.receive_timeout = timeout;
            } else {
                change.send_timeout = timeout;
            }
        }
        _ => match Switches::of(option) {
            Some(Switches::REUSEPORT | Switches::KEEPALIVE)
                if socket.kind() == Kind::Datagram && number == 0 => {}
            Some(switch) => change.switches.set(switch, number != 0),
            None => return Err(Errno::ENOPROTOOPT.into()),
        },
    }
    *socket.options.lock() = change;
    Ok(())
}
