//! Seccomp of a specification, compiled to a filter program, as `libseccomp` and `runc` would make it behave.
//!
//! System calls become intervals of numbers with the same outcome, found by a search tree; most of a profile for
//! engines is a list of what is allowed, and that is a few dozen intervals. As in `runc`, calls that are newer than
//! all that a profile names get `ENOSYS`, so that programs fall back to older ones.

use std::collections::BTreeMap;

use kernel::syscalls::TABLE;
use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};

use super::{Result, invalid};

/// An instruction of classic BPF, `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How many instructions to skip if a condition holds.
    pub jt: u8,
    /// How many to skip if it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// A program for `seccomp(2)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// The program.
    pub program: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

/// The longest program that Linux takes.
pub const LONGEST: usize = 4096;
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// Set in the numbers of the x32 interface.
const X32: u32 = 0x4000_0000;

const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// The largest number of an error.
const LAST_ERRNO: u32 = 4095;

const LOAD: u16 = 0x20;
const RETURN: u16 = 0x06;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const EQUAL: u16 = 0x15;
const GREATER: u16 = 0x25;
const GREATER_EQUAL: u16 = 0x35;

/// Where `struct seccomp_data` has the number, the architecture, and the low half of an argument.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
fn argument(index: usize) -> u32 {
    16 + 8 * u32::try_from(index).unwrap_or(0)
}

/// A comparison of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Comparison {
    index: usize,
    operator: oci::LinuxSeccompOperator,
    value: u64,
    /// For the masked comparison, what the rest is compared with.
    second: u64,
}

/// What happens to one system call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Outcome {
    /// The first set of comparisons that all hold says what.
    rules: Vec<(Vec<Comparison>, u32)>,
    /// If there is none.
    otherwise: u32,
}

/// Compiles a profile.
///
/// # Errors
/// If it asks for what cannot be: a listener, an argument or an error number that does not exist, too much.
pub fn compile(profile: &oci::LinuxSeccomp) -> Result<Filter> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut calls: BTreeMap<u32, Outcome> = BTreeMap::new();
    let mut newest = None;
    for rule in profile.syscalls().iter().flatten() {
        let verdict = action(rule.action(), rule.errno_ret())?;
        let sets = comparisons(rule)?;
        for number in rule.names().iter().filter_map(|name| number(name)) {
            newest = newest.max(Some(number));
            // Like `libseccomp`, which is not told of rules that say what happens anyway.
            if verdict != default {
                add(
                    calls.entry(number).or_insert_with(|| Outcome { rules: Vec::new(), otherwise: default }),
                    &sets,
                    verdict,
                    default,
                );
            }
        }
    }
    let newest = newest.filter(|_| has_stub(profile.default_action()));
    let program = assemble(&intervals(&calls, default, newest));
    if program.len() > LONGEST {
        return invalid(format!("linux.seccomp: a filter of {} instructions is too long", program.len()));
    }
    Ok(Filter { program, flags: flags(profile) })
}

/// The number of a system call by its name.
fn number(name: &str) -> Option<u32> {
    TABLE.iter().find(|row| row.name == name).map(|row| row.number)
}

/// Calls that a profile does not know are only "not there" if the profile would refuse them.
fn has_stub(default: oci::LinuxSeccompAction) -> bool {
    use oci::LinuxSeccompAction as Action;
    !matches!(
        default,
        Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace | Action::ScmpActNotify
    )
}

fn action(action: oci::LinuxSeccompAction, errno: Option<u32>) -> Result<u32> {
    use oci::LinuxSeccompAction as Action;
    let errno = errno.unwrap_or(EPERM);
    let plain = match action {
        Action::ScmpActKill | Action::ScmpActKillThread => return Ok(KILL_THREAD),
        Action::ScmpActKillProcess => return Ok(KILL_PROCESS),
        Action::ScmpActTrap => return Ok(TRAP),
        Action::ScmpActLog => return Ok(LOG),
        Action::ScmpActAllow => return Ok(ALLOW),
        Action::ScmpActNotify => {
            return invalid(
                "linux.seccomp: SCMP_ACT_NOTIFY is not supported: system calls of the guest cannot be answered by a process of the host",
            );
        }
        Action::ScmpActErrno => ERRNO,
        Action::ScmpActTrace => TRACE,
    };
    if errno > LAST_ERRNO {
        return invalid(format!("linux.seccomp: errnoRet {errno} is above {LAST_ERRNO}"));
    }
    Ok(plain | errno)
}

