//! Patched call sites: a `syscall` instruction that is executed often becomes a jump to a trampoline, from which the stub
//! reports without the host's trapping it.
//!
//! Three patterns are known, and a site that fits none stays as it is:
//!
//! - `mov $number, %eax; syscall`: the jump replaces the first instruction, of the same length. The `syscall` stays, and
//!   whoever jumps straight to it traps as before.
//! - A long `nop` nearby, as compilers put them between functions and before loops: five of its bytes say what it does not
//!   access, and the processor ignores them. They become the jump, and the `syscall` becomes a short jump to it. Whoever
//!   executes the `nop` finds one still, and no other instruction has changed.
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
/// Bytes of a short jump, and of a `syscall` instruction.
const SHORT_SIZE: u64 = 2;
/// How many bytes before the end of the `syscall` instruction tell what it is,
const BEFORE: usize = 8;
/// and how many behind.
const BEHIND: usize = movable::LENGTH_MAX;
/// The bytes that tell.
pub const WINDOW: usize = BEFORE + BEHIND;
/// How far a short jump reaches.
const REACH: u64 = 128;
/// A long `nop`,
const NOP: [u8; 8] = [0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0];
/// and where in it the [`JUMP_SIZE`] bytes of its operand begin.
const NOP_OPERAND: u64 = 3;
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
    /// The operand of a `nop`, at this address.
    Nop(u64),
    /// An instruction behind it that can be moved: its bytes, of which so many count.
    Behind([u8; BEHIND], usize),
}

/// A change of a few bytes of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Where.
    pub at: u64,
    before: [u8; JUMP_SIZE],
    after: [u8; JUMP_SIZE],
    length: usize,
}

impl Edit {
    fn new<const LENGTH: usize>(at: u64, before: [u8; LENGTH], after: [u8; LENGTH]) -> Edit {
        let padded =
            |bytes: [u8; LENGTH]| std::array::from_fn(|index| bytes.get(index).copied().unwrap_or(0));
        Edit { at, before: padded(before), after: padded(after), length: LENGTH }
    }

    /// The bytes that are replaced.
    pub fn before(&self) -> &[u8] {
        &self.before[..self.length]
    }

    /// The bytes that are there from then on.
    pub fn after(&self) -> &[u8] {
        &self.after[..self.length]
    }
}

/// What is to be written, and where.
#[derive(Clone, Debug)]
pub struct Patch {
    /// The trampoline's address.
    pub trampoline: u64,
    /// Its code.
    pub code: Vec<u8>,
    /// The jump out of a `nop`, to which another leads.
    pub detour: Option<Edit>,
    /// The jump at the site.
    pub jump: Edit,
    /// Where to go on who is behind the `syscall` instruction.
    pub resume: u64,
}

/// The place of the bytes around the `syscall` instruction that ends at `after` that tell what it is.
pub fn window(after: u64) -> Range<u64> {
    after.saturating_sub(BEFORE as u64)..after.saturating_add(BEHIND as u64)
}

/// The end of the `syscall` instruction around which `window` lies.
pub fn end_of_call(window: u64) -> u64 {
    window.saturating_add(BEFORE as u64)
}

/// Bytes of code.
#[derive(Clone, Debug)]
pub struct Code {
    /// Where they are.
    pub start: u64,
    /// What they are.
    pub bytes: Vec<u8>,
}

impl Code {
    /// Room for the bytes that decide about the `syscall` instruction that ends at `after`: those of [`window`], and what is
    /// within reach on the page of the instruction's last byte.
    pub fn around(after: u64) -> Code {
        let (window, page) = (window(after), page_of(after.saturating_sub(1)));
        let start = after.saturating_sub(REACH + 8).max(page.start).min(window.start);
        let end = after.saturating_add(REACH + 8).min(page.end).max(window.end);
        Code { start, bytes: vec![0; usize::try_from(end - start).unwrap_or(0)] }
    }

    /// The bytes at an address.
    fn at<const LENGTH: usize>(&self, address: u64) -> Option<[u8; LENGTH]> {
        let start = usize::try_from(address.checked_sub(self.start)?).ok()?;
        self.bytes.get(start..start.checked_add(LENGTH)?)?.try_into().ok()
    }

    /// The bytes of [`window`].
    pub fn window(&self, after: u64) -> Option<[u8; WINDOW]> {
        self.at(window(after).start)
    }

