//! Patched call sites: a `syscall` instruction that is executed often becomes a jump to a trampoline, from which the stub
//! reports without the host's trapping it.
//!
//! Two patterns are known, and a site that fits neither stays as it is:
//!
//! - `mov $number, %eax; syscall`: the jump replaces the first instruction, of the same length. The `syscall` stays, and
//!   whoever jumps straight to it traps as before.
//! - `syscall` and an instruction of three bytes or more that does the same elsewhere, such as `cmp $constant, %rax`: the jump
//!   replaces the first instruction and three bytes of the second. Code that jumps to the second instruction must not find
//!   the middle of a jump there: the trampoline is placed such that the jump's third byte is no instruction, and the
//!   fault is answered by going on in the trampoline, at its copy of the second instruction ([`Sites::resumed_inside`]). The
//!   same brings those back who were in the system call while it was patched.
//!
//! That the bytes before `syscall` are an instruction of their own, and not the end of a longer one, is taken for proven
//! if the register has the value that it loads and the byte before does not look like the beginning of a longer one.
//!
//! A trampoline tells the stub's entry, in `r11`, where to return to. Before that address there is always a genuine
//! `syscall` instruction, which serves when the fast path cannot be used, and when a system call is restarted.

use std::collections::HashMap;
use std::ops::Range;

use super::layout::*;
use super::{movable, text};

/// Bytes of a trampoline, to which it is aligned.
const TRAMPOLINE_SIZE: u64 = 64;
/// Trampolines in each area.
const TRAMPOLINE_COUNT: usize = (TRAMPOLINES_SIZE / TRAMPOLINE_SIZE) as usize;
/// Bytes of a jump.
const JUMP_SIZE: usize = 5;
/// How many bytes before the end of the `syscall` instruction are looked at,
const BEFORE: usize = 8;
/// and how many behind.
const BEHIND: usize = movable::LENGTH_MAX;
/// The bytes that [`Site::recognise`] looks at.
pub const WINDOW: usize = BEFORE + BEHIND;
/// How often a site has trapped when it is worth patching. It doubles with each attempt, up to the limit.
const HOT: u32 = 8;
const HOT_MAX: u32 = 1 << 20;
/// How many sites of an address space are counted; guests that make ever new ones gain nothing.
const SITES_MAX: usize = 4096;

/// Single bytes that are no instruction in 64-bit mode, whatever follows.
const INVALID: [u8; 18] = [
    0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x60, 0x61, 0x82, 0x9a, 0xce, 0xd4,
    0xea,
];

/// A system call instruction that can be patched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The address behind the instruction.
    after: u64,
    pattern: Pattern,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pattern {
    /// `mov $number, %eax` before it.
    Move(u32),
    /// An instruction behind it that can be moved: its bytes, of which so many count.
    Behind([u8; BEHIND], usize),
}

/// What is to be written, and where.
#[derive(Clone, Debug)]
pub struct Patch {
    /// The trampoline's address.
    pub trampoline: u64,
    /// Its code.
    pub code: Vec<u8>,
    /// The address of the jump.
    pub jump_at: u64,
    /// The bytes that the jump replaces.
    pub original: [u8; 5],
    /// The jump.
    pub jump: [u8; 5],
    /// Where to go on who is behind the `syscall` instruction.
    pub resume: u64,
}

/// The place of the bytes around the `syscall` instruction that ends at `after` that decide about it.
pub fn window(after: u64) -> Range<u64> {
    after.saturating_sub(BEFORE as u64)..after.saturating_add(BEHIND as u64)
}

