//! [`Mapper`]: how changes of mappings reach the platform, at once, a little later, or all together.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use abi::SysResult;
use platform::{Context, MemoryOp};

use super::vma::Protection;
use crate::fs::File;

/// What carries out changes of mappings: a [`Context`] at once, a [`Plan`] later.
pub trait Mapper {
    /// Carries out one operation, or notes it.
    fn change(&mut self, operation: MemoryOp<'_>) -> SysResult<()>;

    /// Takes note that a file has been mapped, privately, as this one of the host's.
    fn note(&mut self, file: &Arc<File>, host: &Arc<OwnedFd>);
}

/// Has new address spaces have a file from the beginning that many map, if anybody may see it.
fn consider_preloading(context: &mut (dyn Context + '_), file: &File, host: &Arc<OwnedFd>) {
    if context.is_worth_preloading(host) && file.is_public() {
        context.preload(host);
    }
}

impl Mapper for dyn Context + '_ {
    fn change(&mut self, operation: MemoryOp<'_>) -> SysResult<()> {
        match operation {
            MemoryOp::Map { shared: false, file, length, flags: 0, protection, .. }
                if is_granted(length, protection) && file.is_none_or(|(_, offset)| offset <= OFFSET_MAX) =>
            {
                self.memory_later(&[operation])
            }
            _ => self.memory(&[operation]),
        }
    }

    fn note(&mut self, file: &Arc<File>, host: &Arc<OwnedFd>) {
        consider_preloading(self, file, host);
    }
}

/// As many bytes any host maps; who asks for very many more is told whether they can be had.
const PROMISED_MAX: u64 = 64 << 20;
/// As far into a file any host maps it, which has mapped it at all.
const OFFSET_MAX: u64 = 1 << 40;
/// With so many mappings the host has some left, however it counts them.
const PROMISED_COUNT: usize = 32_000;

/// Whether no host refuses private memory of so many bytes with this protection; the platform puts off mappings of files only
/// where the same file has been mapped before.
pub(super) fn is_granted(length: u64, protection: u32) -> bool {
    length <= PROMISED_MAX && protection & Protection::EXEC.bits() == 0
}

/// Changes mappings of which there are `count`, later if it cannot fail.
pub(super) fn change_surely(
    context: &mut dyn Context,
    count: usize,
    operations: &[MemoryOp<'_>],
) -> SysResult<()> {
    if count < PROMISED_COUNT { context.memory_later(operations) } else { context.memory(operations) }
}

/// A file, and where in it a mapping begins.
type MappedFile = (Arc<OwnedFd>, u64);

/// Changes that are noted, and carried out all at once: for an address space that nobody uses yet.
#[derive(Default)]
pub struct Plan {
    operations: Vec<(MemoryOp<'static>, Option<MappedFile>)>,
    /// The files, and what they are on the host.
    files: Vec<(Arc<File>, Arc<OwnedFd>)>,
}

impl Plan {
    /// Carries out what was noted.
    pub fn carry_out(&self, context: &mut dyn Context) -> SysResult<()> {
        let operations: Vec<MemoryOp<'_>> = self
            .operations
            .iter()
            .map(|(operation, file)| operation.with_file(file.as_ref().map(|(file, offset)| (file, *offset))))
            .collect();
        context.memory(&operations)?;
        self.files.iter().for_each(|(file, host)| consider_preloading(context, file, host));
        Ok(())
    }
}

impl Mapper for Plan {
    fn change(&mut self, operation: MemoryOp<'_>) -> SysResult<()> {
        let file = match operation {
            MemoryOp::Map { file: Some((file, offset)), .. } => Some((Arc::clone(file), offset)),
            _ => None,
        };
        self.operations.push((operation.with_file(None), file));
        Ok(())
    }

    fn note(&mut self, file: &Arc<File>, host: &Arc<OwnedFd>) {
        if self.files.iter().all(|(_, known)| !Arc::ptr_eq(known, host)) {
            self.files.push((Arc::clone(file), Arc::clone(host)));
        }
    }
}