    /// The operand of a `nop` that a short jump which ends at `after` reaches, on the page that this ends on, but for those that
    /// are taken.
    fn nop(&self, after: u64, taken: &[u64]) -> Option<u64> {
        let page = page_of(after - 1);
        let start = page.start.max(self.start);
        let bytes = self.bytes.get(usize::try_from(start - self.start).ok()?..)?;
        let places = bytes.windows(NOP.len()).zip(start..page.end - NOP.len() as u64 + 1);
        let mut operands = places.filter(|(bytes, _)| *bytes == NOP).map(|(_, place)| place + NOP_OPERAND);
        operands.find(|operand| {
            let distance = operand.wrapping_sub(after).cast_signed();
            i8::try_from(distance).is_ok() && !taken.contains(operand)
        })
    }
}

fn page_of(address: u64) -> Range<u64> {
    let start = address & !(PAGE - 1);
    start..start.saturating_add(PAGE)
}

impl Site {
    /// Looks at [`Code::around`] the instruction that ends at `after`, given the call's number. Operands that are taken by others
    /// are not used.
    pub fn recognise(after: u64, code: &Code, number: u64, taken: &[u64]) -> Option<Site> {
        let bytes = code.window(after)?;
        let syscall = bytes[BEFORE - 2..BEFORE] == [0x0f, 0x05];
        if !syscall {
            return None;
        }
        let loaded = u32::from_le_bytes(bytes[2..6].try_into().ok()?);
        if bytes[1] == 0xb8 && u64::from(loaded) == number && starts_here(bytes[0]) {
            return Some(Site { after, pattern: Pattern::Move(loaded) });
        }
        if let Some(operand) = code.nop(after, taken) {
            return Some(Site { after, pattern: Pattern::Nop(operand) });
        }
        let behind: [u8; BEHIND] = bytes[BEFORE..].try_into().ok()?;
        let length = movable::length(&behind).filter(|length| *length >= JUMP_SIZE - 2)?;
        Some(Site { after, pattern: Pattern::Behind(behind, length) })
    }

    /// The address behind the instruction.
    pub fn end(&self) -> u64 {
        self.after
    }

    /// The operand that the patch takes.
    pub fn operand(&self) -> Option<u64> {
        match self.pattern {
            Pattern::Nop(operand) => Some(operand),
            _ => None,
        }
    }

    /// The place of the jump to the trampoline.
    fn jump_at(&self) -> u64 {
        match self.pattern {
            Pattern::Move(_) => self.after - 7,
            Pattern::Nop(operand) => operand,
            Pattern::Behind(..) => self.after - 2,
        }
    }

    fn original(&self) -> [u8; JUMP_SIZE] {
        match self.pattern {
            Pattern::Move(number) => {
                let [a, b, c, d] = number.to_le_bytes();
                [0xb8, a, b, c, d]
            }
            Pattern::Nop(_) => [0; JUMP_SIZE],
            Pattern::Behind([a, b, c, ..], _) => [0x0f, 0x05, a, b, c],
        }
    }

    /// The jump to a trampoline at `address`, if there can be one.
    fn jump(&self, address: u64) -> Option<Edit> {
        let at = self.jump_at();
        let distance = address.wrapping_sub(at + 5).cast_signed();
        let [a, b, c, d] = i32::try_from(distance).ok()?.to_le_bytes();
        let fits = !matches!(self.pattern, Pattern::Behind(..)) || INVALID.contains(&b);
        fits.then(|| Edit::new(at, self.original(), [0xe9, a, b, c, d]))
    }

