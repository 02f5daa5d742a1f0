//! One filter: a program of classic BPF, checked once and then run for every system call.

use std::sync::Arc;

use abi::seccomp::{AUDIT_ARCH_X86_64, RET_ALLOW, RET_KILL_PROCESS, SeccompData, SockFilter};
use abi::{Errno, SysResult};
use zerocopy::IntoBytes;

/// The most instructions of a program (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;
/// Words of scratch memory (`BPF_MEMWORDS`).
const SCRATCH: usize = 16;
/// How many system calls the table of those that are always allowed knows.
const KNOWN_CALLS: usize = 512;
/// What `LD LEN` gives, and where loads must stay below.
const DATA_SIZE: u32 = size_of::<SeccompData>() as u32;

// Classes, sizes, modes, operations and sources of instructions, as the headers name them.
const LD: u16 = 0x00;
const LDX: u16 = 0x01;
const ST: u16 = 0x02;
const STX: u16 = 0x03;
const ALU: u16 = 0x04;
const JMP: u16 = 0x05;
const RET: u16 = 0x06;
const MISC: u16 = 0x07;
const ABS: u16 = 0x20;
const IMM: u16 = 0x00;
const MEM: u16 = 0x60;
const LEN: u16 = 0x80;
const SUB: u16 = 0x10;
const MUL: u16 = 0x20;
const DIV: u16 = 0x30;
const OR: u16 = 0x40;
const AND: u16 = 0x50;
const LSH: u16 = 0x60;
const RSH: u16 = 0x70;
const NEG: u16 = 0x80;
const XOR: u16 = 0xa0;
const JA: u16 = 0x00;
const JEQ: u16 = 0x10;
const JGT: u16 = 0x20;
const JGE: u16 = 0x30;
const JSET: u16 = 0x40;
const X: u16 = 0x08;
const A: u16 = 0x10;
const TXA: u16 = 0x80;

/// A filter that has passed the checks. Immutable, shared by all tasks that inherit it.
pub struct Filter {
    program: Box<[SockFilter]>,
    /// The calls that it allows whatever their arguments, a bit each, so that most calls cost no run.
    always_allowed: [u64; KNOWN_CALLS / 64],
}

impl Filter {
    /// Checks a program as Linux does: `EINVAL` for one that is empty, too long, could leave itself, use memory that
    /// it has not set, or does what a filter of system calls may not.
    pub fn new(program: &[SockFilter]) -> SysResult<Arc<Filter>> {
        if program.is_empty() || program.len() > MAX_INSTRUCTIONS {
            return Err(Errno::EINVAL);
        }
        check_instructions(program)?;
        check_scratch(program)?;
        let mut filter = Filter { program: program.into(), always_allowed: [0; KNOWN_CALLS / 64] };
        for number in 0..KNOWN_CALLS {
            if filter.allows_unseen(number as u32) {
                filter.always_allowed[number / 64] |= 1 << (number % 64);
            }
        }
        Ok(Arc::new(filter))
    }

    /// How many instructions it has.
    pub fn length(&self) -> usize {
        self.program.len()
    }

    /// Whether the call is allowed whatever its arguments and wherever it comes from.
    pub fn always_allows(&self, number: u32) -> bool {
        self.always_allowed.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 != 0)
    }

    /// What the filter says to a call.
    pub fn run(&self, data: &SeccompData) -> u32 {
        let bytes = data.as_bytes();
        let load = |at: u32| {
            let word = bytes.get(at as usize..)?.first_chunk::<4>()?;
            Some(u32::from_ne_bytes(*word))
        };
        // A checked program always ends in a return.
        self.execute(load).unwrap_or(RET_KILL_PROCESS)
    }

    /// Whether the program comes to "allow" without looking at more than number and architecture.
    fn allows_unseen(&self, number: u32) -> bool {
        let load = |at: u32| match at {
            0 => Some(number),
            4 => Some(AUDIT_ARCH_X86_64),
            _ => None,
        };
        self.execute(load) == Some(RET_ALLOW)
    }

    /// Runs the program; `None` when `load` has no answer.
    fn execute(&self, load: impl Fn(u32) -> Option<u32>) -> Option<u32> {
        let (mut a, mut x, mut scratch) = (0u32, 0u32, [0u32; SCRATCH]);
        let mut at = 0usize;
        loop {
            let SockFilter { code, jt, jf, k } = *self.program.get(at)?;
            at += 1;
            let source = if code & X != 0 { x } else { k };
            match code & 7 {
                RET => return Some(if code & 0x18 == A { a } else { k }),
                LD => {
                    a = match code & 0xe0 {
                        ABS => load(k)?,
                        IMM => k,
                        MEM => *scratch.get(k as usize)?,
                        _ => DATA_SIZE,
                    }
                }
                LDX => {
                    x = match code & 0xe0 {
                        IMM => k,
                        MEM => *scratch.get(k as usize)?,
                        _ => DATA_SIZE,
                    }
                }
                ST => *scratch.get_mut(k as usize)? = a,
                STX => *scratch.get_mut(k as usize)? = x,
                ALU => {
                    // A division by an X of zero ends the program, and so the call, with zero: "kill the thread".
                    if code & 0xf0 == DIV && source == 0 {
                        return Some(0);
                    }
                    a = compute(code & 0xf0, a, source);
                }
                JMP if code & 0xf0 == JA => at = at.checked_add(k as usize)?,
                JMP => {
                    let holds = match code & 0xf0 {
                        JEQ => a == source,
                        JGT => a > source,
                        JGE => a >= source,
                        _ => a & source != 0,
                    };
                    at += usize::from(if holds { jt } else { jf });
                }
                _ if code & 0xf8 == TXA => a = x,
                _ => x = a,
            }
        }
    }
}

