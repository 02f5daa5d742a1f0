//! Open files that stand for a descriptor of the host: the standard streams that the sandbox was given.
//!
//! The description is shared with processes outside, so its flags are left alone; readiness is asked with `poll(2)`
//! before each transfer, and a service thread waits on behalf of guests.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use abi::fs::OpenFlags;
use abi::{Errno, SysResult};
use rustix::event::PollFlags;
use rustix::fs::{AtFlags, SeekFrom, StatxFlags};

use super::host_watch::HostWatch;
use super::hostfs::{host_metadata, read_host, write_host};
use super::{
    AT_END, File, FileType, Inode, InodeCommon, Mappable, Metadata, OpenFile, SetAttributes, Whence,
};
use crate::error::SyscallResult;
use crate::task::CurrentTask;
use crate::user::{UserReader, UserWriter};
use crate::wait::{Events, Registration, WaitQueue, Wakeup};

/// The most that is moved at once, so that a write to a pipe that polls as writable does not wait.
const PIECE: usize = 4096;

/// A host descriptor as an open file.
pub struct HostFile {
    fd: Arc<OwnedFd>,
    kind: FileType,
    watch: HostWatch,
}

/// What `fstat(2)` sees of it.
struct HostFileInode {
    common: InodeCommon,
    fd: Arc<OwnedFd>,
    kind: FileType,
    /// The device that it is shown on, if not the host's.
    device: Option<u64>,
}

/// What a regular file or a directory is called.
#[derive(Clone, Debug, Default)]
pub struct HostName {
    /// As `readlink(2)` of `/proc/self/fd/N` shows it.
    pub text: String,
    /// The device on which guests find the same file by that name, if they do.
    pub device: Option<u64>,
}

impl HostFile {
    /// The open file for a descriptor, with the access mode that the host has it open for. Pipes, sockets and devices do not
    /// have that name, but one of their own.
    pub fn open(fd: OwnedFd, name: HostName) -> SysResult<Arc<File>> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        let flags = OpenFlags::from_bits_truncate(flags.bits())
            & (OpenFlags::ACCESS_MODE | OpenFlags::APPEND | OpenFlags::NONBLOCK);
        let stat = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        let kind = FileType::from_mode(stat.stx_mode.into());
        let fd = Arc::new(fd);
        let device = name.device;
        let inode = HostFileInode { common: InodeCommon::new(), fd: Arc::clone(&fd), kind, device };
        let inode = Arc::new(inode);
        let file = HostFile { watch: HostWatch::new(Arc::clone(&fd)), fd, kind };
        let name = match kind {
            FileType::Fifo => format!("pipe:[{}]", stat.stx_ino),
            FileType::Socket => format!("socket:[{}]", stat.stx_ino),
            FileType::CharDevice => device_name(stat.stx_rdev_major, stat.stx_rdev_minor),
            _ => name.text,
        };
        let place = super::file::Place::Anonymous { name, inode: Some(inode) };
        Ok(File::new(place, Arc::new(file), flags))
    }

    /// What is behind the name of a character device of the host, which was opened for it.
    pub fn device(fd: OwnedFd) -> Arc<dyn OpenFile> {
        let fd = Arc::new(fd);
        Arc::new(HostFile { watch: HostWatch::new(Arc::clone(&fd)), fd, kind: FileType::CharDevice })
    }

    fn regular(&self) -> bool {
        matches!(self.kind, FileType::Regular | FileType::BlockDevice)
    }

    fn always_ready(&self) -> bool {
        matches!(self.kind, FileType::Regular | FileType::Directory | FileType::BlockDevice)
    }
}

/// What a character device of the host is called.
fn device_name(major: u32, minor: u32) -> String {
    let memory = |minor| match minor {
        3 => Some("null"),
        5 => Some("zero"),
        7 => Some("full"),
        8 => Some("random"),
        9 => Some("urandom"),
        _ => None,
    };
    match (major, minor) {
        (1, minor) if let Some(name) = memory(minor) => format!("/dev/{name}"),
        (4, 0..64) => format!("/dev/tty{minor}"),
        (4, _) => format!("/dev/ttyS{}", minor - 64),
        (5, 0) => "/dev/tty".to_owned(),
        (5, 1) => "/dev/console".to_owned(),
        (136..=143, _) => format!("/dev/pts/{}", (major - 136) * 256 + minor),
        _ => format!("/dev/char/{major}:{minor}"),
    }
}

impl OpenFile for HostFile {
    fn has_positions(&self) -> bool {
        self.regular()
    }

    fn read_at(&self, _file: &File, offset: u64, to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        Ok(read_host(&self.fd, offset, to)?)
    }

    fn write_at(&self, _file: &File, offset: u64, from: &mut UserReader<'_>) -> SyscallResult<(usize, u64)> {
        // With O_APPEND the host appends, whatever the offset is.
        Ok(write_host(&self.fd, if offset == AT_END { 0 } else { offset }, from)?)
    }

    fn seek(&self, _file: &File, _current: u64, offset: i64, whence: Whence) -> SysResult<u64> {
        // The offset is shared with those outside who have the description too.
        let position = || u64::try_from(offset).map_err(|_| Errno::EINVAL);
        let from = match whence {
            Whence::Set => SeekFrom::Start(position()?),
            Whence::Current => SeekFrom::Current(offset),
            Whence::End => SeekFrom::End(offset),
            Whence::Data => SeekFrom::Data(position().map_err(|_| Errno::ENXIO)?),
            Whence::Hole => SeekFrom::Hole(position().map_err(|_| Errno::ENXIO)?),
        };
        Ok(rustix::fs::seek(&*self.fd, from)?)
    }