fn flags(profile: &oci::LinuxSeccomp) -> u32 {
    use oci::LinuxSeccompFilterFlag as Flag;
    let flags = profile.flags().iter().flatten().map(|flag| match flag {
        Flag::SeccompFilterFlagTsync => 1,
        Flag::SeccompFilterFlagLog => 2,
        Flag::SeccompFilterFlagSpecAllow => 4,
        Flag::SeccompFilterFlagWaitKillableRecv => 32,
    });
    flags.fold(0, |all, flag| all | flag)
}

/// The sets of comparisons of a rule: all of one set must hold. One that compares an argument twice means "or", since
/// `libseccomp` cannot do both at once.
fn comparisons(rule: &oci::LinuxSyscall) -> Result<Vec<Vec<Comparison>>> {
    let mut set = Vec::new();
    for argument in rule.args().iter().flatten() {
        let index = argument.index();
        if index > 5 {
            return invalid(format!("linux.seccomp: a system call has no argument {index}"));
        }
        let second = argument.value_two().unwrap_or(0);
        set.push(Comparison { index, operator: argument.op(), value: argument.value(), second });
    }
    let twice = (0..6).any(|index| set.iter().filter(|one| one.index == index).count() > 1);
    Ok(if twice { set.into_iter().map(|one| vec![one]).collect() } else { vec![set] })
}

/// Adds a rule. One without comparisons covers the call as a whole, and stays if it is the first of that kind.
fn add(outcome: &mut Outcome, sets: &[Vec<Comparison>], verdict: u32, default: u32) {
    let is_whole = outcome.otherwise != default && outcome.rules.is_empty();
    if is_whole {
        return;
    }
    if sets.iter().any(Vec::is_empty) {
        *outcome = Outcome { rules: Vec::new(), otherwise: verdict };
    } else {
        outcome.rules.extend(sets.iter().map(|set| (set.clone(), verdict)));
    }
}

/// First numbers of intervals and what happens to the calls in them, from zero on.
fn intervals(calls: &BTreeMap<u32, Outcome>, default: u32, newest: Option<u32>) -> Vec<(u32, Outcome)> {
    let always = |verdict| Outcome { rules: Vec::new(), otherwise: verdict };
    let beyond = |number: u32| match newest {
        Some(newest) if number > newest => always(ERRNO | ENOSYS),
        _ => always(default),
    };
    let mut all: Vec<(u32, Outcome)> = vec![(0, beyond(0))];
    let mut start = |number: u32, outcome: Outcome| {
        if all.last().is_some_and(|(last, _)| *last == number) {
            all.pop();
        }
        // Neighbours with the same outcome are one.
        if all.last().is_none_or(|(_, before)| *before != outcome) {
            all.push((number, outcome));
        }
    };
    for (number, outcome) in calls {
        start(*number, outcome.clone());
        start(number + 1, beyond(number + 1));
    }
    if let Some(newest) = newest {
        start(newest + 1, beyond(newest + 1));
    }
    all
}

/// A program whose forward jumps are filled in when their targets are known.
#[derive(Default)]
struct Assembler {
    program: Vec<Instruction>,
}

