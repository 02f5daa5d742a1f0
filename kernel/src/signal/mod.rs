//! Signals, `signal(7)`: queues, masks, actions, and what happens when a task goes back to guest code.
//!
//! A signal waits in the queue of its task or of its thread group until a task that does not block it is about to
//! return to guest code; [`deliver`] then takes it and carries its action out. Sending only queues and wakes.
//!
//! Lock order: group state, then task state.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use abi::signal::{
    SA_NOCLDSTOP, SA_NOCLDWAIT, SA_RESTORER, SI_KERNEL, SI_TIMER, SI_USER, SIG_DFL, SIG_IGN, SS_DISABLE,
    SigAction, SigAltStack, SigInfo, Signal, SignalSet,
};
use parking_lot::Mutex;
use platform::{Fault, KeptState, OwnState};

use crate::Kernel;
use crate::container::InitRule;
use crate::task::clone::CloneFlags;
use crate::task::{CurrentTask, Task, ThreadGroup};
use crate::wait::{Events, WaitQueue};

mod defaults;
mod deliver;
mod fatal;
mod frame;
pub mod syscalls;

pub use deliver::deliver;
pub use fatal::FaultLog;

/// The most signals that one queue holds, whatever the limit says.
const MAX_QUEUED: usize = 4096;

/// Signals that wait to be delivered.
#[derive(Clone, Default)]
struct Pending {
    set: SignalSet,
    queue: VecDeque<SigInfo>,
}

impl Pending {
    /// Queues a signal. A standard signal that waits already is dropped; false if there is no room for a real-time one.
    fn push(&mut self, signal: Signal, info: SigInfo, limit: usize) -> bool {
        // The expirations of a timer whose signal waits are counted in that one, `timer_getoverrun(2)`.
        let same_timer = |other: &&mut SigInfo| {
            (other.signo, other.code, other.word(0)) == (info.signo, SI_TIMER, info.word(0))
        };
        if info.code == SI_TIMER
            && let Some(waiting) = self.queue.iter_mut().find(same_timer)
        {
            let overrun = waiting.word(4).saturating_add(info.word(4)).saturating_add(1);
            waiting.put(4, &overrun.to_ne_bytes());
            return true;
        }
        if !signal.is_realtime() && self.set.contains(signal) {
            return true;
        }
        if self.queue.len() >= limit.min(MAX_QUEUED) {
            if signal.is_realtime() && info.code != SI_USER && info.code != SI_KERNEL {
                return false;
            }
            // Without room for its record the signal itself is still delivered.
            self.set.insert(signal);
            return true;
        }
        self.set.insert(signal);
        self.queue.push_back(info);
        true
    }

    /// Takes the signal of the lowest number that `wanted` has, faults before all others.
    fn take(&mut self, wanted: SignalSet) -> Option<SigInfo> {
        const SYNCHRONOUS: SignalSet = SignalSet(1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 30);
        let candidates = self.set.intersection(wanted);
        let first = candidates.intersection(SYNCHRONOUS).iter().next().or_else(|| candidates.iter().next());
        let signal = first?;
        let at = self.queue.iter().position(|info| info.signo == signal.number());
        let info = match at {
            Some(at) => self.queue.remove(at)?,
            None => SigInfo::new(signal, SI_USER),
        };
        if !self.queue.iter().any(|info| info.signo == signal.number()) {
            self.set.remove(signal);
        }
        Some(info)
    }

    fn discard(&mut self, signals: SignalSet) {
        self.set = self.set.difference(signals);
        self.queue.retain(|info| Signal::new(info.signo).is_some_and(|signal| !signals.contains(signal)));
    }
}

/// The signal state of a task.
#[derive(Default)]
pub struct TaskSignals {
    state: Mutex<TaskState>,
}

struct TaskState {
    /// Where the mask is: the guest may change it by itself.
    own: Arc<dyn OwnState>,
    /// The mask to go back to after a call that has set one for its duration.
    saved_mask: Option<SignalSet>,
    pending: Pending,
    stack: SigAltStack,
    /// The fault that the signal in the queue tells of, for the frame.
    fault: Option<Fault>,
}

impl Default for TaskState {
    fn default() -> TaskState {
        TaskState {
            own: Arc::new(KeptState::default()),
            saved_mask: None,
            pending: Pending::default(),
            stack: SigAltStack::default(),
            fault: None,
        }
    }
}

