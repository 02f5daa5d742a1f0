//! Counts what the kernel does for each case, by going through it instruction by instruction: no processor of a virtual
//! machine has to have counters for that, and nothing else that happens is counted.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::ops::Range;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, ensure};
use host::stepping::Stepped;

use crate::ledger::{Cost, Costs};
use crate::marks;

/// `read(2)` and `write(2)`: counting begins when the standard input is read, and ends when the standard output is written to.
const READ: u64 = 0;
const WRITE: u64 = 1;
const STDIN: u64 = 0;
const STDOUT: u64 = 1;
/// `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// So that the C library copies in the same way on all processors.
const TUNABLES: &str =
    "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX_Fast_Unaligned_Load,-AVX2,-ERMS,-FSRM,-SSSE3,-SSE4_1,-SSE4_2";

/// How often each instruction was executed.
pub type Histogram = HashMap<u64, u64>;

/// What was counted.
pub struct Counted {
    /// What each case costs.
    pub costs: Costs,
    /// Where.
    pub histograms: HashMap<String, Histogram>,
    /// Where the program lay in memory.
    pub base: u64,
}

/// Counts cases, which have these names; all of them, or only one.
pub fn count(names: &[String], only: Option<&str>) -> anyhow::Result<Counted> {
    let mut kernel = Kernel::start()?;
    // The first has no calls: that much is the marks' own.
    let (empty, _) = kernel.count_case().context("counting failed at the beginning")?;
    let (mut costs, mut histograms) = (Costs::new(), HashMap::new());
    for name in names {
        let failed = || format!("counting failed at {name}");
        if only.is_some_and(|only| only != name) {
            kernel.pass_case().with_context(failed)?;
            continue;
        }
        let (cost, histogram) = kernel.count_case().with_context(failed)?;
        let instructions = cost.instructions.saturating_sub(empty.instructions);
        costs.insert(name.clone(), Cost { instructions, calls: cost.calls.saturating_sub(empty.calls) });
        histograms.insert(name.clone(), histogram);
    }
    let base = kernel.base;
    kernel.finish()?;
    Ok(Counted { costs, histograms, base })
}

/// The version of the C library, which has a part in all costs.
pub fn library() -> anyhow::Result<String> {
    let output = Command::new("ldd").arg("--version").output().context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().next().and_then(|line| line.split(' ').next_back());
    version.map(str::to_owned).context("ldd has no version")
}

/// The process in which the kernel runs.
struct Kernel {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    stepped: Option<Stepped>,
    /// Where its first mapping begins, which is the program's.
    base: u64,
    /// What it takes to read the clock there depends on what it shows.
    vdso: Range<u64>,
    /// Whether there is a system call at an address.
    calls: HashMap<u64, bool>,
}

impl Kernel {
    fn start() -> anyhow::Result<Kernel> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.arg("--run").stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env_clear().env("GLIBC_TUNABLES", TUNABLES);
        let mut child = command.spawn().context("cannot start the kernel")?;
        let input = child.stdin.take().context("no pipe")?;
        let output = BufReader::new(child.stdout.take().context("no pipe")?);
        Ok(Kernel { child, input, output, stepped: None, base: 0, vdso: 0..0, calls: HashMap::new() })
    }

    /// Finds where the program and the vDSO lie in its memory.
    fn look_around(&mut self) -> anyhow::Result<()> {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.child.id()))?;
        let range = |line: &str| {
            let (start, rest) = line.split_once('-')?;
            let (end, _) = rest.split_once(' ')?;
            Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
        };
        self.base = maps.lines().find_map(range).context("it has no memory")?.start;
        self.vdso = maps.lines().find(|line| line.ends_with("[vdso]")).and_then(range).unwrap_or_default();
        Ok(())
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line)
    }

    /// Lets the next case pass.
    fn pass_case(&mut self) -> anyhow::Result<()> {
        self.line()?;
        self.input.write_all(marks::GO)?;
        ensure!(self.line()?.as_bytes() == marks::END, "a case has no end");
        Ok(())
    }

    /// Counts the next case.
    fn count_case(&mut self) -> anyhow::Result<(Cost, Histogram)> {
        let thread: i32 = self.line()?.trim().parse().context("the kernel has ended")?;
        let process = self.child.id().try_into()?;
        let mut stepped = match self.stepped.take() {
            Some(mut stepped) => {
                stepped.stop()?;
                stepped
            }
            None => {
                self.look_around().context("cannot see the kernel's memory")?;
                Stepped::seize(process, thread)
                    .context("cannot be counted here: the kernel cannot be traced")?
            }
        };
        self.input.write_all(marks::GO)?;
        let counted = self.step_through(&stepped);
        stepped.go_on()?;
        self.stepped = Some(stepped);
        ensure!(self.line()?.as_bytes() == marks::END, "a case has no end");
        counted
    }

    fn step_through(&mut self, stepped: &Stepped) -> anyhow::Result<(Cost, Histogram)> {
        let mut cost = Cost::default();
        let mut histogram = Histogram::new();
        let mut last = 0;
        loop {
            stepped.step()?;
            let position = stepped.position()?;
            let at = position.instruction;
            let calls = *self.calls.entry(at).or_insert_with(|| {
                let mut code = [0; SYSCALL.len()];
                stepped.read(at, &mut code) == code.len() && code == SYSCALL
            });
            match (position.call, position.argument) {
                (WRITE, STDOUT) if calls => return Ok((cost, histogram)),
                (READ, STDIN) if calls => (cost, histogram) = Default::default(),
                _ => {}
            }
            // An instruction that repeats itself is one.
            if at != last && !self.vdso.contains(&at) {
                cost.instructions += 1;
                cost.calls += u64::from(calls);
                *histogram.entry(at).or_default() += 1;
            }
            last = at;
        }
    }

    fn finish(mut self) -> anyhow::Result<()> {
        drop(self.stepped);
        drop(self.input);
        let mut rest = String::new();
        self.output.read_to_string(&mut rest)?;
        ensure!(rest.is_empty(), "there are more cases than names");
        let status = self.child.wait()?;
        ensure!(status.success(), "the kernel ended with {status}");
        Ok(())
    }
}
