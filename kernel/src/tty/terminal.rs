//! [`Terminal`]: a pseudo-terminal pair, its session and its two ends as open files.

use std::sync::{Arc, Weak};
use std::time::Duration;

use abi::fs::OpenFlags;
use abi::signal::{SI_KERNEL, SIG_IGN, SigInfo, Signal};
use abi::{Errno, SysResult};
use parking_lot::{Mutex, MutexGuard};

use super::devpts::DevPts;
use super::discipline::Discipline;
use super::termios::{InputModes, LocalModes, Termios, Termios2, WindowSize};
use crate::Kernel;
use crate::error::{Restart, SyscallResult};
use crate::fs::{File, OpenFile};
use crate::syscalls::Fd;
use crate::task::credentials::Capability;
use crate::task::{CurrentTask, Pid, ThreadGroup};
use crate::user::{UserPtr, UserReader, UserWriter};
use crate::wait::{Events, WaitQueue};

const TCGETS: u32 = 0x5401;
const TCSETS: u32 = 0x5402;
const TCSETSW: u32 = 0x5403;
const TCSETSF: u32 = 0x5404;
const TCSBRK: u32 = 0x5409;
const TCXONC: u32 = 0x540a;
const TCFLSH: u32 = 0x540b;
const TIOCEXCL: u32 = 0x540c;
const TIOCNXCL: u32 = 0x540d;
const TIOCSCTTY: u32 = 0x540e;
const TIOCGPGRP: u32 = 0x540f;
const TIOCSPGRP: u32 = 0x5410;
const TIOCOUTQ: u32 = 0x5411;
const TIOCSTI: u32 = 0x5412;
const TIOCGWINSZ: u32 = 0x5413;
const TIOCSWINSZ: u32 = 0x5414;
const FIONREAD: u32 = 0x541b;
const TIOCPKT: u32 = 0x5420;
const TIOCNOTTY: u32 = 0x5422;
const TIOCSETD: u32 = 0x5423;
const TIOCGETD: u32 = 0x5424;
const TCSBRKP: u32 = 0x5425;
const TIOCGSID: u32 = 0x5429;
const TIOCVHANGUP: u32 = 0x5437;
const TIOCGPTPEER: u32 = 0x5441;
const TCGETS2: u32 = 0x802c_542a;
const TCSETS2: u32 = 0x402c_542b;
const TCSETSW2: u32 = 0x402c_542c;
const TCSETSF2: u32 = 0x402c_542d;
const TIOCGPTN: u32 = 0x8004_5430;
const TIOCSPTLCK: u32 = 0x4004_5431;
const TIOCSIG: u32 = 0x4004_5436;
const TIOCGPKT: u32 = 0x8004_5438;
const TIOCGPTLCK: u32 = 0x8004_5439;
const TIOCGEXCL: u32 = 0x8004_5440;

const PACKET_FLUSH_READ: u8 = 1;
const PACKET_FLUSH_WRITE: u8 = 2;
const PACKET_STOP: u8 = 4;
const PACKET_START: u8 = 8;
const PACKET_NO_STOP: u8 = 16;
const PACKET_DO_STOP: u8 = 32;

/// The most that a program's write moves at once.
const PIECE: usize = 1024;
/// The major device number of slave ends.
pub const SLAVE_MAJOR: u32 = 136;

struct State {
    discipline: Discipline,
    window: WindowSize,
    session: Option<Pid>,
    foreground: Option<Pid>,
    /// Whether the slave end may not be opened yet.
    locked: bool,
    exclusive: bool,
    /// Whether the master end tells of flushes and flow control, `TIOCPKT`.
    packet: bool,
    packet_status: u8,
    slaves: usize,
    /// Whether the last slave end was closed and none opened since.
    slave_gone: bool,
    hung_up: bool,
}

impl State {
    fn tell(&mut self, status: u8, clear: u8) {
        if self.packet {
            self.packet_status = self.packet_status & !clear | status;
        }
    }
}

