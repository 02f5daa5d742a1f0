//! Changing code in a stub: patches of call sites, and taking them back.

use std::ops::Range;
use std::sync::atomic::Ordering;

use abi::{Errno, SysResult};

use super::{StubContext, place_of_record};
use crate::stub::layout::*;
use crate::stub::memory;
use crate::stub::patch::{self, Code, Patch, Site};
use crate::{AddressSpace, MemoryOp};

/// The protection of code that is patched; the guest may write to it later.
const CODE: u32 = (libc::PROT_READ | libc::PROT_EXEC) as u32;

/// When code is written.
enum When {
    Now,
    /// Before the guest goes on.
    Later,
}

impl StubContext {
    /// Leads a thread on that has run into the middle of a jump where there was an instruction once.
    pub(super) fn skip_patch(&mut self) -> bool {
        let resumed = self.space.sites.lock().resumed_inside(self.registers.rip);
        let Some((resume, jump)) = resumed else { return false };
        let patched = self.space.has_code(jump.at, jump.after());
        if patched {
            self.registers.rip = resume;
        }
        patched
    }

    /// Patches those of the sites that end at the given addresses in which `recognise`, given an index and the code around,
    /// finds one that can be; returns how many. `protection` is that of the mapping that they lie in.
    pub(super) fn patch_sites(
        &mut self,
        protection: u32,
        ends: &[u64],
        mut recognise: impl FnMut(usize, &Code) -> Option<Site>,
    ) -> SysResult<usize> {
        if self.writes_code.get() {
            // What other patches leave of the code decides about these; and their bytes lie where the next records would go.
            self.flush();
        }
        let space = self.space.clone();
        let mut sites = space.sites.lock();
        let Some(_stopped) = space.stop_others() else { return Err(Errno::EAGAIN) };
        let mut around: Vec<Code> = ends.iter().map(|after| Code::around(*after)).collect();
        let mut pieces: Vec<_> = around.iter_mut().map(|code| (code.start, &mut code.bytes[..])).collect();
        if !space.read_pieces(&mut pieces) {
            return Ok(0);
        }
        let patches: Vec<(u64, Patch)> = around
            .iter()
            .enumerate()
            .filter_map(|(index, code)| {
                let site = recognise(index, code)?;
                Some((site.end(), sites.plan(&site)?))
            })
            .collect();
        if patches.is_empty() {
            return Ok(0);
        }
        let trampolines = patches.iter().map(|(_, patch)| (patch.trampoline, &patch.code[..]));
        let edits = patches.iter().flat_map(|(_, patch)| patch.detour.iter().chain([&patch.jump]));
        let pieces: Vec<(u64, &[u8])> =
            trampolines.chain(edits.map(|edit| (edit.at, edit.after()))).collect();
        // Later only where nobody could see that it has not been done yet, and where it cannot fail.
        let later = space.shared.mapping_lasts && space.is_single();
        let when = if later { When::Later } else { When::Now };
        self.write_code(&pieces, protection.cast_signed(), when)?;
        space.shared.counters.sites.fetch_add(patches.len() as u64, Ordering::Relaxed);
        if let Some((_, patch)) = patches.iter().find(|(after, _)| *after == self.registers.rip) {
            self.registers.rip = patch.resume;
        }
        Ok(patches.len())
    }

    /// Writes over code, while no guest code runs in this address space: at once, or when the guest goes on, for which no other
    /// code may be waiting. `protection` is that of the mapping that all of it is in, but for what is the platform's.
    fn write_code(&self, pieces: &[(u64, &[u8])], protection: i32, when: When) -> SysResult<()> {
        // Behind what is to be done before.
        let before = match when {
            When::Later => self.pending.get(),
            When::Now => 0,
        };
        if before == 0 {
            self.flush();
        }
        self.ready()?;
        let spans = patch::spans(pieces);
        let protect = |span: &Range<u64>, protection: i32, flags: u64| -> memory::Call {
            let protection = protection.cast_unsigned().into();
            [libc::SYS_mprotect as u64, span.start, span.end - span.start, protection, 0, 0, 0, flags]
        };
        let writable = |span| protect(span, libc::PROT_READ | libc::PROT_WRITE, 0);
        let as_before = |span: &Range<u64>| {
            let own =
                if GUEST.contains(&span.start) { protection } else { libc::PROT_READ | libc::PROT_EXEC };
            protect(span, own, CALL_ALWAYS)
        };
        let count = before + pieces.len() + 2 * spans.len();
        let mut bytes = Vec::new();
        let copy = |&(address, piece): &(u64, &[u8])| -> memory::Call {
            let place = slot_address(self.slot().index) + place_of_record(count) + bytes.len() as u64;
            bytes.extend_from_slice(piece);
            [0, address, place, piece.len() as u64, 0, 0, 0, CALL_COPY]
        };
        let copies: Vec<memory::Call> = pieces.iter().map(copy).collect();
        if count * CALL_SIZE + bytes.len() > BUFFER_SIZE {
            return Err(Errno::E2BIG);
        }
        let records: Vec<memory::Call> =
            spans.iter().map(writable).chain(copies).chain(spans.iter().map(as_before)).collect();
        self.put_records(before, &records);
        self.slot().memory().write(BUFFER + count * CALL_SIZE, &bytes);
        match when {
            When::Now => self.call_recorded(count),
            When::Later => {
                self.pending.set(count);
                self.writes_code.set(true);
                Ok(())
            }
        }
    }