impl TaskState {
    fn mask(&self) -> SignalSet {
        SignalSet(self.own.mask()).difference(SignalSet::UNBLOCKABLE)
    }

    fn set_mask(&self, mask: SignalSet) {
        self.own.set_mask(mask.difference(SignalSet::UNBLOCKABLE).0);
    }
}

impl TaskSignals {
    /// The state of a new task: the mask is inherited, what is pending is not.
    pub fn for_clone(parent: &Task, flags: CloneFlags) -> TaskSignals {
        let parent = parent.signals.state.lock();
        // A thread that shares memory but is no vfork has a stack of its own, so no alternate one.
        let keeps_stack = !flags.contains(CloneFlags::VM) || flags.contains(CloneFlags::VFORK);
        let stack = if keeps_stack { parent.stack } else { disabled() };
        let state = TaskState { stack, ..TaskState::default() };
        state.set_mask(parent.mask());
        TaskSignals { state: Mutex::new(state) }
    }

    /// The blocked signals.
    pub fn mask(&self) -> SignalSet {
        self.state.lock().mask()
    }

    /// Keeps the mask in `own` from now on, which is a new guest thread's, or nobody's when there is none any more.
    pub(crate) fn move_to(&self, own: Arc<dyn OwnState>) {
        let mut state = self.state.lock();
        own.set_mask(state.own.mask());
        state.own = own;
    }

    /// [`TaskSignals::move_to`] where no guest reaches it.
    pub(crate) fn keep(&self) {
        self.move_to(Arc::new(KeptState::default()));
    }

    /// What the guest thread may change by itself.
    pub(crate) fn own(&self) -> Arc<dyn OwnState> {
        Arc::clone(&self.state.lock().own)
    }

    /// The signals that wait for this task alone.
    pub fn pending(&self) -> SignalSet {
        self.state.lock().pending.set
    }
}

fn disabled() -> SigAltStack {
    SigAltStack { sp: 0, flags: SS_DISABLE, pad: 0, size: 0 }
}

/// What happens on each signal, shared with `CLONE_SIGHAND`.
pub type Actions = Arc<Mutex<[SigAction; 64]>>;

/// The signal state of a thread group.
pub struct GroupSignals {
    actions: Mutex<Actions>,
    /// Whether several tasks have used these actions at once.
    shared: AtomicBool,
    /// Where handlers return to, as far as is known.
    restorer: AtomicU64,
    state: Mutex<GroupState>,
    death_signal: AtomicI32,
    /// Woken when a signal is queued, for `signalfd(2)`.
    pub queue: WaitQueue,
}

#[derive(Default)]
struct GroupState {
    pending: Pending,
    stopped: bool,
    /// How often it has stopped so far, and by which signal the last time.
    stops: u64,
    stop_signal: Option<Signal>,
}

impl Default for GroupSignals {
    fn default() -> GroupSignals {
        GroupSignals {
            actions: Mutex::new(Arc::new(Mutex::new([SigAction::default(); 64]))),
            shared: AtomicBool::new(false),
            restorer: AtomicU64::new(0),
            state: Mutex::default(),
            death_signal: AtomicI32::new(0),
            queue: WaitQueue::new(),
        }
    }
}

impl GroupSignals {
    /// The state of a group that ignores some signals.
    pub fn ignoring(signals: SignalSet) -> GroupSignals {
        let signals = signals.difference(SignalSet::UNBLOCKABLE);
        let action = |index: usize| {
            let handler = if signals.0 & 1 << index == 0 { SIG_DFL } else { SIG_IGN };
            SigAction { handler, ..SigAction::default() }
        };
        let actions = Arc::new(Mutex::new(std::array::from_fn(action)));
        GroupSignals { actions: Mutex::new(actions), ..GroupSignals::default() }
    }

    /// The state of a new group: actions are shared (`CLONE_SIGHAND`) or copied.
    pub fn for_clone(parent: &GroupSignals, flags: CloneFlags) -> GroupSignals {
        let actions = Arc::clone(&parent.actions.lock());
        let actions = if flags.contains(CloneFlags::SIGHAND) {
            actions
        } else {
            let mut copy = *actions.lock();
            if flags.contains(CloneFlags::CLEAR_SIGHAND) {
                copy.iter_mut()
                    .filter(|action| action.handler != SIG_IGN)
                    .for_each(|a| *a = SigAction::default());
            }
            Arc::new(Mutex::new(copy))
        };
        GroupSignals {
            actions: Mutex::new(actions),
            shared: AtomicBool::new(flags.contains(CloneFlags::SIGHAND)),
            restorer: AtomicU64::new(parent.restorer.load(Ordering::Relaxed)),
            ..GroupSignals::default()
        }
    }