/// A pseudo-terminal pair.
pub struct Terminal {
    /// Its number: `/dev/pts/N`.
    pub number: u32,
    kernel: Weak<Kernel>,
    file_system: Weak<DevPts>,
    state: Mutex<State>,
    slave_queue: WaitQueue,
    master_queue: WaitQueue,
}

fn info(signal: Signal) -> SigInfo {
    SigInfo::new(signal, SI_KERNEL)
}

impl Terminal {
    pub(super) fn new(number: u32, kernel: Weak<Kernel>, file_system: Weak<DevPts>) -> Arc<Terminal> {
        let state = State {
            discipline: Discipline::default(),
            window: WindowSize::default(),
            session: None,
            foreground: None,
            locked: true,
            exclusive: false,
            packet: false,
            packet_status: 0,
            slaves: 0,
            slave_gone: false,
            hung_up: false,
        };
        Arc::new(Terminal {
            number,
            kernel,
            file_system,
            state: Mutex::new(state),
            slave_queue: WaitQueue::new(),
            master_queue: WaitQueue::new(),
        })
    }

    /// The device number of the slave end.
    pub fn device(&self) -> u64 {
        abi::fs::make_device(SLAVE_MAJOR, self.number)
    }

    /// Whom output, room for input and the end of the slave wake.
    pub fn master_queue(&self) -> &WaitQueue {
        &self.master_queue
    }

    /// Takes what was typed; returns how many bytes there was room for.
    pub fn input(&self, bytes: &[u8]) -> usize {
        let mut state = self.state.lock();
        if !state.discipline.takes_input() {
            return 0;
        }
        let stopped = state.discipline.is_stopped();
        let count = bytes.len().min(4 * PIECE);
        let signals = state.discipline.input(&bytes[..count]);
        let foreground = state.foreground;
        if !signals.is_empty() && !state.discipline.termios().local().contains(LocalModes::NOFLSH) {
            state.tell(PACKET_FLUSH_READ | PACKET_FLUSH_WRITE, 0);
        }
        let started = self.flow_changed(&mut state, stopped);
        let (readable, output) = (state.discipline.is_readable(), state.discipline.output_bytes() > 0);
        drop(state);
        if let (Some(group), Some(kernel)) = (foreground, self.kernel.upgrade()) {
            for signal in signals {
                crate::signal::send_to_process_group(&kernel, group, info(signal));
            }
        }
        if started {
            self.slave_queue.wake(Events::WRITABLE);
        }
        if readable {
            self.slave_queue.wake(Events::READABLE);
        }
        if output {
            self.master_queue.wake(Events::READABLE);
        }
        count
    }

    /// Tells the master end of held or released output; returns whether it was released.
    fn flow_changed(&self, state: &mut State, before: bool) -> bool {
        match (before, state.discipline.is_stopped()) {
            (false, true) => state.tell(PACKET_STOP, PACKET_START),
            (true, false) => state.tell(PACKET_START, PACKET_STOP),
            _ => {}
        }
        before && !state.discipline.is_stopped()
    }

    /// Types the end-of-file character, if lines are read.
    pub fn input_end(&self) {
        let end = self.termios().character(super::termios::Special::EndOfFile);
        if self.termios().local().contains(LocalModes::ICANON) {
            self.input(&[end]);
        }
    }

    /// Takes output to be shown, at most `room` bytes.
    pub fn take_output(&self, room: usize) -> Vec<u8> {
        let output = self.state.lock().discipline.take_output(room);
        if !output.is_empty() {
            self.slave_queue.wake(Events::WRITABLE);
        }
        output
    }

    /// The settings.
    pub fn termios(&self) -> Termios {
        *self.state.lock().discipline.termios()
    }

    /// Changes the settings.
    pub fn set_termios(&self, new: Termios) {
        let mut state = self.state.lock();
        let flow = |termios: &Termios| {
            termios.input().contains(InputModes::IXON) && termios.characters[8..10] == [0o21, 0o23]
        };
        let before = flow(state.discipline.termios());
        state.discipline.set_termios(new);
        match (before, flow(&new)) {
            (false, true) => state.tell(PACKET_DO_STOP, PACKET_NO_STOP),
            (true, false) => state.tell(PACKET_NO_STOP, PACKET_DO_STOP),
            _ => {}
        }
        drop(state);
        self.slave_queue.wake(Events::READABLE | Events::WRITABLE);
        self.master_queue.wake(Events::READABLE);
    }