    /// What is to be written for a trampoline at `address`, if there can be one.
    fn patch(&self, address: u64) -> Option<Patch> {
        let jump = self.jump(address)?;
        let (code, resume) = self.trampoline(address)?;
        let (detour, jump) = match self.pattern {
            Pattern::Nop(operand) => {
                let distance = i8::try_from(operand.wrapping_sub(self.after).cast_signed()).ok()?;
                let [distance] = distance.to_le_bytes();
                (Some(jump), Edit::new(self.after - SHORT_SIZE, [0x0f, 0x05], [0xeb, distance]))
            }
            _ => (None, jump),
        };
        Some(Patch { trampoline: address, code, detour, jump, resume })
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
            Pattern::Nop(_) | Pattern::Behind(..) => {
                const ENTER: u64 = 24;
                let (behind, length) = match self.pattern {
                    Pattern::Behind(behind, length) => (behind, length),
                    _ => ([0; BEHIND], 0),
                };
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

/// Gaps of so many bytes between pages that are written to are made writable with them: each range is a system call.
const GAP: u64 = 64 * PAGE;

/// The ranges of whole pages that have all the pieces, few and not much larger.
pub fn spans(pieces: &[(u64, &[u8])]) -> Vec<Range<u64>> {
    let pages = |(address, bytes): &(u64, &[u8])| {
        let end = address + bytes.len() as u64;
        address & !(PAGE - 1)..end.next_multiple_of(PAGE)
    };
    let mut all: Vec<Range<u64>> = pieces.iter().map(pages).collect();
    all.sort_unstable_by_key(|range| range.start);
    let mut spans: Vec<Range<u64>> = Vec::new();
    for range in all {
        match spans.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(GAP) && !crosses(last, &range) => {
                last.end = last.end.max(range.end);
            }
            _ => spans.push(range),
        }
    }
    spans
}

/// Whether there is the border between the guest's memory and the platform's between two ranges.
fn crosses(first: &Range<u64>, second: &Range<u64>) -> bool {
    GUEST.contains(&first.start) != GUEST.contains(&second.start)
}

/// The call sites of an address space. A copy of the space has the same.
#[derive(Clone, Debug, Default)]
pub struct Sites {
    /// How often the instructions that end at these addresses have trapped, and when that is next worth a look.
    traps: HashMap<u64, (u32, u32)>,
    /// By the address of the jump.
    patched: HashMap<u64, Patched>,
    used: Vec<[bool; TRAMPOLINE_COUNT]>,
}

#[derive(Clone, Copy, Debug)]
struct Patched {
    detour: Option<Edit>,
    jump: Edit,
    resume: u64,
}

impl Sites {
    /// Notes that the instruction that ends at `after` has trapped; what that means.
    pub fn trapped(&mut self, after: u64) -> Heat {
        if self.traps.len() >= SITES_MAX && !self.traps.contains_key(&after) {
            return Heat::Old;
        }
        let (count, threshold) = self.traps.entry(after).or_insert((0, HOT));
        *count = count.saturating_add(1);
        if *count < *threshold {
            return if *threshold == HOT { Heat::New } else { Heat::Old };
        }
        (*count, *threshold) = (0, threshold.saturating_mul(4).min(HOT_MAX));
        Heat::Hot
    }

    /// Plans the patch of a site, and notes it; `None` if no trampoline is free that fits.
    pub fn plan(&mut self, site: &Site) -> Option<Patch> {
        self.used.resize(TRAMPOLINES.len(), [false; TRAMPOLINE_COUNT]);
        for (used, start) in self.used.iter_mut().zip(TRAMPOLINES) {
            for (index, used) in used.iter_mut().enumerate().filter(|(_, used)| !**used) {
                let Some(patch) = site.patch(start + index as u64 * TRAMPOLINE_SIZE) else { continue };
                *used = true;
                let Patch { detour, jump, resume, .. } = patch;
                self.patched.insert(jump.at, Patched { detour, jump, resume });
                return Some(patch);
            }
        }
        None
    }

    /// Where somebody is to go on who has run into what a patch has left of the instruction at `address`; with the jump,
    /// which must be there still.
    pub fn resumed_inside(&self, address: u64) -> Option<(u64, Edit)> {
        let Patched { jump, resume, .. } = self.patched.get(&address.checked_sub(SHORT_SIZE)?)?;
        (jump.length == JUMP_SIZE).then_some((*resume, *jump))
    }

    /// The jumps of patches that must be undone before pages are moved.
    pub fn moved(&self, pages: &Range<u64>) -> Vec<u64> {
        self.jumps(|patched| overlap(&patched.pages(), pages))
    }

    /// The jumps of patches that must be undone before something happens to pages after which the host may have forgotten what
    /// was written to them (`MADV_DONTNEED`): all that is on other pages, too. The guest must then find all of the original code,
    /// or none.
    pub fn torn(&self, pages: &Range<u64>) -> Vec<u64> {
        self.jumps(|patched| {
            let own = patched.pages();
            let whole = pages.start <= own.start && own.end <= pages.end;
            overlap(&own, pages) && !whole
        })
    }

    fn jumps(&self, wanted: impl Fn(&Patched) -> bool) -> Vec<u64> {
        let jumps = self.patched.iter().filter(|(_, patched)| wanted(patched));
        jumps.map(|(jump, _)| *jump).collect()
    }

    /// Forgets the patch with a jump at this address; what is to be written over so that the code is as it was, in order.
    pub fn forget(&mut self, jump: u64) -> impl Iterator<Item = Edit> + use<> {
        let patched = self.patched.remove(&jump);
        patched.into_iter().flat_map(|patched| [Some(patched.jump), patched.detour]).flatten()
    }
}

/// What a trap means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heat {
    /// The instruction has trapped a few times.
    New,
    /// It is worth patching.
    Hot,
    /// It was worth patching before, to no avail.
    Old,
}

impl Patched {
    /// From the first page that was written to, to the last.
    fn pages(&self) -> Range<u64> {
        let edits = [self.detour.unwrap_or(self.jump), self.jump];
        let start = edits.iter().map(|edit| edit.at).min().unwrap_or_default();
        let last = edits.iter().map(|edit| edit.at + edit.length as u64 - 1).max().unwrap_or_default();
        page_of(start).start..page_of(last).end
    }
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Mnemonic};