    /// Notes that another task will use the same actions.
    pub fn share(&self) {
        self.shared.store(true, Ordering::SeqCst);
    }

    /// All actions, as the object that is shared.
    pub fn actions(&self) -> Actions {
        Arc::clone(&self.actions.lock())
    }

    /// What happens on a signal.
    pub fn action(&self, signal: Signal) -> SigAction {
        let actions = Arc::clone(&self.actions.lock());

        actions.lock()[signal.number() as usize - 1]
    }

    /// Changes what happens on a signal; returns what did before.
    pub fn set_action(&self, signal: Signal, action: SigAction) -> SigAction {
        let actions = Arc::clone(&self.actions.lock());
        let mut actions = actions.lock();
        if action.flags & SA_RESTORER != 0 {
            self.restorer.store(action.restorer, Ordering::Relaxed);
        }
        std::mem::replace(&mut actions[signal.number() as usize - 1], action)
    }

    /// Whether the group is stopped.
    pub fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// Which stop the group is in, and the signal that stopped it.
    fn current_stop(&self) -> Option<(u64, Signal)> {
        let state = self.state.lock();
        state.stop_signal.filter(|_| state.stopped).map(|signal| (state.stops, signal))
    }

    /// Whether children that end leave no zombies.
    pub fn discards_children(&self) -> bool {
        let action = self.action(Signal::SIGCHLD);
        action.handler == SIG_IGN || action.flags & SA_NOCLDWAIT != 0
    }

    /// Whether the group gets SIGCHLD when children stop or continue.
    pub fn wants_stops(&self) -> bool {
        let action = self.action(Signal::SIGCHLD);
        action.handler != SIG_IGN && action.flags & SA_NOCLDSTOP == 0
    }

    /// `PR_SET_PDEATHSIG`.
    pub fn parent_death_signal(&self) -> Option<Signal> {
        Signal::new(self.death_signal.load(Ordering::Relaxed))
    }

    /// Sets `PR_SET_PDEATHSIG`.
    pub fn set_parent_death_signal(&self, signal: Option<Signal>) {
        self.death_signal.store(signal.map_or(0, Signal::number), Ordering::Relaxed);
    }

    /// The signals that wait for any task of the group.
    pub fn pending(&self) -> SignalSet {
        self.state.lock().pending.set
    }

    /// The signals that are ignored, and those that are caught, as `/proc/PID/status` shows them.
    pub fn dispositions(&self) -> (SignalSet, SignalSet) {
        let actions = Arc::clone(&self.actions.lock());
        let actions = actions.lock();
        let mut sets = (SignalSet::EMPTY, SignalSet::EMPTY);
        for (index, action) in actions.iter().enumerate() {
            match action.handler {
                SIG_DFL => {}
                SIG_IGN => sets.0.0 |= 1 << index,
                _ => sets.1.0 |= 1 << index,
            }
        }
        sets
    }
}

/// What happens on a signal without a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Default_ {
    Terminate,
    Core,
    Ignore,
    Stop,
    Continue,
}

fn default_action(signal: Signal) -> Default_ {
    match signal {
        Signal::SIGCHLD | Signal::SIGURG | Signal::SIGWINCH => Default_::Ignore,
        Signal::SIGCONT => Default_::Continue,
        Signal::SIGSTOP | Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU => Default_::Stop,
        Signal::SIGQUIT
        | Signal::SIGILL
        | Signal::SIGABRT
        | Signal::SIGFPE
        | Signal::SIGSEGV
        | Signal::SIGBUS
        | Signal::SIGSYS
        | Signal::SIGTRAP
        | Signal::SIGXCPU
        | Signal::SIGXFSZ => Default_::Core,
        _ => Default_::Terminate,
    }
}

const STOPS: SignalSet = SignalSet(1 << 18 | 1 << 19 | 1 << 20 | 1 << 21);
const CONTINUE: SignalSet = SignalSet(1 << 17);

/// Whether `group` is the first of its pid namespace and does not handle the signal: it then gets it from no process, but
/// for SIGKILL and SIGSTOP from a namespace above. The init of a container can be exempt from that.
pub(crate) fn shields(group: &ThreadGroup, signal: Signal) -> bool {
    let ordinary = || group.container.init == InitRule::Ordinary && group.container.is_init(group.pid);
    group.number == 1 && group.signals.action(signal).handler == SIG_DFL && !ordinary()
}