    /// Sets the size of the window; a change is told to the foreground.
    pub fn set_window(&self, window: WindowSize) {
        let foreground = {
            let mut state = self.state.lock();
            if state.window == window {
                return;
            }
            state.window = window;
            state.foreground
        };
        if let (Some(group), Some(kernel)) = (foreground, self.kernel.upgrade()) {
            crate::signal::send_to_process_group(&kernel, group, info(Signal::SIGWINCH));
        }
    }

    /// Lets the slave end be opened.
    pub fn unlock(&self) {
        self.state.lock().locked = false;
    }

    /// Makes it the controlling terminal of a session, whose leader's group is in the foreground.
    pub fn set_session(self: &Arc<Self>, leader: &ThreadGroup, foreground: Pid) {
        let mut state = self.state.lock();
        state.session = Some(leader.pid);
        state.foreground = Some(foreground);
        drop(state);
        *leader.terminal.lock() = Some(Arc::clone(self));
        *leader.former_foreground.lock() = None;
    }

    /// The process group in the foreground.
    pub fn foreground(&self) -> Option<Pid> {
        self.state.lock().foreground
    }

    fn controls(self: &Arc<Self>, task: &CurrentTask) -> bool {
        task.group.terminal.lock().as_ref().is_some_and(|terminal| Arc::ptr_eq(terminal, self))
    }

    /// Stops a background process that wants to read (SIGTTIN) or to change the terminal (SIGTTOU), `tty_check_change`.
    fn check_foreground(self: &Arc<Self>, task: &CurrentTask, signal: Signal) -> SyscallResult<()> {
        if !self.controls(task) {
            return Ok(());
        }
        let Some(foreground) = self.foreground() else { return Ok(()) };
        let (own, orphaned) = task.kernel.tasks.with(|tree| {
            let own = tree.process(task.group.pid).map_or(0, |process| process.process_group);
            (own, tree.is_orphaned(own))
        });
        if own == foreground {
            return Ok(());
        }
        let ignored =
            task.signals.mask().contains(signal) || task.group.signals.action(signal).handler == SIG_IGN;
        match (ignored, signal) {
            (true, Signal::SIGTTIN) => Err(Errno::EIO.into()),
            (true, _) => Ok(()),
            (false, _) if orphaned => Err(Errno::EIO.into()),
            (false, _) => {
                crate::signal::send_to_process_group(&task.kernel, own, info(signal));
                Err(Restart::Sys.into())
            }
        }
    }

    /// Makes it the controlling terminal of a session leader that has none, if it is nobody's, `TIOCSCTTY`.
    fn acquire(self: &Arc<Self>, task: &CurrentTask, steal: bool) -> SysResult<()> {
        let (session, group) = own_place(task);
        let leader = session == task.group.pid;
        let current = self.state.lock().session;
        if leader && current == Some(session) {
            return Ok(());
        }
        if !leader || task.group.terminal.lock().is_some() {
            return Err(Errno::EPERM);
        }
        if let Some(current) = current {
            if !steal || !task.credentials().has(Capability::SYS_ADMIN) {
                return Err(Errno::EPERM);
            }
            self.clear_session(&task.kernel, current);
        }
        self.set_session(&task.group, group);
        Ok(())
    }

    /// Takes the terminal from all processes of a session.
    fn clear_session(self: &Arc<Self>, kernel: &Kernel, session: Pid) {
        let groups: Vec<Arc<ThreadGroup>> = kernel.tasks.with(|tree| {
            let members = tree.processes().filter(|process| process.session == session);
            members.map(|process| Arc::clone(&process.group)).collect()
        });
        for group in groups {
            let mut terminal = group.terminal.lock();
            if terminal.as_ref().is_some_and(|terminal| Arc::ptr_eq(terminal, self)) {
                *terminal = None;
            }
        }
    }