    const LIBRARY: u64 = 0x7fef_f7f0_1230;

    fn code_of(after: u64, before: [u8; 8], behind: &[u8]) -> Code {
        let mut code = Code::around(after);
        put(&mut code, after - 8, &before);
        put(&mut code, after, behind);
        code
    }

    /// Puts as many of the bytes there as are looked at.
    fn put(code: &mut Code, at: u64, bytes: &[u8]) {
        for (address, byte) in (at..).zip(bytes) {
            let place = address.checked_sub(code.start).and_then(|index| code.bytes.get_mut(index as usize));
            place.into_iter().for_each(|place| *place = *byte);
        }
    }

    fn recognise(after: u64, before: [u8; 8], behind: &[u8], number: u64) -> Option<Site> {
        Site::recognise(after, &code_of(after, before, behind), number, &[])
    }

    fn site_before(after: u64, behind: &[u8]) -> Option<Site> {
        recognise(after, [0, 0, 0, 0, 0x31, 0xc0, 0x0f, 0x05], behind, 0)
    }

    fn compare_site(after: u64) -> Site {
        site_before(after, &[0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff]).expect("a known pattern")
    }

    /// A site with a `ret` behind it and a `nop` whose operand is at this distance from there.
    fn nop_site(after: u64, distance: i64) -> Option<Site> {
        let mut code = code_of(after, [0, 0, 0, 0, 0x31, 0xc0, 0x0f, 0x05], &[0xc3]);
        let operand = after.checked_add_signed(distance).expect("an address");
        put(&mut code, operand - 3, &[0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0]);
        Site::recognise(after, &code, 0, &[])
    }

    #[test]
    fn a_move_is_recognised_only_where_it_is_an_instruction() {
        let site = |before: u8, number| {
            recognise(LIBRARY, [before, 0xb8, 39, 0, 0, 0, 0x0f, 0x05], &[0xc3; 6], number)
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
        assert_eq!(recognise(LIBRARY, [0, 0xb8, 39, 0, 0, 0, 0xcd, 0x80], &[0xc3; 6], 39), None);
    }

    #[test]
    fn what_is_left_of_an_instruction_is_none() {
        let mut sites = Sites::default();
        for number in 0..200 {
            let site = compare_site(LIBRARY - number * 37);
            let patch = sites.plan(&site).expect("a trampoline");
            let mut left = patch.jump.after()[2..].to_vec();
            left.extend([0xf0, 0xff, 0xff, 0x90, 0x90, 0x90, 0x90]);
            let instruction = Decoder::new(64, &left, DecoderOptions::NONE).decode();
            assert!(instruction.is_invalid(), "{left:x?}");
            assert_eq!(sites.resumed_inside(site.after), Some((patch.resume, patch.jump)));
            assert_eq!(sites.resumed_inside(site.after - 2), None);
        }
    }

    #[test]
    fn jumps_and_trampolines_lead_where_they_should() {
        let low = 0x40_1080;
        let before = [0xfa, 0xb8, 39, 0, 0, 0, 0x0f, 0x05];
        let moves = [LIBRARY, low].map(|after| recognise(after, before, &[0xc3; 6], 39));
        let nops = [LIBRARY, low].map(|after| nop_site(after, 40));
        // cmp %fs:40, %rax; cmpl $1, 0x12345678(%r12)
        let longer: [&[u8]; 2] = [
            &[0x64, 0x48, 0x3b, 0x04, 0x25, 40, 0, 0, 0],
            &[0x41, 0x81, 0xbc, 0x24, 0x78, 0x56, 0x34, 0x12, 1],
        ];
        let longer = longer.map(|behind| site_before(LIBRARY, behind).expect("a known pattern"));
        let others = moves.into_iter().chain(nops).map(|site| site.expect("a known pattern"));
        for site in others.chain([LIBRARY, low].map(compare_site)).chain(longer) {
            let patch = Sites::default().plan(&site).expect("a trampoline");
            let target = |edit: &Edit| {
                Decoder::with_ip(64, edit.after(), edit.at, DecoderOptions::NONE)
                    .decode()
                    .near_branch_target()
            };
            assert_eq!(target(patch.detour.as_ref().unwrap_or(&patch.jump)), patch.trampoline);
            if let Some(detour) = patch.detour {
                assert_eq!(target(&patch.jump), detour.at);
            }
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
                assert_eq!(decoded[0].next_ip(), patch.resume);
                let (moved, length) = match patch.detour {
                    Some(_) => (&[][..], 0),
                    None => (&[Mnemonic::Cmp][..], decoded[1].len() as u64),
                };
                assert_eq!(mnemonics, [&[Mnemonic::Syscall], moved, &[Mnemonic::Jmp]].concat());
                assert_eq!(decoded.last().map(|jump| jump.near_branch_target()), Some(site.after + length));
            }
        }
    }