impl Site {
    /// Looks at the bytes of [`window`], given the call's number.
    pub fn recognise(after: u64, bytes: &[u8; WINDOW], number: u64) -> Option<Site> {
        let syscall = bytes[BEFORE - 2..BEFORE] == [0x0f, 0x05];
        if !syscall {
            return None;
        }
        let loaded = u32::from_le_bytes(bytes[2..6].try_into().ok()?);
        if bytes[1] == 0xb8 && u64::from(loaded) == number && starts_here(bytes[0]) {
            return Some(Site { after, pattern: Pattern::Move(loaded) });
        }
        let behind: [u8; BEHIND] = bytes[BEFORE..].try_into().ok()?;
        let length = movable::length(&behind).filter(|length| *length >= JUMP_SIZE - 2)?;
        Some(Site { after, pattern: Pattern::Behind(behind, length) })
    }

    fn jump_at(&self) -> u64 {
        match self.pattern {
            Pattern::Move(_) => self.after - 7,
            Pattern::Behind(..) => self.after - 2,
        }
    }

    fn original(&self) -> [u8; 5] {
        match self.pattern {
            Pattern::Move(number) => {
                let [a, b, c, d] = number.to_le_bytes();
                [0xb8, a, b, c, d]
            }
            Pattern::Behind([a, b, c, ..], _) => [0x0f, 0x05, a, b, c],
        }
    }

    /// The jump to a trampoline at `address`, if there can be one. Not across pages: the guest may make the host forget
    /// what was written to one of them (`MADV_DONTNEED`), and must then find all of the original code.
    fn jump(&self, address: u64) -> Option<[u8; 5]> {
        if self.jump_at() / PAGE != (self.jump_at() + JUMP_SIZE as u64 - 1) / PAGE {
            return None;
        }
        let distance = address.wrapping_sub(self.jump_at() + 5).cast_signed();
        let [a, b, c, d] = i32::try_from(distance).ok()?.to_le_bytes();
        let fits = matches!(self.pattern, Pattern::Move(_)) || INVALID.contains(&b);
        fits.then_some([0xe9, a, b, c, d])
    }

    /// The trampoline's code, and the address in it (or behind the site) where the call returns to.
    fn trampoline(&self, address: u64) -> Option<(Vec<u8>, u64)> {
        let mut code = Vec::with_capacity(TRAMPOLINE_SIZE as usize);
        let enter = |code: &mut Vec<u8>, resume: u64| {
            code.extend([0x49, 0xbb]); // mov $resume, %r11
            code.extend(resume.to_le_bytes());
            code.extend([0xff, 0x25, 0, 0, 0, 0]); // jmp *0(%rip)
            code.extend(text::call().to_le_bytes());
        };
        match self.pattern {
            Pattern::Move(number) => {
                code.push(0xb8); // mov $number, %eax
                code.extend(number.to_le_bytes());
                enter(&mut code, self.after);
                Some((code, self.after))
            }
            Pattern::Behind(behind, length) => {
                const ENTER: u64 = 24;
                let resume = address + ENTER + 2;
                enter(&mut code, resume);
                code.extend([0x0f, 0x05]); // syscall
                code.extend(behind.get(..length)?);
                code.push(0xe9); // jmp to behind the instruction
                let next = self.after + length as u64;
                let distance = next.wrapping_sub(resume + (length + JUMP_SIZE) as u64).cast_signed();
                code.extend(i32::try_from(distance).ok()?.to_le_bytes());
                Some((code, resume))
            }
        }
    }
}

/// Whether the instruction that follows a byte can be one of its own: false if the byte may well be its prefix, or the
/// opcode or the operand bytes of a longer one that ends with four bytes of displacement or constant.
fn starts_here(before: u8) -> bool {
    let prefix = matches!(before, 0x40..=0x7f | 0xf0 | 0xf2 | 0xf3);
    let operand = before & 0b0100_0111 == 0b0000_0100;
    let opcode = matches!(before, 0x0d | 0x18..=0x1f | 0x69 | 0x8d | 0xb0 | 0xb1 | 0xc7 | 0xf6 | 0xf7);
    !(prefix || operand || opcode)
}