impl Assembler {
    fn emit(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> usize {
        self.program.push(Instruction { code, jt, jf, k });
        self.program.len() - 1
    }

    fn finish(&mut self, verdict: u32) {
        self.emit(RETURN, 0, 0, verdict);
    }

    /// Lets an unconditional jump lead here.
    fn land(&mut self, jump: usize) {
        let distance = u32::try_from(self.program.len() - jump - 1).unwrap_or(u32::MAX);
        self.program[jump].k = distance;
    }

    /// Finds the interval that the number in the accumulator is in. `all` is not empty.
    fn search(&mut self, all: &[(u32, Outcome)]) {
        match all {
            [] => {}
            [(_, outcome)] => self.outcome(outcome),
            _ => {
                let (lower, upper) = all.split_at(all.len() / 2);
                let Some((middle, _)) = upper.first() else { return };
                // The distance may be too long for a conditional jump.
                self.emit(GREATER_EQUAL, 0, 1, *middle);
                let jump = self.emit(JUMP, 0, 0, 0);
                self.search(lower);
                self.land(jump);
                self.search(upper);
            }
        }
    }

    fn outcome(&mut self, outcome: &Outcome) {
        for (set, verdict) in &outcome.rules {
            let mut failures = Vec::new();
            for comparison in set {
                failures.extend(self.comparison(comparison));
            }
            self.finish(*verdict);
            for jump in failures {
                self.land(jump);
            }
        }
        self.finish(outcome.otherwise);
    }

    /// Goes on if a comparison holds. Returns the jumps that are taken if it does not.
    fn comparison(&mut self, comparison: &Comparison) -> Vec<usize> {
        use oci::LinuxSeccompOperator as Operator;
        let place = argument(comparison.index);
        let halves = |value: u64| ((value >> 32) as u32, value as u32);
        let (high, low) = halves(comparison.value);
        // An operator holds if its opposite does not.
        match comparison.operator {
            Operator::ScmpCmpEq => self.equal(place, high, low, None),
            Operator::ScmpCmpMaskedEq => {
                let (second_high, second_low) = halves(comparison.second & comparison.value);
                self.equal(place, second_high, second_low, Some((high, low)))
            }
            Operator::ScmpCmpNe => {
                let failures = self.equal(place, high, low, None);
                self.invert(failures)
            }
            Operator::ScmpCmpGt => self.greater(place, high, low, GREATER),
            Operator::ScmpCmpGe => self.greater(place, high, low, GREATER_EQUAL),
            Operator::ScmpCmpLe => {
                let failures = self.greater(place, high, low, GREATER);
                self.invert(failures)
            }
            Operator::ScmpCmpLt => {
                let failures = self.greater(place, high, low, GREATER_EQUAL);
                self.invert(failures)
            }
        }
    }

    /// Here one comparison holds, and the jumps lead to where it does not: the other way round.
    fn invert(&mut self, failures: Vec<usize>) -> Vec<usize> {
        let held = self.emit(JUMP, 0, 0, 0);
        for jump in failures {
            self.land(jump);
        }
        vec![held]
    }

    fn equal(&mut self, place: u32, high: u32, low: u32, mask: Option<(u32, u32)>) -> Vec<usize> {
        let mut failures = Vec::new();
        for (place, half, mask) in
            [(place + 4, high, mask.map(|(high, _)| high)), (place, low, mask.map(|(_, low)| low))]
        {
            self.emit(LOAD, 0, 0, place);
            if let Some(mask) = mask {
                self.emit(AND, 0, 0, mask);
            }
            self.emit(EQUAL, 1, 0, half);
            failures.push(self.emit(JUMP, 0, 0, 0));
        }
        failures
    }

    /// Greater in the high half, or equal there and `code` in the low half.
    fn greater(&mut self, place: u32, high: u32, low: u32, code: u16) -> Vec<usize> {
        self.emit(LOAD, 0, 0, place + 4);
        self.emit(GREATER, 0, 1, high);
        let held = self.emit(JUMP, 0, 0, 0);
        self.emit(EQUAL, 1, 0, high);
        let less = self.emit(JUMP, 0, 0, 0);
        self.emit(LOAD, 0, 0, place);
        self.emit(code, 1, 0, low);
        let not = self.emit(JUMP, 0, 0, 0);
        self.land(held);
        vec![less, not]
    }
}

/// Other architectures, and the x32 interface, do not exist inside; whoever calls by them is killed, as `libseccomp`
/// does it for those that a profile does not list.
fn assemble(intervals: &[(u32, Outcome)]) -> Vec<Instruction> {
    let mut assembler = Assembler::default();
    assembler.emit(LOAD, 0, 0, ARCHITECTURE);
    assembler.emit(EQUAL, 1, 0, AUDIT_ARCH_X86_64);
    assembler.finish(KILL_THREAD);
    assembler.emit(LOAD, 0, 0, NUMBER);
    // Minus one is no call of x32, but what a tracer sets to have none.
    assembler.emit(GREATER_EQUAL, 0, 2, X32);
    assembler.emit(EQUAL, 1, 0, u32::MAX);
    assembler.finish(KILL_THREAD);
    assembler.search(intervals);
    assembler.program
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;
    use std::process::{Command, Stdio};
    use std::sync::OnceLock;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// A system call as a filter sees it.
    #[derive(Debug, Clone, Copy)]
    struct Call {
        number: u32,
        architecture: u32,
        arguments: [u64; 6],
    }

    fn call(number: u32, arguments: [u64; 6]) -> Call {
        Call { number, architecture: AUDIT_ARCH_X86_64, arguments }
    }

    impl Call {
        fn word(&self, offset: u32) -> u32 {
            match offset {
                NUMBER => self.number,
                ARCHITECTURE => self.architecture,
                16..64 => {
                    let value = self.arguments[(offset as usize - 16) / 8];
                    if offset.is_multiple_of(8) { value as u32 } else { (value >> 32) as u32 }
                }
                _ => panic!("no word at {offset}"),
            }
        }
    }

    /// What a program answers. Knows all instructions that we and `libseccomp` use.
    fn run(program: &[Instruction], call: Call) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            at += 1;
            let mut jump = |holds: bool| at += usize::from(if holds { jt } else { jf });
            match code {
                LOAD => accumulator = call.word(k),
                AND => accumulator &= k,
                JUMP => at += k as usize,
                EQUAL => jump(accumulator == k),
                GREATER => jump(accumulator > k),
                GREATER_EQUAL => jump(accumulator >= k),
                RETURN => return k,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    fn profile(value: Value) -> oci::LinuxSeccomp {
        serde_json::from_value(value).unwrap()
    }

    fn compiled(value: Value) -> Filter {
        compile(&profile(value)).unwrap()
    }

    fn known(name: &str) -> u32 {
        number(name).unwrap()
    }

    #[test]
    fn all_actions_have_their_values() {
        for (name, value) in [
            ("SCMP_ACT_KILL", 0),
            ("SCMP_ACT_KILL_THREAD", 0),
            ("SCMP_ACT_KILL_PROCESS", 0x8000_0000),
            ("SCMP_ACT_TRAP", 0x0003_0000),
            ("SCMP_ACT_ERRNO", 0x0005_0001),
            ("SCMP_ACT_TRACE", 0x7ff0_0001),
            ("SCMP_ACT_LOG", 0x7ffc_0000),
        ] {
            let filter = compiled(
                json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["getpid"], "action": name }] }),
            );
            assert_eq!(run(&filter.program, call(known("getpid"), [0; 6])), value, "{name}");
            assert_eq!(run(&filter.program, call(known("getuid"), [0; 6])), ALLOW);
            assert_eq!(run(&filter.program, call(100_000, [0; 6])), ALLOW);
        }
        let filter = compiled(json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 7, "syscalls": [
            { "names": ["getpid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 9 }, { "names": ["getuid"], "action": "SCMP_ACT_ALLOW" }] }));
        assert_eq!(run(&filter.program, call(known("getpid"), [0; 6])), ERRNO | 9);
        assert_eq!(
            run(&filter.program, call(known("getgid"), [0; 6])),
            ERRNO | ENOSYS,
            "newer than all that is named"
        );
        assert_eq!(run(&filter.program, call(0, [0; 6])), ERRNO | 7);
    }

    #[test]
    fn other_interfaces_are_killed() {
        let filter = compiled(json!({ "defaultAction": "SCMP_ACT_ALLOW" }));
        assert_eq!(run(&filter.program, Call { architecture: 0x4000_0003, ..call(0, [0; 6]) }), KILL_THREAD);
        assert_eq!(run(&filter.program, call(X32, [0; 6])), KILL_THREAD);
        assert_eq!(run(&filter.program, call(u32::MAX, [0; 6])), ALLOW);
    }

    #[test]
    fn flags_have_their_values() {
        let names = ["TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"];
        let names: Vec<_> = names.iter().map(|name| format!("SECCOMP_FILTER_FLAG_{name}")).collect();
        let filter = compiled(json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": names }));
        assert_eq!(filter.flags, 1 | 2 | 4 | 32);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |rule: Value| {
            compile(&profile(json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] })))
                .unwrap_err()
                .to_string()
        };
        assert!(refused(json!({ "names": ["getpid"], "action": "SCMP_ACT_NOTIFY" })).contains("NOTIFY"));
        assert!(
            refused(json!({ "names": ["getpid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096 }))
                .contains("4096")
        );
        let args = json!([{ "index": 6, "value": 0, "op": "SCMP_CMP_EQ" }]);
        assert!(
            refused(json!({ "names": ["getpid"], "action": "SCMP_ACT_ERRNO", "args": args }))
                .contains("no argument 6")
        );
    }

    #[test]
    fn unknown_calls_are_left_out() {
        let filter = compiled(
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["no_such_call", "getpid"], "action": "SCMP_ACT_TRAP" }] }),
        );
        assert_eq!(run(&filter.program, call(known("getpid"), [0; 6])), TRAP);
    }

    #[test]
    fn a_rule_for_the_whole_call_beats_those_for_arguments() {
        let args = json!([{ "index": 0, "value": 1, "op": "SCMP_CMP_EQ" }]);
        let some = json!({ "names": ["getpid"], "action": "SCMP_ACT_TRAP", "args": args });
        let all = json!({ "names": ["getpid"], "action": "SCMP_ACT_LOG" });
        for rules in [[&some, &all], [&all, &some]] {
            let filter = compiled(json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules }));
            for first in [0, 1] {
                assert_eq!(run(&filter.program, call(known("getpid"), [first; 6])), LOG);
            }
        }
    }

    /// What a rule means, said directly.
    fn holds(comparison: &Comparison, value: u64) -> bool {
        use oci::LinuxSeccompOperator as Operator;
        let Comparison { value: datum, second, .. } = *comparison;
        match comparison.operator {
            Operator::ScmpCmpNe => value != datum,
            Operator::ScmpCmpLt => value < datum,
            Operator::ScmpCmpLe => value <= datum,
            Operator::ScmpCmpEq => value == datum,
            Operator::ScmpCmpGe => value >= datum,
            Operator::ScmpCmpGt => value > datum,
            Operator::ScmpCmpMaskedEq => value & datum == second & datum,
        }
    }

    fn interesting() -> impl Strategy<Value = u64> {
        let edges =
            [0, 1, 2, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, 0x2_0000_0000, u64::MAX - 1, u64::MAX];
        prop_oneof![proptest::sample::select(edges.to_vec()), any::<u64>(), 0..4u64]
    }

    fn operator() -> impl Strategy<Value = &'static str> {
        proptest::sample::select(vec!["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"])
    }

    proptest! {
        #[test]
        fn comparisons_mean_what_their_names_say(name in operator(), value in interesting(), second in interesting(), given in interesting(), index in 0..6usize) {
            let args = json!([{ "index": index, "value": value, "valueTwo": second, "op": format!("SCMP_CMP_{name}") }]);
            let profile = profile(json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["getpid"], "action": "SCMP_ACT_TRAP", "args": args }] }));
            let sets = comparisons(&profile.syscalls().as_ref().unwrap()[0]).unwrap();
            let program = compile(&profile).unwrap().program;
            let mut arguments = [given.wrapping_add(1); 6];
            arguments[index] = given;
            for given in [given, value, value.wrapping_add(1), value.wrapping_sub(1), second] {
                arguments[index] = given;
                let expected = if holds(&sets[0][0], given) { TRAP } else { ALLOW };
                prop_assert_eq!(run(&program, call(known("getpid"), arguments)), expected);
            }
        }

        /// Against a direct reading of the rules, for any list of them.
        #[test]
        fn programs_do_what_profiles_say(rules in proptest::collection::vec((proptest::collection::vec(0..12usize, 1..5), 0..4usize, proptest::collection::vec((0..6usize, operator(), 0..4u64, 0..4u64), 0..3)), 0..12), default in 0..4usize, arguments in proptest::collection::vec(0..4u64, 6)) {
            let actions = ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_TRAP", "SCMP_ACT_KILL_PROCESS"];
            let values = [ALLOW, ERRNO | EPERM, TRAP, KILL_PROCESS];
            let name = |index: usize| TABLE[index * 25].name;
            let json_rules: Vec<Value> = rules.iter().map(|(calls, action, args)| json!({
                "names": calls.iter().map(|call| name(*call)).collect::<Vec<_>>(),
                "action": actions[*action],
                "args": args.iter().map(|(index, op, value, second)| json!({ "index": index, "value": value, "valueTwo": second, "op": format!("SCMP_CMP_{op}") })).collect::<Vec<_>>(),
            })).collect();
            let profile = profile(json!({ "defaultAction": actions[default], "syscalls": json_rules }));
            let program = compile(&profile).unwrap().program;
            let arguments: [u64; 6] = arguments.try_into().unwrap();
            let newest = rules.iter().flat_map(|(calls, ..)| calls).max().map(|call| TABLE[call * 25].number);
            for index in 0..14 {
                let number = TABLE[(index * 25).min(TABLE.len() - 1)].number;
                let mine: Vec<_> = profile.syscalls().iter().flatten().zip(&rules).filter(|(_, (calls, action, _))| calls.iter().any(|call| TABLE[call * 25].number == number) && *action != default).collect();
                let whole = mine.iter().find(|(_, (.., args))| args.is_empty()).map(|(_, (_, action, _))| values[*action]);
                let partly = mine.iter().find(|(rule, _)| comparisons(rule).unwrap().iter().any(|set| set.iter().all(|one| holds(one, arguments[one.index])))).map(|(_, (_, action, _))| values[*action]);
                let fallback = if default != 0 && newest.is_some_and(|newest| number > newest) { ERRNO | ENOSYS } else { values[default] };
                let expected = whole.or(partly).unwrap_or(fallback);
                prop_assert_eq!(run(&program, call(number, arguments)), expected, "call {}", number);
            }
        }
    }

    /// The profile that Debian's engines use, for a container with their usual capabilities.
    fn engine_profile() -> Option<oci::LinuxSeccomp> {
        let path = "/usr/share/containers/seccomp.json";
        let Ok(text) = std::fs::read(path) else {
            eprintln!("skipped: needs {path} (Debian: golang-github-containers-common)");
            assert!(std::env::var_os("NACELLE_REQUIRE_ALL").is_none(), "a skip is a failure");
            return None;
        };
        let mut value: Value = serde_json::from_slice(&text).unwrap();
        let has = |condition: &Value, name: &str, what: &[&str]| {
            let list = condition[name].as_array().cloned().unwrap_or_default();
            list.is_empty() || list.iter().any(|one| what.contains(&one.as_str().unwrap()))
        };
        let any = |condition: &Value, name: &str| !condition[name].as_array().is_none_or(Vec::is_empty);
        let rules = value["syscalls"].as_array_mut().unwrap();
        rules.retain(|rule| {
            let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
            let capabilities = ["CAP_CHOWN", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
            let fits = has(includes, "caps", &capabilities) && has(includes, "arches", &["amd64"]);
            let hindered = (any(excludes, "caps") && has(excludes, "caps", &capabilities))
                || (any(excludes, "arches") && has(excludes, "arches", &["amd64"]));
            fits && !hindered
        });
        value.as_object_mut().unwrap().remove("archMap");
        Some(profile(value))
    }

    /// Calls that try what a profile compares: its values, those beside them, and others.
    fn calls_for(profile: &oci::LinuxSeccomp) -> Vec<Call> {
        let mut values = vec![0, 1, u64::MAX, 1 << 32];
        for argument in profile.syscalls().iter().flatten().flat_map(|rule| rule.args().iter().flatten()) {
            for value in [argument.value(), argument.value_two().unwrap_or(0)] {
                values.extend([value, value.wrapping_add(1), value.wrapping_sub(1), value | 1 << 40, !value]);
            }
        }
        values.sort_unstable();
        values.dedup();
        let with_arguments =
            |rule: &&oci::LinuxSyscall| rule.args().as_ref().is_some_and(|list| !list.is_empty());
        let rules = profile.syscalls().iter().flatten().filter(with_arguments);
        let compared: Vec<u32> =
            rules.flat_map(|rule| rule.names()).filter_map(|name| number(name)).collect();
        let numbers = (0..520).chain([1000, X32, X32 + 1, 0x7fff_ffff, u32::MAX]);
        let values_for = |number| if compared.contains(&number) { values.as_slice() } else { &values[..1] };
        numbers
            .flat_map(|number| values_for(number).iter().map(move |value| call(number, [*value; 6])))
            .collect()
    }

    /// The program that has `libseccomp` make filters, compiled once. `None` if that is not installed.
    fn peer() -> Option<&'static std::path::Path> {
        static PEER: OnceLock<Option<PathBuf>> = OnceLock::new();
        let made = PEER.get_or_init(|| {
            let program = std::env::current_exe().unwrap().with_extension("libseccomp");
            let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/libseccomp.c");
            let mut compiler = Command::new("gcc");
            compiler.arg(source).arg("-o").arg(&program).arg("-lseccomp").stderr(Stdio::null());
            if compiler.status().is_ok_and(|status| status.success()) {
                return Some(program);
            }
            eprintln!("skipped: needs gcc and libseccomp (Debian: libseccomp-dev)");
            assert!(std::env::var_os("NACELLE_REQUIRE_ALL").is_none(), "a skip is a failure");
            None
        });
        made.as_deref()
    }

    /// Has `libseccomp` make the program. `None` if it is not installed.
    fn by_libseccomp(profile: &oci::LinuxSeccomp) -> Option<Vec<Instruction>> {
        let program = peer()?;
        let default = action(profile.default_action(), profile.default_errno_ret()).unwrap();
        let mut order = format!("{default}\n");
        for rule in profile.syscalls().iter().flatten() {
            let verdict = action(rule.action(), rule.errno_ret()).unwrap();
            if verdict == default {
                continue;
            }
            for number in rule.names().iter().filter_map(|name| number(name)) {
                for set in comparisons(rule).unwrap() {
                    order.push_str(&format!("{verdict} {number} {}", set.len()));
                    for one in set {
                        let Comparison { index, operator, value, second } = one;
                        order.push_str(&format!(" {index} {} {value} {second}", operator as u32));
                    }
                    order.push('\n');
                }
            }
        }
        let mut peer = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        peer.stdin.take().unwrap().write_all(order.as_bytes()).unwrap();
        let output = peer.wait_with_output().unwrap();
        assert!(output.status.success());
        let words = output.stdout.chunks_exact(8).map(|bytes| Instruction {
            code: u16::from_le_bytes([bytes[0], bytes[1]]),
            jt: bytes[2],
            jf: bytes[3],
            k: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        });
        Some(words.collect())
    }

    /// The profile of engines has no call at the very end of the table, so that `runc`'s answer to newer ones shows.
    fn compare(profile: &oci::LinuxSeccomp) {
        let Some(peer) = by_libseccomp(profile) else { return };
        let own = compile(profile).unwrap().program;
        let numbers = profile.syscalls().iter().flatten().flat_map(|rule| rule.names());
        let newest = numbers.filter_map(|name| number(name)).max();
        for call in calls_for(profile) {
            let newer =
                has_stub(profile.default_action()) && newest.is_some_and(|newest| call.number > newest);
            let stub = newer && (call.number < X32 || call.number == u32::MAX);
            let expected = if stub { ERRNO | ENOSYS } else { run(&peer, call) };
            assert_eq!(run(&own, call), expected, "{call:?}");
        }
    }

    #[test]
    fn the_profile_of_engines_behaves_as_with_libseccomp() {
        let Some(profile) = engine_profile() else { return };
        let filter = compile(&profile).unwrap();
        assert!(filter.program.len() < 400, "{} instructions", filter.program.len());
        let answer = |name: &str, arguments| run(&filter.program, call(known(name), arguments));
        assert_eq!(answer("read", [0; 6]), ALLOW);
        assert_eq!(answer("kexec_load", [0; 6]), ERRNO | EPERM);
        assert_eq!(answer("personality", [0; 6]), ALLOW);
        assert_eq!(answer("personality", [1; 6]) & 0xffff_0000, ERRNO);
        assert_eq!(answer("clone", [17; 6]), ALLOW);
        compare(&profile);
    }

    #[test]
    fn all_comparisons_behave_as_with_libseccomp() {
        for name in ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"] {
            for value in [0u64, 5, 0xffff_ffff, 0x1_0000_0000, 0x5_0000_0007] {
                let arg = |index: usize, value: u64| json!({ "index": index, "value": value, "valueTwo": 4, "op": format!("SCMP_CMP_{name}") });
                compare(&profile(json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
                    { "names": ["getpid", "write"], "action": "SCMP_ACT_ALLOW", "args": [arg(0, value), arg(3, 5)] },
                    { "names": ["read"], "action": "SCMP_ACT_TRAP", "args": [arg(1, value)] },
                    { "names": ["close"], "action": "SCMP_ACT_LOG" },
                ] })));
            }
        }
    }
}
