//! What a program file gives to those who run it ends when its content changes: set-user-id and set-group-id bits, and
//! file capabilities.
//!
//! So that not every write has to look at the file, the kernel counts how often such a privilege was given; a file
//! that has none needs no second look until the count has changed.

use std::sync::atomic::{AtomicU64, Ordering};

use abi::SysResult;
use abi::fs::{S_ISGID, S_ISUID};

use super::{InodeRef, Metadata, SetAttributes};
use crate::task::Credentials;
use crate::task::credentials::Capability;

static GIVEN: AtomicU64 = AtomicU64::new(1);

const CAPABILITIES: &[u8] = b"security.capability";

/// A value that changes whenever a file may have got a privilege.
pub fn state() -> u64 {
    GIVEN.load(Ordering::Acquire)
}

/// A file got these permission bits.
pub fn mode_set(mode: u32) {
    if mode & (S_ISUID | S_ISGID) != 0 {
        given();
    }
}

/// A file got this extended attribute.
pub fn attribute_set(name: &[u8]) {
    if name == CAPABILITIES {
        given();
    }
}

fn given() {
    GIVEN.fetch_add(1, Ordering::SeqCst);
    super::direct::revoke_all();
}

/// The permission bits that a file keeps when its content changes; `None` if those are all of them.
pub fn mode_after_change(metadata: &Metadata, credentials: &Credentials) -> Option<u32> {
    if credentials.has(Capability::FSETID) {
        return None;
    }
    let kept = metadata.mode & !privileged(metadata.mode);
    (kept != metadata.mode).then_some(kept & 0o7777)
}

/// The bits of a mode that give privileges. Without execution by the group, S_ISGID is not one of them.
fn privileged(mode: u32) -> u32 {
    mode & if mode & 0o010 != 0 { S_ISUID | S_ISGID } else { S_ISUID }
}

/// Takes from a file what it may not keep when these credentials change its content; returns whether it has no
/// privileges then.
pub fn drop_all(inode: &InodeRef, credentials: &Credentials) -> SysResult<bool> {
    let metadata = inode.metadata()?;
    let executable = metadata.mode & 0o111 != 0;
    if executable && inode.list_xattr().is_ok_and(|names| names.iter().any(|name| name == CAPABILITIES)) {
        inode.remove_xattr(CAPABILITIES)?;
    }
    let mode = mode_after_change(&metadata, credentials);
    if mode.is_some() {
        inode.set_attributes(&SetAttributes { mode, ..SetAttributes::default() })?;
    }
    Ok(mode.is_some() || privileged(metadata.mode) == 0)
}
