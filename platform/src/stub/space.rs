//! A stub process: one guest address space.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use abi::{Errno, SysResult};
use host::memory::SharedMapping;
use host::rustix::fs::{MemfdFlags, Mode, OFlags, ftruncate, memfd_create, openat};
use host::rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use parking_lot::{Condvar, Mutex, RwLock};

use super::Shared;
use super::context::Interrupt;
use super::direct::Directs;
use super::layout::*;
use super::memory::Held;
use super::patch::Sites;
use super::preloaded::{self, Preloaded};
use super::resident::Residents;
use super::slot::Slot;
use crate::{AddressSpace, MemoryUsage, RangeUsage};

/// How many idle threads an address space keeps for later use, beside its first.
const PARKED_MAX: usize = 4;

/// The slot memory of an address space, before there is a process.
#[derive(Debug)]
pub struct SlotMemory {
    file: OwnedFd,
}

impl SlotMemory {
    pub fn new() -> SysResult<SlotMemory> {
        let file = memfd_create("nacelle-slots", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, SLOTS_SIZE as u64)?;
        Ok(SlotMemory { file })
    }

    pub fn slot(&self, index: usize) -> SysResult<Arc<Slot>> {
        let memory = SharedMapping::new(&self.file, (index * SLOT_SIZE) as u64, SLOT_SIZE)?;
        Ok(Arc::new(Slot::new(memory, index)))
    }

    pub fn file(&self) -> &OwnedFd {
        &self.file
    }
}

/// A host thread of a stub process: its slot and its thread id. The id comes from the stub itself; it names a thread of
/// the right process at best, and is used for nothing where another would do harm.
#[derive(Clone, Debug)]
pub struct Thread {
    pub slot: Arc<Slot>,
    pub id: i32,
}

#[derive(Debug, Default)]
struct Threads {
    /// The slots in use, parked ones included.
    used: Vec<Arc<Slot>>,
    /// Threads that wait for a guest thread to run.
    parked: Vec<Thread>,
    /// Slots of threads that have been told to end and may not have read it yet.
    leaving: Vec<Arc<Slot>>,
    free: Vec<usize>,
    /// Slots from here on have never been used.
    fresh: usize,
}

/// Those who may run guest code, and how they are kept from it.
#[derive(Debug, Default)]
struct Runners {
    all: Mutex<Vec<Weak<Interrupt>>>,
    /// Set while guest code must not run, but for that of one context.
    stopped: AtomicBool,
    stop: Mutex<()>,
    resumed: Condvar,
}

/// Keeps the other contexts of a space from guest code while it exists.
pub struct Stopped<'a>(&'a Runners);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let _stop = self.0.stop.lock();
        self.0.stopped.store(false, Ordering::SeqCst);
        self.0.resumed.notify_all();
    }
}

/// How long the others may take to come to a stop.
const STOP_PATIENCE: Duration = Duration::from_millis(20);

/// A stub process.
#[derive(Debug)]
pub struct Space {
    pub shared: Arc<Shared>,
    /// The process id, valid while `unreaped` holds true.
    pub pid: i32,
    pub pidfd: OwnedFd,
    memory: SlotMemory,
    /// Locked for writing while the process is reaped, after which its id may be another's.
    unreaped: RwLock<bool>,
    /// Set when the process is known to have ended.
    pub dead: AtomicBool,
    /// Set with the most bytes that it had in memory, when that is known for good.
    peak: Arc<OnceLock<u64>>,
    threads: Mutex<Threads>,
    contexts: AtomicUsize,
    /// The call sites. Locked while code is changed, and while the process is copied.
    pub sites: Mutex<Sites>,
    /// The file that it may map more of. Locked while the process is handed one, and while it is copied.
    pub files: Mutex<Held>,
    /// Whether there may be one.
    pub holds: AtomicBool,
    /// The files that it has for longer.
    pub residents: Residents,
    /// The open files that guest threads use by themselves.
    pub directs: Directs,
    /// The files that it was born with, and where it is told what others had better be born with; unset for processes that never
    /// run a program.
    pub born: OnceLock<Born>,
    /// See [`Space::common`].
    common: OnceLock<Option<Arc<Slot>>>,
    runners: Runners,
    /// Whether it ever had a second thread.
    threaded: AtomicBool,
}