/// The call sites of an address space. A copy of the space has the same.
#[derive(Clone, Debug, Default)]
pub struct Sites {
    /// How often the instructions that end at these addresses have trapped, and when that is next worth a look.
    traps: HashMap<u64, (u32, u32)>,
    /// By the address behind the `syscall` instruction.
    patched: HashMap<u64, Patched>,
    used: Vec<[bool; TRAMPOLINE_COUNT]>,
}

#[derive(Clone, Copy, Debug)]
struct Patched {
    jump_at: u64,
    original: [u8; 5],
    jump: [u8; 5],
    resume: u64,
}

/// A patch that is to be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undo {
    /// Where the jump is.
    pub jump_at: u64,
    /// What was there.
    pub original: [u8; 5],
    /// The jump.
    pub jump: [u8; 5],
}

impl Sites {
    /// Notes that the instruction that ends at `after` has trapped; whether it is time to patch it.
    pub fn trapped(&mut self, after: u64) -> bool {
        if self.traps.len() >= SITES_MAX && !self.traps.contains_key(&after) {
            return false;
        }
        let (count, threshold) = self.traps.entry(after).or_insert((0, HOT));
        *count = count.saturating_add(1);
        let hot = *count >= *threshold;
        if hot {
            (*count, *threshold) = (0, threshold.saturating_mul(4).min(HOT_MAX));
        }
        hot
    }

    /// Plans the patch of a site; `None` if no trampoline is free that fits. [`Sites::done`] follows if it was made.
    pub fn plan(&self, site: &Site) -> Option<Patch> {
        for (area, start) in TRAMPOLINES.into_iter().enumerate() {
            for index in 0..TRAMPOLINE_COUNT {
                if self.used.get(area).is_some_and(|used| used[index]) {
                    continue;
                }
                let address = start + index as u64 * TRAMPOLINE_SIZE;
                let Some(jump) = site.jump(address) else { continue };
                let Some((code, resume)) = site.trampoline(address) else { continue };
                let (jump_at, original) = (site.jump_at(), site.original());
                return Some(Patch { trampoline: address, code, jump_at, original, jump, resume });
            }
        }
        None
    }

    /// Notes that a patch has been made.
    pub fn done(&mut self, site: &Site, patch: &Patch) {
        let &Patch { jump_at, original, jump, resume, trampoline, .. } = patch;
        self.patched.insert(site.after, Patched { jump_at, original, jump, resume });
        self.used.resize(TRAMPOLINES.len(), [false; TRAMPOLINE_COUNT]);
        for (area, start) in TRAMPOLINES.into_iter().enumerate() {
            if (start..start + TRAMPOLINES_SIZE).contains(&trampoline) {
                self.used[area][((trampoline - start) / TRAMPOLINE_SIZE) as usize] = true;
            }
        }
    }

    /// Where somebody is to go on who has run into what a patch has left of the instruction at `address`; with the jump's
    /// place and its bytes, which must be there still.
    pub fn resumed_inside(&self, address: u64) -> Option<(u64, u64, [u8; 5])> {
        let patched = self.patched.get(&address)?;
        let inside = patched.jump_at + 2 == address;
        inside.then_some((patched.resume, patched.jump_at, patched.jump))
    }

    /// What must be undone so that the code in `range` is as it was. [`Sites::forget`] follows if it was.
    pub fn undo(&self, range: &Range<u64>) -> Vec<Undo> {
        let inside = self.patched.values().filter(|patched| patched.is_in(range));
        inside.map(|&Patched { jump_at, original, jump, .. }| Undo { jump_at, original, jump }).collect()
    }

    /// Forgets the patches of sites in `range`.
    pub fn forget(&mut self, range: &Range<u64>) {
        self.patched.retain(|_, patched| !patched.is_in(range));
    }
}

impl Patched {
    fn is_in(&self, range: &Range<u64>) -> bool {
        range.start < self.jump_at + 5 && self.jump_at < range.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Mnemonic};

    const LIBRARY: u64 = 0x7fef_f7f0_1230;