/// What sending a signal changes at once, before anybody takes it. Returns whether it is to be queued.
fn prepare(kernel: &Kernel, group: &Arc<ThreadGroup>, signal: Signal, blocked: bool) -> bool {
    if signal == Signal::SIGKILL {
        let status = crate::task::ExitStatus::Signaled { signal, core: false };
        kernel.end_group(group, status);
        return false;
    }
    let tasks = kernel.tasks.tasks_of(group.pid);
    if STOPS.contains(signal) {
        group.signals.state.lock().pending.discard(CONTINUE);
        tasks.iter().for_each(|task| task.signals.state.lock().pending.discard(CONTINUE));
    }
    if signal == Signal::SIGCONT {
        group.signals.state.lock().pending.discard(STOPS);
        tasks.iter().for_each(|task| task.signals.state.lock().pending.discard(STOPS));
    }
    let action = group.signals.action(signal).handler;
    let ignored = match action {
        SIG_IGN => true,
        SIG_DFL => matches!(default_action(signal), Default_::Ignore | Default_::Continue),
        _ => false,
    };
    // A tracer sees what its tracee ignores.
    blocked || !ignored || tasks.iter().any(|task| task.ptrace.is_traced())
}

/// Lets a stopped group go on. Called when SIGCONT has been queued, so that its handler runs before anything else.
fn resume(kernel: &Kernel, group: &Arc<ThreadGroup>, signal: Signal) {
    if signal != Signal::SIGCONT {
        return;
    }
    let was_stopped = std::mem::take(&mut group.signals.state.lock().stopped);
    if was_stopped {
        kernel.tasks.tasks_of(group.pid).iter().for_each(|task| task.kick());
        kernel.child_changed(group.pid, crate::task::table::ChildEvent::Continued);
    }
}

/// Sends a signal to a thread group. Returns false if a queued signal found no room (`EAGAIN`).
pub fn send_to_group(kernel: &Kernel, group: &Arc<ThreadGroup>, info: SigInfo) -> bool {
    let Some(signal) = Signal::new(info.signo) else { return true };
    let tasks = kernel.tasks.tasks_of(group.pid);
    let blocks = |task: &Arc<Task>| task.signals.mask().contains(signal);
    if !prepare(kernel, group, signal, !tasks.is_empty() && tasks.iter().all(blocks)) {
        resume(kernel, group, signal);
        return true;
    }
    let limit =
        usize::try_from(group.limit(crate::task::limits::Resource::PendingSignals)).unwrap_or(usize::MAX);
    if !group.signals.state.lock().pending.push(signal, info, limit) {
        return false;
    }
    resume(kernel, group, signal);
    // One task that does not block it is enough.
    if let Some(task) = tasks.iter().find(|task| !blocks(task)) {
        task.kick();
    }
    group.signals.queue.wake(Events::IN);
    // A task may wait for it in sigtimedwait(2) while it blocks it, and must not unblock it unseen.
    tasks.iter().filter(|task| blocks(task)).for_each(|task| task.kick());
    true
}

/// Sends a signal to one task. Returns false if a queued signal found no room (`EAGAIN`).
pub fn send_to_task(kernel: &Kernel, task: &Arc<Task>, info: SigInfo) -> bool {
    let Some(signal) = Signal::new(info.signo) else { return true };
    if !prepare(kernel, &task.group, signal, task.signals.mask().contains(signal)) {
        resume(kernel, &task.group, signal);
        return true;
    }
    let limit = usize::try_from(task.group.limit(crate::task::limits::Resource::PendingSignals))
        .unwrap_or(usize::MAX);
    if !task.signals.state.lock().pending.push(signal, info, limit) {
        return false;
    }
    resume(kernel, &task.group, signal);
    task.kick();
    task.group.signals.queue.wake(Events::IN);
    true
}

/// Sends a signal to all members of a process group; returns how many there are.
pub fn send_to_process_group(kernel: &Kernel, process_group: i32, info: SigInfo) -> usize {
    let members = kernel.tasks.members(process_group);
    members.iter().for_each(|group| drop_result(send_to_group(kernel, group, info)));
    members.len()
}

fn drop_result(_: bool) {}