    /// The master end is gone: the session loses its terminal, its leader gets SIGHUP, and when that ends, so does who
    /// was in the foreground.
    pub fn hang_up(self: &Arc<Self>) {
        let (session, foreground) = {
            let mut state = self.state.lock();
            state.hung_up = true;
            (state.session.take(), state.foreground.take())
        };
        if let (Some(session), Some(kernel)) = (session, self.kernel.upgrade()) {
            self.clear_session(&kernel, session);
            if let Some(leader) = kernel.tasks.group(session) {
                *leader.former_foreground.lock() = foreground;
                crate::signal::send_to_group(&kernel, &leader, info(Signal::SIGHUP));
                crate::signal::send_to_group(&kernel, &leader, info(Signal::SIGCONT));
            }
        }
        self.slave_queue.wake(Events::all());
    }

    /// `ioctl(2)` on either end.
    fn control(self: &Arc<Self>, task: &CurrentTask, request: u32, argument: u64) -> SyscallResult {
        let word = || UserPtr::<i32>::new(argument);
        match request {
            TCGETS => task.write_object(UserPtr::new(argument), &self.termios())?,
            TCGETS2 => {
                let common = self.termios();
                let termios = Termios2 { common, input_speed: 38400, output_speed: 38400 };
                task.write_object(UserPtr::new(argument), &termios)?;
            }
            TCSETS | TCSETSW | TCSETSF | TCSETS2 | TCSETSW2 | TCSETSF2 => {
                self.check_foreground(task, Signal::SIGTTOU)?;
                let new = match request {
                    TCSETS2 | TCSETSW2 | TCSETSF2 => {
                        task.read_object(UserPtr::<Termios2>::new(argument))?.common
                    }
                    _ => task.read_object(UserPtr::<Termios>::new(argument))?,
                };
                if matches!(request, TCSETSF | TCSETSF2) {
                    self.state.lock().discipline.flush_input();
                }
                self.set_termios(new);
            }
            TCSBRK | TCSBRKP => self.check_foreground(task, Signal::SIGTTOU)?,
            TCXONC => {
                self.check_foreground(task, Signal::SIGTTOU)?;
                let mut state = self.state.lock();
                let before = state.discipline.is_stopped();
                match argument {
                    0 => state.discipline.set_stopped(true),
                    1 => state.discipline.set_stopped(false),
                    2 | 3 => {}
                    _ => return Err(Errno::EINVAL.into()),
                }
                if self.flow_changed(&mut state, before) {
                    drop(state);
                    self.slave_queue.wake(Events::WRITABLE);
                }
            }
            TCFLSH => {
                self.check_foreground(task, Signal::SIGTTOU)?;
                let (input, output) = match argument {
                    0 => (true, false),
                    1 => (false, true),
                    2 => (true, true),
                    _ => return Err(Errno::EINVAL.into()),
                };
                let mut state = self.state.lock();
                if input {
                    state.discipline.flush_input();
                    state.tell(PACKET_FLUSH_READ, 0);
                }
                if output {
                    state.discipline.flush_output();
                    state.tell(PACKET_FLUSH_WRITE, 0);
                }
                drop(state);
                self.slave_queue.wake(Events::WRITABLE);
                self.master_queue.wake(Events::READABLE | Events::WRITABLE);
            }
            TIOCEXCL | TIOCNXCL => self.state.lock().exclusive = request == TIOCEXCL,
            TIOCGEXCL => task.write_object(word(), &i32::from(self.state.lock().exclusive))?,
            TIOCSCTTY => self.acquire(task, argument == 1)?,
            TIOCNOTTY => {
                if !self.controls(task) {
                    return Err(Errno::ENOTTY.into());
                }
                leave(&task.kernel, &task.group, false);
            }
            TIOCGPGRP => task.write_object(word(), &task.number_of(self.foreground().unwrap_or(0)))?,
            TIOCSPGRP => self.set_foreground(task, task.read_object(word())?)?,
            TIOCGSID => {
                let session = self.state.lock().session.ok_or(Errno::ENOTTY)?;
                task.write_object(word(), &task.number_of(session))?;
            }
            TIOCOUTQ => task.write_object(word(), &(self.state.lock().discipline.output_bytes() as i32))?,
            // Typing on behalf of others is how programs have broken out of terminals they shared.
            TIOCSTI => return Err(Errno::EIO.into()),
            TIOCGWINSZ => {
                let window = self.state.lock().window;
                task.write_object(UserPtr::new(argument), &window)?;
            }
            TIOCSWINSZ => self.set_window(task.read_object(UserPtr::new(argument))?),
            TIOCGETD => task.write_object(word(), &0)?,
            TIOCSETD => {
                if task.read_object(word())? != 0 {
                    return Err(Errno::EINVAL.into());
                }
            }
            TIOCVHANGUP => {
                if !task.credentials().has(Capability::SYS_ADMIN) {
                    return Err(Errno::EPERM.into());
                }
                self.hang_up();
            }
            _ => return Err(Errno::ENOTTY.into()),
        }
        Ok(0)
    }