    fn window_of(before: [u8; 8], behind: &[u8]) -> [u8; WINDOW] {
        let mut bytes = [0; WINDOW];
        bytes[..8].copy_from_slice(&before);
        bytes[8..8 + behind.len()].copy_from_slice(behind);
        bytes
    }

    fn site_before(after: u64, behind: &[u8]) -> Option<Site> {
        Site::recognise(after, &window_of([0, 0, 0, 0, 0x31, 0xc0, 0x0f, 0x05], behind), 0)
    }

    fn compare_site(after: u64) -> Site {
        site_before(after, &[0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff]).expect("a known pattern")
    }

    #[test]
    fn a_move_is_recognised_only_where_it_is_an_instruction() {
        let site = |before: u8, number| {
            let bytes = window_of([before, 0xb8, 39, 0, 0, 0, 0x0f, 0x05], &[0xc3; 6]);
            Site::recognise(LIBRARY, &bytes, number)
        };
        assert_eq!(site(0xfa, 39).map(|site| site.pattern), Some(Pattern::Move(39)));
        // The register holds something else; a longer instruction: mov $39, %r8d; lea 39(%rax), %edi; movl $39, (…).
        assert_eq!(site(0xfa, 38), None);
        assert_eq!(site(0xfa, 39 | 1 << 32), None);
        for before in [0x41, 0x49, 0x8d, 0x45, 0x84, 0x04, 0x66] {
            assert_eq!(site(before, 39), None, "{before:#x}");
        }
    }

    #[test]
    fn what_can_be_moved_is_recognised_and_other_things_are_not() {
        let length = |behind: &[u8]| match site_before(LIBRARY, behind).map(|site| site.pattern) {
            Some(Pattern::Behind(_, length)) => Some(length),
            _ => None,
        };
        assert_eq!(length(&[0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff]), Some(6));
        // cmp $-1, %rax; cmpb $0, 0x8f8(%rbx)
        assert_eq!(length(&[0x48, 0x83, 0xf8, 0xff]), Some(4));
        assert_eq!(length(&[0x80, 0xbb, 0xf8, 0x08, 0, 0, 0]), Some(7));
        // Too short: mov %eax, %edx; not the same elsewhere: mov 16(%rip), %eax; je; ret.
        for behind in [&[0x89, 0xc2][..], &[0x8b, 0x05, 16, 0, 0, 0], &[0x0f, 0x84, 16, 0, 0, 0], &[0xc3]] {
            assert_eq!(length(behind), None, "{behind:x?}");
        }
        let bytes = window_of([0, 0xb8, 39, 0, 0, 0, 0xcd, 0x80], &[0xc3; 6]);
        assert_eq!(Site::recognise(LIBRARY, &bytes, 39), None);
    }

    #[test]
    fn what_is_left_of_an_instruction_is_none() {
        let mut sites = Sites::default();
        for number in 0..200 {
            let site = compare_site(LIBRARY - number * 37);
            let patch = sites.plan(&site).expect("a trampoline");
            let mut left = vec![patch.jump[2], patch.jump[3], patch.jump[4]];
            left.extend([0xf0, 0xff, 0xff, 0x90, 0x90, 0x90, 0x90]);
            let instruction = Decoder::new(64, &left, DecoderOptions::NONE).decode();
            assert!(instruction.is_invalid(), "{left:x?}");
            sites.done(&site, &patch);
            assert_eq!(sites.resumed_inside(site.after), Some((patch.resume, site.after - 2, patch.jump)));
            assert_eq!(sites.resumed_inside(site.after - 2), None);
        }
    }

