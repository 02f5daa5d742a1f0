//! Descriptors that came with a message, each to be used once.

use std::os::fd::OwnedFd;

use crate::control::message::{ErrorCode, Failure};
use crate::spec::Descriptor;

/// Descriptors that came with a message.
pub struct Descriptors(Vec<Option<OwnedFd>>);

impl Descriptors {
    /// All of them.
    pub fn new(all: Vec<OwnedFd>) -> Descriptors {
        Descriptors(all.into_iter().map(Some).collect())
    }

    /// Takes one out.
    pub fn take(&mut self, which: Descriptor) -> Result<OwnedFd, Failure> {
        let place = self.0.get_mut(which.0).and_then(Option::take);
        place.ok_or_else(|| {
            let text =
                format!("the message names descriptor {} and does not bring it, or not twice", which.0);
            Failure::new(ErrorCode::Invalid, text)
        })
    }
}