fn compute(operation: u16, a: u32, operand: u32) -> u32 {
    match operation {
        SUB => a.wrapping_sub(operand),
        MUL => a.wrapping_mul(operand),
        DIV => a.checked_div(operand).unwrap_or(0),
        OR => a | operand,
        AND => a & operand,
        LSH => a.wrapping_shl(operand),
        RSH => a.wrapping_shr(operand),
        NEG => a.wrapping_neg(),
        XOR => a ^ operand,
        _ => a.wrapping_add(operand),
    }
}

/// Whether filters of system calls may use the instruction at all. There is no `MOD`, and no load but of whole words.
fn is_known(code: u16) -> bool {
    const ALU_OPERATIONS: [u16; 9] = [0, SUB, MUL, DIV, OR, AND, LSH, RSH, XOR];
    const CONDITIONS: [u16; 4] = [JEQ, JGT, JGE, JSET];
    match code & 7 {
        LD => [IMM, ABS, MEM, LEN].contains(&code),
        LDX => [IMM, MEM, LEN].contains(&(code & !LDX)),
        ST | STX => code & !7 == 0,
        ALU => code == ALU | NEG || ALU_OPERATIONS.iter().any(|op| code == ALU | op || code == ALU | op | X),
        JMP => code == JMP | JA || CONDITIONS.iter().any(|op| code == JMP | op || code == JMP | op | X),
        RET => matches!(code, 0x06 | 0x16),
        _ => code == MISC || code == MISC | TXA,
    }
}