    fn set_foreground(self: &Arc<Self>, task: &CurrentTask, number: Pid) -> SyscallResult<()> {
        self.check_foreground(task, Signal::SIGTTOU)?;
        let (session, _) = own_place(task);
        if !self.controls(task) || self.state.lock().session != Some(session) {
            return Err(Errno::ENOTTY.into());
        }
        if number < 0 {
            return Err(Errno::EINVAL.into());
        }
        let group = task.pid_of(number)?;
        let found = task.kernel.tasks.with(|tree| {
            tree.processes().find(|process| process.process_group == group).map(|process| process.session)
        });
        if found.ok_or(Errno::ESRCH)? != session {
            return Err(Errno::EPERM.into());
        }
        self.state.lock().foreground = Some(group);
        Ok(())
    }
}

/// The session and the process group of a task.
fn own_place(task: &CurrentTask) -> (Pid, Pid) {
    task.kernel.tasks.with(|tree| {
        tree.process(task.group.pid).map_or((0, 0), |process| (process.session, process.process_group))
    })
}

/// A process gives up its controlling terminal, or ends. If it leads the session, nobody in it keeps the terminal, and
/// the foreground gets SIGHUP.
pub fn leave(kernel: &Kernel, group: &ThreadGroup, ends: bool) {
    let Some(terminal) = group.terminal.lock().take() else {
        if let Some(foreground) = group.former_foreground.lock().take().filter(|_| ends) {
            crate::signal::send_to_process_group(kernel, foreground, info(Signal::SIGHUP));
            crate::signal::send_to_process_group(kernel, foreground, info(Signal::SIGCONT));
        }
        return;
    };
    let session = kernel.tasks.with(|tree| tree.process(group.pid).map(|process| process.session));
    if session != Some(group.pid) {
        return;
    }
    let foreground = {
        let mut state = terminal.state.lock();
        if state.session != session {
            return;
        }
        state.session = None;
        state.foreground.take()
    };
    if let Some(foreground) = foreground {
        crate::signal::send_to_process_group(kernel, foreground, info(Signal::SIGHUP));
        if !ends {
            crate::signal::send_to_process_group(kernel, foreground, info(Signal::SIGCONT));
        }
    }
    terminal.clear_session(kernel, group.pid);
}

/// The slave end: what programs have as their terminal.
pub struct Slave {
    terminal: Arc<Terminal>,
}

impl Slave {
    /// Opens the slave end; without `O_NOCTTY` it becomes the controlling terminal of a session leader that has none.
    /// `even_locked` is for those that hold the master end.
    pub fn open(
        terminal: &Arc<Terminal>,
        task: Option<&CurrentTask>,
        flags: OpenFlags,
        even_locked: bool,
    ) -> SyscallResult<Arc<Slave>> {
        {
            let mut state = terminal.state.lock();
            if state.hung_up || (state.locked && !even_locked) {
                return Err(Errno::EIO.into());
            }
            if state.exclusive && task.is_some_and(|task| !task.credentials().has(Capability::SYS_ADMIN)) {
                return Err(Errno::EBUSY.into());
            }
            state.slaves += 1;
            state.slave_gone = false;
        }
        if let Some(task) = task.filter(|_| !flags.contains(OpenFlags::NOCTTY) && flags.readable()) {
            // Whether it becomes the controlling terminal or not, it is open.
            let _ = terminal.acquire(task, false);
        }
        Ok(Arc::new(Slave { terminal: Arc::clone(terminal) }))
    }
}