/// Whether a signal is pending that the task does not block, or the task is to stop.
pub fn pending(task: &Task) -> bool {
    let group = task.group.signals.state.lock();
    let state = task.signals.state.lock();
    (group.stopped && !task.ptrace.has_passed(group.stops))
        || task.ptrace.is_interrupted()
        || !state.pending.set.union(group.pending.set).difference(state.mask()).is_empty()
}

/// Has another task of the group take what waits for any of them, but is blocked by this one, which may have blocked it only
/// after it was chosen to take it.
fn pass_on(task: &Task) {
    let left = task.group.signals.pending().intersection(task.signals.mask());
    if left == SignalSet::EMPTY {
        return;
    }
    let others = task.kernel.tasks.tasks_of(task.group.pid);
    let takes = |other: &&Arc<Task>| left.difference(other.signals.mask()) != SignalSet::EMPTY;
    others.iter().filter(takes).for_each(|other| other.kick());
}

/// Takes a signal out of the task's or its group's queue that is in `wanted`, for `sigtimedwait(2)` and
/// `signalfd(2)`.
pub fn dequeue(task: &Task, wanted: SignalSet) -> Option<SigInfo> {
    let info = {
        let mut group = task.group.signals.state.lock();
        let mut state = task.signals.state.lock();
        state.pending.take(wanted).or_else(|| group.pending.take(wanted))?
    };
    if info.code == SI_TIMER {
        task.group.timers.delivered(info.word(0), info.word(4));
    }
    // With nothing left that waits it may change its mask by itself.
    task.look_again();
    Some(info)
}

/// Queues a signal of a task's own, whatever it does with it.
pub(crate) fn requeue(task: &Task, signal: Signal, info: SigInfo) {
    task.signals.state.lock().pending.push(signal, info, MAX_QUEUED);
    task.kick();
}

/// Sends the task a signal that it cannot ignore or block, because it cannot go on: a fault.
pub fn force(task: &CurrentTask, info: SigInfo, fault: Option<Fault>) {
    let Some(signal) = Signal::new(info.signo) else { return };
    let action = task.group.signals.action(signal);
    {
        let mut state = task.signals.state.lock();
        let mut mask = state.mask();
        if mask.contains(signal) || action.handler == SIG_IGN {
            task.group.signals.set_action(signal, SigAction::default());
            mask.remove(signal);
            state.set_mask(mask);
        }
        state.fault = fault;
        state.pending.push(signal, info, MAX_QUEUED);
    }
    task.kick();
}

/// What `execve(2)` changes: handlers go back to the default, the alternate stack goes.
pub fn reset_for_exec(task: &CurrentTask) {
    let mut actions = task.group.signals.actions.lock();
    let mut copy = *actions.lock();
    for action in &mut copy {
        let handler = if action.handler == SIG_IGN { SIG_IGN } else { SIG_DFL };
        *action = SigAction { handler, ..SigAction::default() };
    }
    *actions = Arc::new(Mutex::new(copy));
    drop(actions);
    task.group.signals.shared.store(false, Ordering::SeqCst);
    task.group.signals.restorer.store(0, Ordering::Relaxed);
    task.signals.state.lock().stack = disabled();
}

impl CurrentTask {
    /// Lets the guest change its own state by itself, unless somebody wants to know of every call, or a signal waits that
    /// it might unblock. To be called before it runs, when either may have changed.
    pub(crate) fn offer_own_state(&self) {
        let waiting = self.signals.pending().union(self.group.signals.pending());
        self.signals.own().offer(waiting == SignalSet::EMPTY && !self.calls_are_watched());
    }

    /// Sets the blocked signals; those that cannot be blocked are not.
    pub fn set_signal_mask(&self, mask: SignalSet) {
        self.signals.state.lock().set_mask(mask);
        if pending(self) {
            self.kick();
        }
    }

    /// Runs `operation` with another mask. If a signal ends it, the old mask comes back only when that signal's
    /// handler has been entered (`sigsuspend(2)`, `ppoll(2)`); otherwise at once.
    pub fn with_temporary_mask<T>(
        &self,
        mask: Option<SignalSet>,
        operation: impl FnOnce() -> crate::error::SyscallResult<T>,
    ) -> crate::error::SyscallResult<T> {
        let Some(mask) = mask else { return operation() };
        let old = self.signals.mask();
        self.set_signal_mask(mask);
        let result = operation();
        match &result {
            Err(crate::error::SysError::Restart(_)) => self.signals.state.lock().saved_mask = Some(old),
            _ => self.set_signal_mask(old),
        }
        result
    }
}