/// What a process was born with.
#[derive(Clone, Debug)]
pub struct Born {
    /// That of those that are made now.
    pub pool: Arc<Preloaded>,
    /// Its own.
    pub files: Arc<preloaded::Files>,
}

impl Space {
    /// The files that the process was born with.
    pub fn born_with(&self) -> &preloaded::Files {
        const NOTHING: &preloaded::Files =
            &[const { None }; PRELOADED.end as usize - PRELOADED.start as usize];
        self.born.get().map_or(NOTHING, |born| &born.files)
    }

    /// Takes charge of a new process whose main thread uses `slot`.
    pub fn new(
        shared: Arc<Shared>,
        pid: i32,
        pidfd: OwnedFd,
        memory: SlotMemory,
        slot: &Arc<Slot>,
    ) -> Arc<Space> {
        let index = slot.index;
        let threads = Threads {
            used: vec![slot.clone()],
            free: (0..index).collect(),
            fresh: index + 1,
            ..Threads::default()
        };
        Arc::new(Space {
            shared,
            pid,
            pidfd,
            memory,
            unreaped: RwLock::new(true),
            dead: AtomicBool::new(false),
            peak: Arc::default(),
            threads: Mutex::new(threads),
            contexts: AtomicUsize::new(1),
            sites: Mutex::default(),
            files: Mutex::default(),
            holds: AtomicBool::new(false),
            residents: Residents::default(),
            directs: Directs::default(),
            born: OnceLock::new(),
            common: OnceLock::new(),
            runners: Runners::default(),
            threaded: AtomicBool::new(false),
        })
    }