    #[test]
    fn jumps_and_trampolines_lead_where_they_should() {
        let low = 0x40_1080;
        let bytes = window_of([0xfa, 0xb8, 39, 0, 0, 0, 0x0f, 0x05], &[0xc3; 6]);
        let moves = [LIBRARY, low].map(|after| Site::recognise(after, &bytes, 39).expect("a known pattern"));
        // cmp %fs:40, %rax; cmpl $1, 0x12345678(%r12)
        let longer: [&[u8]; 2] = [
            &[0x64, 0x48, 0x3b, 0x04, 0x25, 40, 0, 0, 0],
            &[0x41, 0x81, 0xbc, 0x24, 0x78, 0x56, 0x34, 0x12, 1],
        ];
        let longer = longer.map(|behind| site_before(LIBRARY, behind).expect("a known pattern"));
        for site in moves.into_iter().chain([LIBRARY, low].map(compare_site)).chain(longer) {
            let patch = Sites::default().plan(&site).expect("a trampoline");
            let jump = Decoder::with_ip(64, &patch.jump, patch.jump_at, DecoderOptions::NONE).decode();
            assert_eq!(jump.near_branch_target(), patch.trampoline);
            assert!(patch.code.len() <= TRAMPOLINE_SIZE as usize);
            // It enters the stub by the address that follows the jump.
            let enter = patch.code.windows(2).position(|pair| pair == [0xff, 0x25]).expect("a jump") + 6;
            assert_eq!(patch.code[enter..enter + 8], text::call().to_le_bytes());
            // A genuine system call lies before the return address, and what was behind the site's behind that.
            if site.after != patch.resume {
                let (rest, from) = (&patch.code[enter + 8..], patch.trampoline + enter as u64 + 8);
                let decoded: Vec<_> =
                    Decoder::with_ip(64, rest, from, DecoderOptions::NONE).into_iter().collect();
                let mnemonics: Vec<_> = decoded.iter().map(|instruction| instruction.mnemonic()).collect();
                assert_eq!(mnemonics, [Mnemonic::Syscall, Mnemonic::Cmp, Mnemonic::Jmp]);
                assert_eq!(decoded[0].next_ip(), patch.resume);
                let length = decoded[1].len() as u64;
                assert_eq!(decoded[2].near_branch_target(), site.after + length);
            }
        }
    }

    #[test]
    fn sites_out_of_reach_stay_as_they_are() {
        assert!(Sites::default().plan(&compare_site(0x5555_5555_6000)).is_none());
    }

    #[test]
    fn jumps_across_pages_are_not_made() {
        let page = LIBRARY & !(PAGE - 1);
        let planned = |jump_at: u64| Sites::default().plan(&compare_site(jump_at + 2)).is_some();
        assert!(planned(page - 5) && planned(page));
        assert!((1..5).all(|before| !planned(page - before)));
    }

    #[test]
    fn trampolines_run_out_without_harm() {
        let mut sites = Sites::default();
        let planned = (0..5000)
            .filter(|index| {
                let site = compare_site(LIBRARY - index * 16);
                let patch = sites.plan(&site);
                patch.inspect(|patch| sites.done(&site, patch)).is_some()
            })
            .count();
        assert!(planned > 50 && planned <= TRAMPOLINE_COUNT);
    }

    #[test]
    fn hot_sites_are_looked_at_ever_more_rarely() {
        let mut sites = Sites::default();
        let looks = (0..10_000).filter(|_| sites.trapped(LIBRARY)).count();
        assert!((4..=7).contains(&looks), "{looks}");
    }

    #[test]
    fn forgotten_sites_say_what_was_there() {
        let mut sites = Sites::default();
        let site = compare_site(LIBRARY);
        let patch = sites.plan(&site).expect("a trampoline");
        sites.done(&site, &patch);
        assert!(sites.undo(&(LIBRARY + 0x1000..LIBRARY + 0x2000)).is_empty());
        let range = LIBRARY - 0x1000..LIBRARY;
        let Undo { jump_at, original, .. } = sites.undo(&range)[0];
        assert_eq!((jump_at, original), (LIBRARY - 2, [0x0f, 0x05, 0x48, 0x3d, 0x01]));
        sites.forget(&range);
        assert!(sites.resumed_inside(LIBRARY).is_none());
    }
}
