//! Default actions, about which the platform answers `rt_sigaction(2)` by itself.
//!
//! Whoever starts a program by `posix_spawn(3)` asks for the action of each signal, and sets it to the default once more, in
//! a child that does little else. The platform is told which signals have the default action, and remembers which of
//! them were set again, which nothing but the flags shows. Where several tasks share actions, the kernel serves all calls.

use std::sync::atomic::Ordering;

use abi::signal::{SA_RESTORER, SIG_DFL, SigAction, Signal, SignalSet};
use platform::DefaultActions;

use super::{Default_, GroupSignals, default_action};
use crate::task::CurrentTask;

/// The signals for which to set the default action throws nothing away that waits.
fn settable() -> SignalSet {
    let keeps = |signal: &Signal| {
        !matches!(default_action(*signal), Default_::Ignore | Default_::Continue)
            && !SignalSet::UNBLOCKABLE.contains(*signal)
    };
    let mut set = SignalSet::EMPTY;
    SignalSet(u64::MAX).iter().filter(keeps).for_each(|signal| set.insert(signal));
    set
}

impl GroupSignals {
    /// What the platform may know of the actions.
    fn defaults(&self) -> DefaultActions {
        if self.shared.load(Ordering::SeqCst) {
            return DefaultActions::default();
        }
        let restorer = self.restorer.load(Ordering::Relaxed);
        let again = SigAction { flags: SA_RESTORER, restorer, ..SigAction::default() };
        let actions = self.actions();
        let actions = actions.lock();
        let those = |wanted: &SigAction| {
            let which = actions.iter().enumerate().filter(|(_, action)| *action == wanted);
            which.fold(0, |set, (index, _)| set | 1 << index)
        };
        DefaultActions {
            pristine: those(&SigAction::default()),
            restored: those(&again),
            settable: settable().0,
            restorer,
        }
    }

    /// Notes that the default was set anew for these signals. The guest can claim that of any: it holds for those that have the
    /// default action.
    fn note_restored(&self, signals: SignalSet) {
        let restorer = self.restorer.load(Ordering::Relaxed);
        let actions = self.actions();
        let mut actions = actions.lock();
        for signal in signals.intersection(settable()).iter() {
            let action = &mut actions[signal.number() as usize - 1];
            if action.handler == SIG_DFL {
                *action = SigAction { flags: SA_RESTORER, restorer, ..SigAction::default() };
            }
        }
    }
}

impl CurrentTask {
    /// Takes note of what the platform has answered. To be called before actions are looked at closely, copied, or
    /// changed.
    pub(crate) fn learn_default_actions(&self) {
        let restored = self.context.borrow().restored_actions();
        if restored != 0 {
            self.group.signals.note_restored(SignalSet(restored));
        }
    }

    /// Tells the platform what it may answer; to be called when actions have changed, or whether it may. What it has answered
    /// so far is forgotten: [`CurrentTask::learn_default_actions`].
    pub(crate) fn offer_default_actions(&self) {
        let defaults =
            if self.calls_are_watched() { DefaultActions::default() } else { self.group.signals.defaults() };
        self.context.borrow_mut().set_default_actions(defaults);
    }
}