    #[test]
    fn sites_out_of_reach_stay_as_they_are() {
        assert!(Sites::default().plan(&compare_site(0x5555_5555_6000)).is_none());
    }

    #[test]
    fn what_lies_on_two_pages_is_undone_before_one_of_them_may_be_read_anew() {
        let page = LIBRARY & !(PAGE - 1);
        let pages = |from: i64, to: i64| {
            let address = |index: i64| page.checked_add_signed(index * PAGE as i64).expect("an address");
            address(from)..address(to)
        };
        // A jump that begins before the page; a short jump that does, to a nop on the page.
        for (site, jump) in [
            (Some(compare_site(page)), page - 2),
            (Some(compare_site(page - 2)), page - 4),
            (nop_site(page + 1, 40), page - 1),
        ] {
            let mut sites = Sites::default();
            sites.plan(&site.expect("a known pattern")).expect("a trampoline");
            for torn in [pages(0, 1), pages(-1, 0), pages(0, 9), pages(-9, 0)] {
                assert_eq!(sites.torn(&torn), [jump], "{torn:x?}");
            }
            for whole in [pages(-1, 1), pages(-3, 3), pages(1, 2), pages(-2, -1)] {
                assert_eq!(sites.torn(&whole), [], "{whole:x?}");
            }
            assert_eq!(sites.moved(&pages(0, 1)), [jump]);
            assert_eq!(sites.moved(&pages(-9, 9)), [jump]);
        }
        for site in [compare_site(page + 2), compare_site(page - 3)] {
            let mut sites = Sites::default();
            sites.plan(&site).expect("a trampoline");
            for around in [pages(0, 1), pages(-1, 0), pages(0, 9), pages(-9, 0)] {
                assert_eq!(sites.torn(&around), []);
            }
        }
    }

    #[test]
    fn trampolines_run_out_without_harm() {
        let mut sites = Sites::default();
        let planned = (0..5000)
            .filter(|index| {
                let site = compare_site(LIBRARY - index * 16);
                sites.plan(&site).is_some()
            })
            .count();
        assert!(planned > 50 && planned <= TRAMPOLINE_COUNT);
    }

    #[test]
    fn hot_sites_are_looked_at_ever_more_rarely() {
        let mut sites = Sites::default();
        let looks: Vec<Heat> = (0..10_000).map(|_| sites.trapped(LIBRARY)).collect();
        let first = [Heat::New; HOT as usize - 1];
        assert_eq!(looks[..first.len() + 2], [&first[..], &[Heat::Hot, Heat::Old]].concat());
        let hot = looks.iter().filter(|heat| **heat == Heat::Hot).count();
        assert!((4..=7).contains(&hot), "{hot}");
    }