impl Drop for Slave {
    fn drop(&mut self) {
        let mut state = self.terminal.state.lock();
        state.slaves -= 1;
        if state.slaves == 0 {
            state.slave_gone = true;
            drop(state);
            self.terminal.master_queue.wake(Events::all());
        }
    }
}

impl OpenFile for Slave {
    fn read(&self, task: &CurrentTask, file: &File, to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        let terminal = &self.terminal;
        if terminal.state.lock().hung_up {
            return Ok(0);
        }
        terminal.check_foreground(task, Signal::SIGTTIN)?;
        let now = file.flags().contains(OpenFlags::NONBLOCK);
        let data = terminal.state.lock().discipline.read(to.remaining(), now).ok_or(Errno::EAGAIN)?;
        terminal.master_queue.wake(Events::WRITABLE);
        Ok(to.write(&data)?)
    }

    fn write(&self, task: &CurrentTask, _file: &File, from: &mut UserReader<'_>) -> SyscallResult<usize> {
        let terminal = &self.terminal;
        let check = |state: MutexGuard<'_, State>| {
            if state.hung_up { Err(Errno::EIO) } else { Ok(state.discipline.termios().local()) }
        };
        if check(terminal.state.lock())?.contains(LocalModes::TOSTOP) {
            terminal.check_foreground(task, Signal::SIGTTOU)?;
        }
        if !terminal.state.lock().discipline.takes_output() {
            return Err(Errno::EAGAIN.into());
        }
        let mut data = vec![0; from.remaining().min(PIECE)];
        let count = from.read(&mut data)?;
        terminal.state.lock().discipline.write(&data[..count]);
        terminal.master_queue.wake(Events::READABLE);
        Ok(count)
    }

    fn readiness(&self, _file: &File) -> Events {
        let state = self.terminal.state.lock();
        if state.hung_up {
            return Events::READABLE | Events::WRITABLE | Events::ERR | Events::HUP;
        }
        let mut events = Events::empty();
        events.set(Events::READABLE, state.discipline.is_readable());
        events.set(Events::WRITABLE, state.discipline.takes_output());
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.terminal.slave_queue)
    }

    fn timeout(&self, events: Events) -> Option<Duration> {
        let time = self.terminal.state.lock().discipline.read_time();
        let time = time.filter(|_| events.contains(Events::IN));
        time.map(|tenths| Duration::from_millis(100 * u64::from(tenths)))
    }

    fn read_timed_out(&self) -> SyscallResult<usize> {
        Ok(0)
    }

    fn ioctl(&self, task: &CurrentTask, _file: &File, request: u32, argument: u64) -> SyscallResult {
        let terminal = &self.terminal;
        if terminal.state.lock().hung_up {
            return Err(if request == TIOCSPGRP { Errno::ENOTTY } else { Errno::EIO }.into());
        }
        match request {
            FIONREAD => {
                let count = terminal.state.lock().discipline.readable_bytes() as i32;
                task.write_object(UserPtr::new(argument), &count)?;
                Ok(0)
            }
            TIOCGPGRP | TIOCGSID if !terminal.controls(task) => Err(Errno::ENOTTY.into()),
            _ => terminal.control(task, request, argument),
        }
    }
}

/// The master end: what shows the terminal to a user.
pub struct Master {
    terminal: Arc<Terminal>,
}

impl Master {
    /// Makes a new pair and opens its master end.
    pub fn open(file_system: &Arc<DevPts>, task: Option<&CurrentTask>) -> SyscallResult<Arc<Master>> {
        Ok(Arc::new(Master { terminal: file_system.make(task.map_or(0, |task| task.credentials().fs_uid))? }))
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        if let Some(file_system) = self.terminal.file_system.upgrade() {
            file_system.remove(self.terminal.number);
        }
        self.terminal.hang_up();
    }
}