    /// What the host tells of the process in one of its files, or the beginning of it.
    fn read_procfs<'a>(&self, name: &str, bytes: &'a mut [u8]) -> Option<&'a str> {
        let procfs = self.shared.procfs.as_ref()?;
        let file = self.with_pid(|pid| {
            openat(procfs, format!("{pid}/{name}"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
        })??;
        let length = host::rustix::io::read(&file, &mut *bytes).ok()?;
        std::str::from_utf8(&bytes[..length]).ok()
    }

    /// Runs `operation` with the process id if the process has not been reaped; it cannot be while `operation` runs.
    pub fn with_pid<T>(&self, operation: impl FnOnce(i32) -> T) -> Option<T> {
        let unreaped = self.unreaped.read();
        unreaped.then(|| operation(self.pid))
    }

    /// Signals a thread unless the process is gone. Never blocks.
    pub fn signal_thread(&self, thread: i32, signal: i32) -> Result<(), Errno> {
        match self.unreaped.try_read() {
            Some(unreaped) if *unreaped => Ok(host::process::signal_thread(self.pid, thread, signal)?),
            _ => Err(Errno::ESRCH),
        }
    }

    /// Collects the process's exit status, if it has ended and nobody uses its id at this moment; returns whether
    /// that has been done.
    pub fn reap(&self) -> bool {
        let Some(mut unreaped) = self.unreaped.try_write() else { return false };
        let peak = match host::process::collect(self.pidfd.as_fd()) {
            Ok(None) => return false,
            Ok(Some(peak)) => peak,
            Err(_) => 0,
        };
        *unreaped = false;
        drop(unreaped);
        let _ = self.peak.set(peak);
        self.dead.store(true, Ordering::SeqCst);
        for slot in &self.threads.lock().used {
            slot.declare_dead();
        }
        true
    }

    /// A slot for a new thread.
    pub fn allocate_slot(&self) -> SysResult<Arc<Slot>> {
        let mut threads = self.threads.lock();
        let threads = &mut *threads;
        threads.leaving.retain(|slot| {
            let left = slot.field(WORD).load(Ordering::SeqCst) != TURN_COMMAND;
            if left {
                threads.free.push(slot.index);
            }
            !left
        });
        let index = match threads.free.pop() {
            Some(index) => index,
            None if threads.fresh < SLOT_COUNT => {
                threads.fresh += 1;
                threads.fresh - 1
            }
            None => return Err(Errno::EAGAIN),
        };
        match self.memory.slot(index) {
            Ok(slot) => {
                slot.field(WORD).store(TURN_RUN, Ordering::SeqCst);
                threads.used.push(slot.clone());
                Ok(slot)
            }
            Err(error) => {
                threads.free.push(index);
                Err(error)
            }
        }
    }

    /// The slots in use.
    pub fn slots(&self) -> Vec<Arc<Slot>> {
        self.threads.lock().used.clone()
    }

    /// The first slot, whoever uses it.
    fn first_slot(&self) -> SysResult<Arc<Slot>> {
        let used = self.threads.lock().used.iter().find(|slot| slot.index == 0).cloned();
        used.map_or_else(|| self.memory.slot(0), Ok)
    }

    /// The first slot, where what all threads share lies; `None` for good if that cannot be mapped when it is needed first.
    pub fn common(&self) -> Option<&Arc<Slot>> {
        self.common.get_or_init(|| self.first_slot().ok()).as_ref()
    }

    /// Gives back a slot that no thread was started on.
    pub fn release_slot(&self, slot: &Arc<Slot>) {
        let mut threads = self.threads.lock();
        threads.used.retain(|used| !Arc::ptr_eq(used, slot));
        threads.free.push(slot.index);
    }

    /// A parked thread to reuse.
    pub fn unpark(&self) -> Option<Thread> {
        self.threads.lock().parked.pop()
    }

    /// Takes back a thread that waits for a command and that no guest thread needs any more. The first thread is
    /// always kept: the process's memory can be reached from outside only while its first thread lives.
    pub fn park(&self, thread: Thread) {
        let mut threads = self.threads.lock();
        if thread.id == self.pid || threads.parked.len() < PARKED_MAX {
            threads.parked.push(thread);
            return;
        }
        threads.used.retain(|used| !Arc::ptr_eq(used, &thread.slot));
        thread.slot.post(COMMAND_EXIT, 0);
        threads.leaving.push(thread.slot);
    }

    /// Notes somebody who will run guest code.
    pub fn add_runner(&self, runner: &Arc<Interrupt>) {
        let mut all = self.runners.all.lock();
        all.retain(|runner| runner.strong_count() > 0);
        all.push(Arc::downgrade(runner));
    }

    /// Waits until guest code may run. The caller has declared that it wants to run some, and declares it anew if this
    /// returns true.
    pub fn wait_while_stopped(&self, declared: &AtomicBool) -> bool {
        if !self.runners.stopped.load(Ordering::SeqCst) {
            return false;
        }
        declared.store(false, Ordering::SeqCst);
        let mut stop = self.runners.stop.lock();
        while self.runners.stopped.load(Ordering::SeqCst) {
            self.runners.resumed.wait(&mut stop);
        }
        true
    }

    /// Brings all but the caller out of guest code. Fails if that takes long. The caller holds `sites`, so that there
    /// is one such at a time.
    pub fn stop_others(&self) -> Option<Stopped<'_>> {
        self.runners.stopped.store(true, Ordering::SeqCst);
        let stopped = Stopped(&self.runners);
        let running: Vec<Arc<Interrupt>> =
            self.runners.all.lock().iter().filter_map(Weak::upgrade).filter(|it| it.is_in_guest()).collect();
        running.iter().for_each(|runner| runner.signal());
        let start = Instant::now();
        while running.iter().any(|runner| runner.is_in_guest()) {
            if start.elapsed() > STOP_PATIENCE || self.dead.load(Ordering::SeqCst) {
                return None;
            }
            std::thread::yield_now();
        }
        Some(stopped)
    }

    /// Reads the stub's memory, wherever it lies.
    pub fn read_code(&self, address: u64, buffer: &mut [u8]) -> bool {
        self.with_pid(|pid| host::process::read_memory(pid, address, buffer)) == Some(buffer.len())
    }

    /// Whether these bytes are in the stub's memory, wherever that lies.
    pub fn has_code(&self, address: u64, bytes: &[u8]) -> bool {
        let mut found = vec![0; bytes.len()];
        self.read_code(address, &mut found) && found == bytes
    }

    /// [`Space::read_code`] of several pieces.
    pub fn read_pieces(&self, pieces: &mut [(u64, &mut [u8])]) -> bool {
        let length: usize = pieces.iter().map(|(_, bytes)| bytes.len()).sum();
        self.with_pid(|pid| host::process::read_pieces(pid, pieces)) == Some(length)
    }

    /// Notes a further context.
    pub fn add_context(&self) {
        self.threaded.store(true, Ordering::Relaxed);
        self.contexts.fetch_add(1, Ordering::SeqCst);
    }

    /// Notes that a context has gone; whether it was the last.
    pub fn remove_context(&self) -> bool {
        self.contexts.fetch_sub(1, Ordering::SeqCst) == 1
    }

    /// Whether there is just one context.
    pub fn is_single(&self) -> bool {
        self.contexts.load(Ordering::SeqCst) == 1
    }

    /// The processor time of the whole process, if only one thread can have used it.
    pub fn single_thread_cpu_time(&self) -> Option<Duration> {
        if self.threaded.load(Ordering::Relaxed) {
            return None;
        }
        self.with_pid(|pid| host::process::cpu_time(pid).ok())?
    }

    /// The processor time of one thread, as far as the host tells it to others.
    pub fn thread_cpu_time(&self, thread: i32) -> Option<Duration> {
        let procfs = self.shared.procfs.as_ref()?;
        let file = self.with_pid(|pid| {
            let path = format!("{pid}/task/{thread}/schedstat");
            openat(procfs, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
        })??;
        let mut bytes = [0; 64];
        let length = host::rustix::io::read(&file, &mut bytes[..]).ok()?;
        let text = std::str::from_utf8(&bytes[..length]).ok()?;
        text.split_ascii_whitespace().next()?.parse().ok().map(Duration::from_nanos)
    }

    fn kill_process(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Whether a guest address may be read; the vDSO may, being code of the guest's.
    fn readable(&self, address: u64, length: usize) -> usize {
        let vdso = self.shared.vdso.as_ref().map(|vdso| vdso.image.clone());
        let ranges = [Some(0..GUEST.end), vdso];
        let range = ranges.into_iter().flatten().find(|range| range.contains(&address));
        range.map_or(0, |range| length.min(usize::try_from(range.end - address).unwrap_or(usize::MAX)))
    }
}

impl AddressSpace for Space {
    fn read(&self, address: u64, buffer: &mut [u8]) -> usize {
        let length = self.readable(address, buffer.len());
        if length == 0 {
            return 0;
        }
        self.with_pid(|pid| host::process::read_memory(pid, address, &mut buffer[..length])).unwrap_or(0)
    }

    fn write(&self, address: u64, bytes: &[u8]) -> usize {
        if address >= GUEST.end || bytes.is_empty() {
            return 0;
        }
        let length = bytes.len().min(usize::try_from(GUEST.end - address).unwrap_or(usize::MAX));
        self.with_pid(|pid| host::process::write_memory(pid, address, &bytes[..length])).unwrap_or(0)
    }

    fn count_waiter(&self, address: u64, waits: bool) {
        // Without it no thread has been told that it may look.
        if let Some(slot) = self.common() {
            let count = slot.field(waiters(address));
            if waits {
                count.fetch_add(1, Ordering::SeqCst);
            } else {
                count.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    fn usage(&self) -> MemoryUsage {
        let statm = || {
            let mut bytes = [0; 128];
            let text = self.read_procfs("statm", &mut bytes)?;
            let mut pages = text.split_ascii_whitespace().map(|field| field.parse::<u64>().ok());
            Some((pages.nth(1)?? * PAGE, pages.next()?? * PAGE))
        };
        let (resident, shared) = statm().unwrap_or((0, 0));
        MemoryUsage { resident, shared }
    }

    fn peak(&self) -> u64 {
        let status = || {
            let mut bytes = [0; 2048];
            let text = self.read_procfs("status", &mut bytes)?;
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
        };
        status().unwrap_or(0)
    }

    fn cpu_time(&self) -> Duration {
        self.with_pid(|pid| host::process::cpu_time(pid).ok()).flatten().unwrap_or_default()
    }

    fn final_peak(&self) -> Arc<OnceLock<u64>> {
        Arc::clone(&self.peak)
    }

    fn usage_by_range(&self) -> Vec<RangeUsage> {
        let text = || {
            let procfs = self.shared.procfs.as_ref()?;
            let file = self.with_pid(|pid| {
                openat(procfs, format!("{pid}/smaps"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
            })??;
            let (mut bytes, mut piece) = (Vec::new(), [0; 32 << 10]);
            loop {
                match host::rustix::io::read(&file, &mut piece[..]).ok()? {
                    0 => return String::from_utf8(bytes).ok(),
                    count => bytes.extend_from_slice(&piece[..count]),
                }
            }
        };
        parse_smaps(&text().unwrap_or_default())
    }

    fn kill(&self) {
        self.kill_process();
    }
}

/// The ranges of guest memory in the host's `smaps`, `proc_pid_smaps(5)`.
fn parse_smaps(text: &str) -> Vec<RangeUsage> {
    let mut ranges: Vec<RangeUsage> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        let Some(field) = first.strip_suffix(':') else {
            let number = |text| u64::from_str_radix(text, 16).ok();
            let bounds = first.split_once('-').and_then(|(start, end)| Some((number(start)?, number(end)?)));
            if let Some((start, end)) = bounds {
                let in_memory = words.nth(4).is_some_and(|path| path.starts_with("/memfd:"));
                ranges.push(RangeUsage { range: start..end, in_memory, ..RangeUsage::default() });
            }
            continue;
        };
        let (Some(usage), Some(Ok(kib))) = (ranges.last_mut(), words.next().map(str::parse::<u64>)) else {
            continue;
        };
        let place = match field {
            "Rss" => &mut usage.resident,
            "Pss" => &mut usage.proportional,
            "Shared_Clean" => &mut usage.shared_clean,
            "Shared_Dirty" => &mut usage.shared_dirty,
            "Private_Clean" => &mut usage.private_clean,
            "Private_Dirty" => &mut usage.private_dirty,
            "Referenced" => &mut usage.referenced,
            "Anonymous" => &mut usage.anonymous,
            "Swap" => &mut usage.swapped,
            _ => continue,
        };
        *place = kib * 1024;
    }
    ranges.retain(|usage| usage.range.start < GUEST.end);
    ranges
}

impl Drop for Space {
    fn drop(&mut self) {
        // Only reached after reaping, or when the process was never handed to the reaper.
        if *self.unreaped.get_mut() {
            self.kill_process();
            let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smaps_are_read_by_range() {
        let text = "00400000-00401000 r-xp 00000000 fe:00 1 /bin/x y\nSize: 4 kB\nRss: 4 kB\nPss: 2 kB\nVmFlags: rd\n\
                    00600000-00700000 rw-p 00000000 00:00 0\nRss: 12 kB\nAnonymous: 12 kB\nnonsense\n\
                    00800000-00900000 rw-s 00000000 00:01 7 /memfd:file (deleted)\nRss: 4 kB\n";
        let ranges = parse_smaps(text);
        assert_eq!(ranges.len(), 3);
        assert_eq!(ranges.iter().map(|usage| usage.in_memory).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!((ranges[0].range.clone(), ranges[0].resident), (0x40_0000..0x40_1000, 4096));
        assert_eq!((ranges[1].resident, ranges[1].anonymous), (12288, 12288));
    }
}