    #[test]
    fn forgotten_sites_say_what_was_there() {
        let mut sites = Sites::default();
        let site = compare_site(LIBRARY);
        sites.plan(&site).expect("a trampoline");
        assert!(sites.moved(&(LIBRARY + 0x1000..LIBRARY + 0x2000)).is_empty());
        let range = LIBRARY - 0x1000..LIBRARY;
        assert_eq!(sites.moved(&range), [LIBRARY - 2]);
        let undone: Vec<Edit> = sites.forget(LIBRARY - 2).collect();
        assert_eq!((undone[0].at, undone[0].before()), (LIBRARY - 2, &[0x0f, 0x05, 0x48, 0x3d, 0x01][..]));
        assert!(undone.len() == 1 && sites.resumed_inside(LIBRARY).is_none());
        // Both the short jump and what it leads to.
        sites.plan(&nop_site(LIBRARY, 40).expect("a known pattern")).expect("a trampoline");
        assert!(sites.resumed_inside(LIBRARY).is_none());
        let undone: Vec<Edit> = sites.forget(sites.moved(&range)[0]).collect();
        let places: Vec<_> = undone.iter().map(|edit| (edit.at, edit.before())).collect();
        assert_eq!(places, [(LIBRARY - 2, &[0x0f, 0x05][..]), (LIBRARY + 40, &[0; 5])]);
        assert!(sites.moved(&range).is_empty() && sites.forget(LIBRARY - 2).next().is_none());
    }

    #[test]
    fn a_nop_is_one_still_when_its_operand_is_a_jump() {
        for distance in [-128, -100, 5, 40, 127] {
            let mut code = code_of(LIBRARY, [0, 0, 0, 0, 0x31, 0xc0, 0x0f, 0x05], &[0xc3]);
            let at = LIBRARY.checked_add_signed(distance - 4).expect("an address");
            put(&mut code, at, &[0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0]);
            let site = Site::recognise(LIBRARY, &code, 0, &[]).expect("a known pattern");
            let patch = Sites::default().plan(&site).expect("a trampoline");
            let detour = patch.detour.expect("a jump in the operand");
            put(&mut code, detour.at, detour.after());
            let nop = &code.bytes[(at - code.start) as usize..];
            let nop = Decoder::new(64, nop, DecoderOptions::NONE).decode();
            assert_eq!((nop.mnemonic(), nop.len()), (Mnemonic::Nop, 9));
            assert_eq!(Site::recognise(LIBRARY, &code, 0, &[]), None);
        }
    }

    #[test]
    fn a_nop_that_cannot_serve_is_left_alone() {
        assert!(nop_site(LIBRARY, 127).is_some() && nop_site(LIBRARY, -128).is_some());
        assert!(nop_site(LIBRARY, 128).is_none() && nop_site(LIBRARY, -129).is_none());
        // Not on another page than the end of the instruction.
        let page = LIBRARY & !(PAGE - 1);
        assert!(nop_site(page + 20, 40).is_some() && nop_site(page + 20, -17).is_some());
        assert!(nop_site(page + 20, -18).is_none() && nop_site(page + 1, 40).is_some());
        assert!(nop_site(page + PAGE - 20, 15).is_some() && nop_site(page + PAGE - 20, 16).is_none());
        // Another's; and one whose operand says something.
        let mut code = code_of(LIBRARY, [0, 0, 0, 0, 0x31, 0xc0, 0x0f, 0x05], &[0xc3]);
        put(&mut code, LIBRARY + 37, &[0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0]);
        assert!(Site::recognise(LIBRARY, &code, 0, &[LIBRARY + 40]).is_none());
        put(&mut code, LIBRARY + 37, &[0x0f, 0x1f, 0x84, 0, 0, 2, 0, 0]);
        assert!(Site::recognise(LIBRARY, &code, 0, &[]).is_none());
    }

    #[test]
    fn pieces_that_are_near_become_writable_together() {
        let at = |address: u64| (address, &[0u8; 5][..]);
        let spans_of = |addresses: &[u64]| spans(&addresses.iter().copied().map(at).collect::<Vec<_>>());
        let page = LIBRARY & !(PAGE - 1);
        assert_eq!(spans_of(&[page + 8 * PAGE, page + PAGE - 2]), vec![page..page + 9 * PAGE]);
        assert_eq!(spans_of(&[page, page + PAGE + GAP]), vec![page..page + PAGE + GAP + PAGE]);
        assert_eq!(spans_of(&[page, page + 2 * PAGE + GAP]).len(), 2);
        let [_, trampolines] = TRAMPOLINES;
        assert_eq!(spans_of(&[trampolines, trampolines - PAGE]).len(), 2);
    }
}