impl OpenFile for Master {
    fn read(&self, _task: &CurrentTask, _file: &File, to: &mut UserWriter<'_>) -> SyscallResult<usize> {
        let room = to.remaining();
        let mut state = self.terminal.state.lock();
        let mut data = Vec::new();
        if state.packet && room > 0 {
            if state.packet_status != 0 {
                let status = std::mem::take(&mut state.packet_status);
                drop(state);
                return Ok(to.write(&[status])?);
            }
            data.push(0);
        }
        let output = state.discipline.take_output(room - data.len());
        if output.is_empty() && room > 0 {
            let gone = state.slave_gone;
            return Err(if gone { Errno::EIO } else { Errno::EAGAIN }.into());
        }
        drop(state);
        data.extend(output);
        self.terminal.slave_queue.wake(Events::WRITABLE);
        Ok(to.write(&data)?)
    }

    fn write(&self, _task: &CurrentTask, _file: &File, from: &mut UserReader<'_>) -> SyscallResult<usize> {
        if !self.terminal.state.lock().discipline.takes_input() {
            return Err(Errno::EAGAIN.into());
        }
        let mut data = vec![0; from.remaining().min(PIECE)];
        let count = from.read(&mut data)?;
        self.terminal.input(&data[..count]);
        Ok(count)
    }

    fn readiness(&self, _file: &File) -> Events {
        let state = self.terminal.state.lock();
        let mut events = Events::empty();
        events.set(Events::READABLE, state.discipline.output_bytes() > 0 || state.packet_status != 0);
        events.set(Events::PRI, state.packet_status != 0);
        events.set(Events::WRITABLE, state.discipline.takes_input());
        events.set(Events::HUP, state.slave_gone);
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.terminal.master_queue)
    }

    fn ioctl(&self, task: &CurrentTask, file: &File, request: u32, argument: u64) -> SyscallResult {
        let terminal = &self.terminal;
        let word = UserPtr::<i32>::new(argument);
        match request {
            TIOCGPTN => task.write_object(word, &terminal.number.cast_signed())?,
            TIOCSPTLCK => {
                let locked = task.read_object(word)? != 0;
                terminal.state.lock().locked = locked;
            }
            TIOCGPTLCK => task.write_object(word, &i32::from(terminal.state.lock().locked))?,
            TIOCPKT => {
                let packet = task.read_object(word)? != 0;
                let mut state = terminal.state.lock();
                state.packet = packet;
                state.packet_status = 0;
            }
            TIOCGPKT => task.write_object(word, &i32::from(terminal.state.lock().packet))?,
            TIOCSIG => {
                let number = i32::try_from(argument).map_err(|_| Errno::EINVAL)?;
                let known = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP];
                let signal =
                    Signal::new(number).filter(|signal| known.contains(signal)).ok_or(Errno::EINVAL)?;
                if let Some(group) = terminal.foreground() {
                    crate::signal::send_to_process_group(&task.kernel, group, info(signal));
                }
            }
            TIOCGPTPEER => return self.open_peer(task, file, argument),
            FIONREAD => {
                let count = terminal.state.lock().discipline.output_bytes() as i32;
                task.write_object(word, &count)?;
            }
            TIOCSCTTY => return Err(Errno::EINVAL.into()),
            _ => return terminal.control(task, request, argument),
        }
        Ok(0)
    }
}

impl Master {
    /// Opens the slave end next to the master's own name.
    fn open_peer(&self, task: &CurrentTask, file: &File, flags: u64) -> SyscallResult {
        let flags = OpenFlags::from_bits_retain(flags as u32);
        let directory = file.path().and_then(crate::fs::PathRef::parent).ok_or(Errno::EIO)?;
        let name = self.terminal.number.to_string();
        let dentry = directory.dentry.lookup(&*directory.mount.file_system, name.as_bytes())?;
        let ops = Slave::open(&self.terminal, Some(task), flags, true)?;
        let place = crate::fs::PathRef { mount: directory.mount, dentry };
        let file = File::new(crate::fs::file::Place::Path(place), ops, flags);
        let Fd(fd) = task.install(file, flags.contains(OpenFlags::CLOEXEC))?;
        Ok(fd.cast_unsigned().into())
    }
}
