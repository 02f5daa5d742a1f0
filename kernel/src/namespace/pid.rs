//! Pid namespaces, `pid_namespaces(7)`.
//!
//! Inside of the kernel a task, process group or session is known by one number, its kernel-wide [`Pid`], which no
//! guest sees. Each pid namespace on the way from the kernel's root down to the task's own gives it a further number.
//! Numbers are given and taken under the lock of the process tree ([`crate::task::table::Tree`]).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use abi::{Errno, SysResult};
use parking_lot::Mutex;

use super::{NamespaceId, UserNamespace};
use crate::task::Pid;
use crate::task::table::PID_MAX;

/// How deep pid namespaces may lie in each other, as in Linux.
const MAX_LEVEL: u32 = 32;

/// A numbering of tasks.
pub struct PidNamespace {
    /// Its number in `/proc/PID/ns/pid`.
    pub id: NamespaceId,
    /// The namespace above; `None` for the kernel's root, whose numbers are the kernel-wide ones.
    pub parent: Option<Arc<PidNamespace>>,
    /// How many there are above it.
    pub level: u32,
    /// Who has a say in it.
    pub owner: Arc<UserNamespace>,
    numbers: Mutex<Numbers>,
}

#[derive(Default)]
struct Numbers {
    by_number: BTreeMap<Pid, Pid>,
    by_pid: BTreeMap<Pid, Pid>,
    last: Pid,
    /// Set when the first process ends: there will be no new ones.
    closed: bool,
}

impl PidNamespace {
    /// The kernel's own.
    pub fn root() -> Arc<PidNamespace> {
        Arc::new(PidNamespace {
            id: NamespaceId::allocate(),
            parent: None,
            level: 0,
            owner: UserNamespace::root(),
            numbers: Mutex::default(),
        })
    }

    /// One below `parent`: `ENOSPC` if that is too deep.
    pub fn below(parent: &Arc<PidNamespace>, owner: &Arc<UserNamespace>) -> SysResult<Arc<PidNamespace>> {
        if parent.level >= MAX_LEVEL {
            return Err(Errno::ENOSPC);
        }
        Ok(Arc::new(PidNamespace {
            id: NamespaceId::allocate(),
            parent: Some(Arc::clone(parent)),
            level: parent.level + 1,
            owner: Arc::clone(owner),
            numbers: Mutex::default(),
        }))
    }

    /// The number that `pid` has here: zero if it is not to be seen from here.
    pub fn number(&self, pid: Pid) -> Pid {
        if self.parent.is_none() {
            return pid;
        }
        self.numbers.lock().by_pid.get(&pid).copied().unwrap_or(0)
    }

    /// What has this number here.
    pub fn pid(&self, number: Pid) -> Option<Pid> {
        if self.parent.is_none() {
            return (number > 0).then_some(number);
        }
        self.numbers.lock().by_number.get(&number).copied()
    }

    /// Whether this is `other` or lies above it, so that tasks of `other` are to be seen from here.
    pub fn sees(self: &Arc<Self>, other: &Arc<PidNamespace>) -> bool {
        other.chain().any(|namespace| Arc::ptr_eq(namespace, self))
    }

    /// This one and those above it.
    pub fn chain(self: &Arc<Self>) -> impl Iterator<Item = &Arc<PidNamespace>> {
        std::iter::successors(Some(self), |namespace| namespace.parent.as_ref())
    }

    /// The kernel-wide pid of the first process; `None` before there is one and in the kernel's root.
    pub fn init(&self) -> Option<Pid> {
        self.parent.as_ref()?;
        self.pid(1)
    }

    /// Lets nobody in any more: the first process has ended.
    pub(crate) fn close(&self) {
        self.numbers.lock().closed = true;
    }

    /// Whether nobody is let in any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.numbers.lock().closed
    }

    /// Gives `pid` numbers here and above: `ENOMEM` if the first process has ended, `EAGAIN` if all are in use.
    pub(crate) fn enter(self: &Arc<Self>, pid: Pid) -> SysResult<()> {
        let mut entered = Vec::new();
        for namespace in self.chain().filter(|namespace| namespace.parent.is_some()) {
            if let Err(error) = namespace.give(pid) {
                entered.iter().for_each(|namespace: &&Arc<PidNamespace>| namespace.take(pid));
                return Err(error);
            }
            entered.push(namespace);
        }
        Ok(())
    }

    /// Takes back what [`PidNamespace::enter`] gave.
    pub(crate) fn leave(self: &Arc<Self>, pid: Pid) {
        self.chain().for_each(|namespace| namespace.take(pid));
    }

    fn give(&self, pid: Pid) -> SysResult<()> {
        let mut numbers = self.numbers.lock();
        let numbers = &mut *numbers;
        if numbers.closed {
            return Err(Errno::ENOMEM);
        }
        for _ in 0..PID_MAX {
            numbers.last = if numbers.last >= PID_MAX - 1 { 300 } else { numbers.last + 1 };
            let number = numbers.last;
            if let Entry::Vacant(free) = numbers.by_number.entry(number) {
                free.insert(pid);
                numbers.by_pid.insert(pid, number);
                return Ok(());
            }
        }
        Err(Errno::EAGAIN)
    }

    fn take(&self, pid: Pid) {
        let mut numbers = self.numbers.lock();
        if let Some(number) = numbers.by_pid.remove(&pid) {
            numbers.by_number.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_has_a_number_in_each_namespace_above_it() {
        let root = PidNamespace::root();
        let outer = PidNamespace::below(&root, &UserNamespace::root()).unwrap();
        let inner = PidNamespace::below(&outer, &UserNamespace::root()).unwrap();
        outer.enter(7).unwrap();
        inner.enter(9).unwrap();
        assert_eq!((root.number(9), outer.number(9), inner.number(9)), (9, 2, 1));
        assert_eq!((root.number(7), outer.number(7), inner.number(7)), (7, 1, 0));
        assert_eq!((outer.pid(2), inner.pid(1), inner.pid(2)), (Some(9), Some(9), None));
        assert!(outer.sees(&inner) && !inner.sees(&outer));
        inner.leave(9);
        assert_eq!((outer.number(9), inner.number(9)), (0, 0));
    }

    #[test]
    fn nobody_enters_after_the_first_process_has_ended() {
        let namespace = PidNamespace::below(&PidNamespace::root(), &UserNamespace::root()).unwrap();
        namespace.enter(5).unwrap();
        namespace.close();
        assert_eq!(namespace.enter(6), Err(Errno::ENOMEM));
    }

    #[test]
    fn namespaces_lie_32_deep_at_most() {
        let mut namespace = PidNamespace::root();
        for _ in 0..MAX_LEVEL {
            namespace = PidNamespace::below(&namespace, &UserNamespace::root()).unwrap();
        }
        assert_eq!(PidNamespace::below(&namespace, &UserNamespace::root()).err(), Some(Errno::ENOSPC));
    }
}