    fn map(&self, _file: &File, _shared: bool, _writable: bool) -> SysResult<Mappable> {
        if !self.regular() {
            return Err(Errno::ENODEV);
        }
        Ok(Mappable::Host { fd: Arc::clone(&self.fd), delta: 0 })
    }

    fn allocate(&self, _file: &File, mode: u32, offset: u64, length: u64) -> SysResult<()> {
        let mode = rustix::fs::FallocateFlags::from_bits_retain(mode);
        Ok(rustix::fs::fallocate(&self.fd, mode, offset, length)?)
    }

    fn read(&self, _task: &CurrentTask, _file: &File, to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        let length = to.remaining().min(64 * 1024);
        if length == 0 {
            return Ok(0);
        }
        if !self.always_ready() && self.watch.poll(PollFlags::IN)?.is_empty() {
            return Err(Errno::EAGAIN.into());
        }
        let mut buffer = vec![0; length];
        let count = rustix::io::read(&*self.fd, &mut buffer)?;
        Ok(to.write(&buffer[..count])?)
    }

    fn write(&self, _task: &CurrentTask, _file: &File, from: &mut UserReader<'_>) -> SyscallResult<usize> {
        if from.remaining() == 0 {
            return Ok(0);
        }
        let ready = self.always_ready();
        if !ready && self.watch.poll(PollFlags::OUT)?.is_empty() {
            return Err(Errno::EAGAIN.into());
        }
        let mut buffer = vec![0; from.remaining().min(if ready { 1 << 20 } else { PIECE })];
        let count = from.read(&mut buffer)?;
        let mut done = 0;
        while done < count {
            match rustix::io::write(&*self.fd, &buffer[done..count]) {
                Ok(written) => done += written,
                Err(error) if done == 0 => return Err(error.into()),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn readiness(&self, _file: &File) -> Events {
        if self.always_ready() {
            return Events::READABLE | Events::WRITABLE;
        }
        self.watch.poll(PollFlags::IN | PollFlags::OUT | PollFlags::PRI).unwrap_or(Events::empty())
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        (!self.always_ready()).then(|| self.watch.queue())
    }

    fn register(&self, events: Events, wakeup: &Arc<dyn Wakeup>) -> Registration {
        if self.always_ready() {
            return Registration::none();
        }
        self.watch.register(events, wakeup)
    }

    fn ioctl(&self, task: &CurrentTask, _file: &File, request: u32, argument: u64) -> SyscallResult {
        const TCGETS: u32 = 0x5401;
        const TIOCGWINSZ: u32 = 0x5413;
        const FIONREAD: u32 = 0x541b;
        match request {
            TCGETS => {
                let termios = rustix::termios::tcgetattr(&*self.fd)?;
                let mut bytes = Vec::new();
                let modes = [
                    termios.input_modes.bits(),
                    termios.output_modes.bits(),
                    termios.control_modes.bits(),
                    termios.local_modes.bits(),
                ];
                modes.iter().for_each(|word| bytes.extend_from_slice(&word.to_ne_bytes()));
                bytes.extend_from_slice(&[0; 20]);
                task.write_bytes(argument, &bytes)?;
            }
            TIOCGWINSZ => {
                let size = rustix::termios::tcgetwinsize(&*self.fd)?;
                let words = [size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel];
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
                task.write_bytes(argument, &bytes)?;
            }
            FIONREAD => {
                let count = rustix::io::ioctl_fionread(&*self.fd)? as u32;
                task.write_bytes(argument, &count.to_ne_bytes())?;
            }
            _ => return Err(Errno::ENOTTY.into()),
        }
        Ok(0)
    }

    fn sync(&self) -> SysResult<()> {
        Ok(rustix::fs::fsync(self.fd.as_fd())?)
    }
}

impl Inode for HostFileInode {
    fn common(&self) -> &InodeCommon {
        &self.common
    }

    fn file_type(&self) -> FileType {
        self.kind
    }

    fn metadata(&self) -> SysResult<Metadata> {
        let metadata = host_metadata(&self.fd)?;
        Ok(Metadata { device: self.device.unwrap_or(metadata.device), ..metadata })
    }

    fn set_attributes(&self, attributes: &SetAttributes) -> SysResult<()> {
        let SetAttributes { mode, uid, gid, size, .. } = attributes;
        if mode.is_some() || uid.is_some() || gid.is_some() {
            return Err(Errno::EPERM);
        }
        if let Some(size) = size {
            rustix::fs::ftruncate(&*self.fd, *size)?;
        }
        if attributes.accessed.is_some() || attributes.modified.is_some() {
            let time = |time: Option<abi::time::TimeSpec>| match time {
                Some(time) => rustix::fs::Timespec { tv_sec: time.sec, tv_nsec: time.nsec as _ },
                None => rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT as _ },
            };
            let times = rustix::fs::Timestamps {
                last_access: time(attributes.accessed),
                last_modification: time(attributes.modified),
            };
            rustix::fs::futimens(&*self.fd, &times)?;
        }
        Ok(())
    }

    fn opens_itself(&self) -> bool {
        true
    }

    fn open(
        self: Arc<Self>,
        _task: Option<&CurrentTask>,
        flags: OpenFlags,
    ) -> SyscallResult<Arc<dyn OpenFile>> {
        // Opened again through /proc/self/fd or /dev/stdout: the same description.
        let _ = flags;
        let fd = Arc::clone(&self.fd);
        Ok(Arc::new(HostFile { watch: HostWatch::new(Arc::clone(&fd)), fd, kind: self.kind }))
    }
}
