//! Registers in the shapes that `ptrace(2)` has for them.

use abi::{Errno, SysResult};
use platform::registers::{USER_CS, USER_EFLAGS, USER_SS};
use platform::{Context, Registers};
use zerocopy::{FromBytes, IntoBytes};

/// Bytes of the general registers, at the start of `struct user`.
pub const GENERAL: usize = size_of::<Registers>();
/// Bytes of `struct user`.
pub const USER: usize = 928;
/// Where the debug registers are in it.
pub const DEBUG: usize = 848;
/// The control register among them.
pub const DEBUG_CONTROL: usize = DEBUG + 7 * 8;
/// Bytes of the state that `FXSAVE` saves.
pub const FPU_LEGACY: usize = 512;
/// The part of it that is software's: of a signal frame, or of a register set.
const SOFTWARE: std::ops::Range<usize> = 464..FPU_LEGACY;
/// Where a signal frame, and where a register set, names the saved components.
const FRAME_FEATURES: usize = 472;
const SET_FEATURES: usize = 464;
/// Where a signal frame has the size of the state, without what ends it.
const FRAME_SIZE: usize = 480;
/// Where the header of the extended state names the components in use; the legacy state is the first two.
const HEADER: usize = FPU_LEGACY;
const LEGACY_COMPONENTS: u64 = 3;

/// Changes general registers as a tracer asks for: what it may not choose stays, what cannot be is refused (`EIO`).
pub fn set_general(registers: &mut Registers, wanted: &Registers) -> SysResult<()> {
    const END: u64 = 0x7fff_ffff_f000;
    if wanted.fs_base >= END || wanted.gs_base >= END || wanted.cs & 3 != 3 || wanted.ss & 3 != 3 {
        return Err(Errno::EIO);
    }
    let eflags = (registers.eflags & !USER_EFLAGS) | (wanted.eflags & USER_EFLAGS);
    *registers = Registers { eflags, cs: USER_CS, ss: USER_SS, ds: 0, es: 0, fs: 0, gs: 0, ..*wanted };
    Ok(())
}

/// Overwrites the beginning of the general registers by `bytes`.
pub fn patch_general(registers: &mut Registers, offset: usize, bytes: &[u8]) -> SysResult<()> {
    let mut wanted = *registers;
    wanted.as_mut_bytes().get_mut(offset..offset + bytes.len()).ok_or(Errno::EIO)?.copy_from_slice(bytes);
    let (cs, ss) = (wanted.cs | 3, wanted.ss | 3);
    let checked = if offset == 0 && bytes.len() == GENERAL { wanted } else { Registers { cs, ss, ..wanted } };
    set_general(registers, &checked)
}

/// The FPU state as `FXSAVE` lays it out.
pub fn legacy_fpu(context: &dyn Context) -> Vec<u8> {
    let mut state = context.fpu();
    state.truncate(FPU_LEGACY);
    state.resize(FPU_LEGACY, 0);
    state[SOFTWARE].fill(0);
    state
}

/// The FPU state as `XSAVE` lays it out, with the components that there are where software's bytes begin.
pub fn extended_fpu(context: &dyn Context) -> Vec<u8> {
    let mut state = context.fpu();
    if state.len() < FPU_LEGACY {
        return legacy_fpu(context);
    }
    let features = <[u8; 8]>::try_from(&state[FRAME_FEATURES..FRAME_FEATURES + 8]).unwrap_or_default();
    let size = <[u8; 4]>::try_from(&state[FRAME_SIZE..FRAME_SIZE + 4]).map_or(0, u32::from_le_bytes);
    state.truncate(usize::try_from(size).unwrap_or(0).max(FPU_LEGACY));
    state[SOFTWARE].fill(0);
    state[SET_FEATURES..SET_FEATURES + 8].copy_from_slice(&features);
    state
}

/// Replaces the beginning of the FPU state.
pub fn set_fpu(context: &mut dyn Context, bytes: &[u8], extended: bool) -> SysResult<()> {
    let mut state = context.fpu();
    let software = state.get(SOFTWARE).ok_or(Errno::EIO)?.to_vec();
    let length = bytes.len().min(state.len());
    state[..length].copy_from_slice(&bytes[..length]);
    state[SOFTWARE].copy_from_slice(&software);
    if !extended && let Some(header) = state.get_mut(HEADER..HEADER + 8) {
        let used = u64::read_from_bytes(&*header).unwrap_or_default() | LEGACY_COMPONENTS;
        header.copy_from_slice(used.as_bytes());
    }
    context.set_fpu(Some(&state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracer_cannot_give_rights_by_registers() {
        let mut registers = Registers::initial();
        let wild = Registers { eflags: u64::MAX, rip: 7, ..Registers::initial() };
        set_general(&mut registers, &wild).expect("fine but for the flags");
        assert_eq!((registers.eflags & !USER_EFLAGS, registers.rip), (0x202, 7));
        let kernel = Registers { cs: 0x10, ..Registers::initial() };
        assert_eq!(set_general(&mut registers, &kernel), Err(Errno::EIO));
        let high = Registers { fs_base: 1 << 63, ..Registers::initial() };
        assert_eq!(set_general(&mut registers, &high), Err(Errno::EIO));
        assert_eq!(patch_general(&mut registers, GENERAL, &[0; 8]), Err(Errno::EIO));
        patch_general(&mut registers, 128, &9u64.to_ne_bytes()).expect("the instruction pointer");
        assert_eq!(registers.rip, 9);
    }
}