fn check_instructions(program: &[SockFilter]) -> SysResult<()> {
    let length = program.len();
    for (at, &SockFilter { code, jt, jf, k }) in program.iter().enumerate() {
        let left = length - at - 1;
        let good = is_known(code)
            && match code & 7 {
                LD if code & 0xe0 == ABS => k < DATA_SIZE && k.is_multiple_of(4),
                LD | LDX if code & 0xe0 == MEM => (k as usize) < SCRATCH,
                ST | STX => (k as usize) < SCRATCH,
                ALU if code == ALU | DIV => k != 0,
                ALU if code == ALU | LSH || code == ALU | RSH => k < 32,
                JMP if code & 0xf0 == JA => (k as usize) < left,
                JMP => usize::from(jt) < left && usize::from(jf) < left,
                _ => true,
            };
        if !good {
            return Err(Errno::EINVAL);
        }
    }
    if program.last().is_some_and(|last| last.code & 7 == RET) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// `EINVAL` if a word of scratch memory could be read that has not been written on every way there.
fn check_scratch(program: &[SockFilter]) -> SysResult<()> {
    let mut valid = vec![u16::MAX; program.len()];
    let mut now = 0u16;
    for (at, &SockFilter { code, jt, jf, k }) in program.iter().enumerate() {
        now &= valid[at];
        let mut reach = |distance: usize, set: u16| {
            if let Some(target) = valid.get_mut(at + 1 + distance) {
                *target &= set;
            }
        };
        match code & 7 {
            ST | STX => now |= 1 << k,
            LD | LDX if code & 0xe0 == MEM && now & 1 << k == 0 => return Err(Errno::EINVAL),
            JMP if code & 0xf0 == JA => {
                reach(k as usize, now);
                now = u16::MAX;
            }
            JMP => {
                reach(jt.into(), now);
                reach(jf.into(), now);
                now = u16::MAX;
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn op(code: u16, jt: u8, jf: u8, k: u32) -> SockFilter {
        SockFilter { code, jt, jf, k }
    }

    fn refused(program: &[SockFilter]) -> bool {
        Filter::new(program).is_err()
    }

    #[test]
    fn programs_that_could_go_wrong_are_refused() {
        let allow = op(RET, 0, 0, RET_ALLOW);
        assert!(refused(&[]));
        assert!(refused(&vec![allow; MAX_INSTRUCTIONS + 1]));
        assert!(refused(&[op(LD | ABS, 0, 0, 0)]), "no return at the end");
        assert!(refused(&[op(LD | ABS, 0, 0, 64), allow]));
        assert!(refused(&[op(LD | ABS, 0, 0, 2), allow]));
        assert!(refused(&[op(LD | 0x10 | ABS, 0, 0, 0), allow]), "bytes cannot be loaded");
        assert!(refused(&[op(ALU | DIV, 0, 0, 0), allow]));
        assert!(refused(&[op(ALU | LSH, 0, 0, 32), allow]));
        assert!(refused(&[op(ALU | 0x90, 0, 0, 3), allow]), "no remainders");
        assert!(refused(&[op(JMP | JA, 0, 0, 1), allow]));
        assert!(refused(&[op(JMP | JEQ, 0, 1, 1), allow]));
        assert!(refused(&[op(LD | MEM, 0, 0, 3), allow]), "never written");
        assert!(refused(&[op(ST, 0, 0, 16), allow]));
        assert!(!refused(&[op(ST, 0, 0, 3), op(LD | MEM, 0, 0, 3), allow]));
        let skipped = [op(JMP | JEQ, 1, 0, 1), op(ST, 0, 0, 0), op(LD | MEM, 0, 0, 0), allow];
        assert!(refused(&skipped), "written on one way only");
    }

    #[test]
    fn a_filter_tells_calls_apart() {
        let filter = Filter::new(&[
            op(LD | ABS, 0, 0, 0),
            op(JMP | JEQ, 0, 1, 39),
            op(RET, 0, 0, 0x5_0001),
            op(JMP | JEQ, 0, 3, 1),
            op(LD | ABS, 0, 0, 16),
            op(JMP | JEQ, 1, 0, 2),
            op(RET, 0, 0, 0),
            op(RET, 0, 0, RET_ALLOW),
        ])
        .expect("a valid program");
        let data = |number, first| SeccompData {
            number,
            architecture: AUDIT_ARCH_X86_64,
            arguments: [first, 0, 0, 0, 0, 0],
            ..SeccompData::default()
        };
        assert_eq!(filter.run(&data(39, 0)), 0x5_0001);
        assert_eq!(filter.run(&data(1, 2)), RET_ALLOW);
        assert_eq!(filter.run(&data(1, 3)), 0);
        assert!(filter.always_allows(0) && !filter.always_allows(39) && !filter.always_allows(1));
        assert!(!filter.always_allows(100_000));
        let limits = super::super::Seccomp::with_filters(&[Arc::clone(&filter)]);
        assert!(limits.always_allows(&[0]) && !limits.always_allows(&[0, 39]));
        assert!(super::super::Seccomp::default().always_allows(&[0, 39, 100_000]));
    }

    #[test]
    fn arithmetic_is_that_of_32_bits() {
        let run = |middle: &[SockFilter]| {
            let mut program = vec![op(LD | IMM, 0, 0, 7), op(LDX | IMM, 0, 0, 3)];
            program.extend_from_slice(middle);
            program.push(op(RET | A, 0, 0, 0));
            Filter::new(&program).expect("a valid program").run(&SeccompData::default())
        };
        assert_eq!(run(&[op(ALU | SUB, 0, 0, 8)]), u32::MAX);
        assert_eq!(run(&[op(ALU | DIV | X, 0, 0, 0)]), 2);
        assert_eq!(run(&[op(ALU | NEG, 0, 0, 0), op(ALU | AND, 0, 0, 0xff)]), 249);
        assert_eq!(run(&[op(MISC | TXA, 0, 0, 0), op(ALU | LSH, 0, 0, 4)]), 48);
        assert_eq!(run(&[op(LDX | IMM, 0, 0, 0), op(ALU | DIV | X, 0, 0, 0)]), 0);
        assert_eq!(run(&[op(LD | LEN, 0, 0, 0)]), 64);
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_comes_to_an_end(
            program in proptest::collection::vec((0u16..256, 0u8..4, 0u8..4, 0u32..70), 1..40),
            number in 0i32..500,
        ) {
            let mut program: Vec<_> = program.into_iter().map(|(code, jt, jf, k)| op(code, jt, jf, k)).collect();
            program.push(op(RET, 0, 0, RET_ALLOW));
            // What the check leaves over is run, which must neither loop nor leave the program.
            let program: Vec<_> = program.into_iter().filter(|one| is_known(one.code)).collect();
            if let Ok(filter) = Filter::new(&program) {
                let data = SeccompData { number, ..SeccompData::default() };
                prop_assert!(filter.execute(|_| Some(1)).is_some());
                filter.run(&data);
            }
        }
    }
}