    /// Restores the code that must not be patched any more when this happens to the memory.
    pub(super) fn undo_patches(&mut self, operation: &MemoryOp<'_>) -> SysResult<()> {
        let range = |start: u64, length: u64| start..start.saturating_add(length);
        let space = self.space.clone();
        let mut sites = space.sites.lock();
        let undone = match *operation {
            // A jump is right in one place only.
            MemoryOp::Remap { from, from_length, to, to_length, .. } => {
                let mut undone = sites.moved(&range(from, from_length));
                undone.extend(sites.torn(&range(to, to_length)));
                undone
            }
            MemoryOp::Map { address, length, .. }
            | MemoryOp::Unmap { address, length }
            | MemoryOp::Advise { address, length, .. } => sites.torn(&range(address, length)),
            // It could not be found out later whether it is patched, or not be undone and everything else be as before.
            MemoryOp::Protect { address, length, protection } if protection & CODE != CODE => {
                sites.moved(&range(address, length))
            }
            MemoryOp::Protect { .. } => Vec::new(),
        };
        if undone.is_empty() {
            return Ok(());
        }
        self.flush();
        let Some(_stopped) = space.stop_others() else { return Err(Errno::EAGAIN) };
        for edit in undone.into_iter().flat_map(|jump| sites.forget(jump).collect::<Vec<_>>()) {
            if space.has_code(edit.at, edit.after())
                && space.write(edit.at, edit.before()) < edit.before().len()
            {
                self.write_code(&[(edit.at, edit.before())], CODE.cast_signed(), When::Now)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Context;
    use crate::stub::common::{self, RX, platform};

    #[test]
    fn what_cannot_be_written_is_told_and_stops_nothing() {
        let platform = platform();
        let mut context = platform.shared.create(None).expect("a stub");
        let file = host::rustix::fs::memfd_create("code", host::rustix::fs::MemfdFlags::CLOEXEC);
        let file = Arc::new(file.expect("a file"));
        let map = MemoryOp::Map {
            address: common::CODE,
            length: 2 * PAGE,
            protection: RX,
            shared: false,
            flags: 0,
            file: Some((&file, 0)),
        };
        context.memory(&[map]).expect("mapped");
        let protection = libc::PROT_READ | libc::PROT_EXEC;
        let write = |context: &StubContext, address| {
            context.write_code(&[(address, b"some"), (address + 10, b"code")], protection, When::Now)
        };
        // Nothing is behind the end of the file, and nothing is mapped there at all.
        assert_eq!(write(&context, common::CODE), Err(Errno::EFAULT));
        assert_eq!(write(&context, common::CODE + 2 * PAGE), Err(Errno::ENOMEM));
        host::rustix::fs::ftruncate(&file, 2 * PAGE).expect("longer");
        assert_eq!(write(&context, common::CODE), Ok(()));
        let mut found = [0; 14];
        assert!(context.space.read_code(common::CODE, &mut found));
        assert_eq!(&found, b"some\0\0\0\0\0\0code");
        // It cannot be written to any more: that is told, and nothing changes.
        let place = slot_address(context.slot().index) + BUFFER as u64;
        let copy = |to| context.calls(&[[0, to, place, 4, 0, 0, 0, CALL_COPY]]);
        assert_eq!(copy(common::CODE + PAGE), Err(Errno::EFAULT));
        assert!(context.space.has_code(common::CODE + PAGE, &[0; 4]));
    }
}
