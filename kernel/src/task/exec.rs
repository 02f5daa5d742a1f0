//! `execve(2)`: loading programs.
//!
//! A program is loaded into a fresh address space while the old one still stands; only when everything is in place
//! does the task move over. An error before that leaves the caller as it was.

use std::ops::Range;
use std::sync::Arc;

use abi::fs::OpenFlags;
use abi::{Errno, SysResult};
use platform::{Context, Description, Platform};

use super::elf::{Elf, Segment};
use super::limits::Resource;
use super::{Credentials, CurrentTask};
use crate::error::SyscallResult;
use crate::fs::File;
use crate::mm::{Layout, MapRequest, MemoryMap, PAGE_SIZE, PIE_BASE, Plan};
use crate::user::UserWriter;

/// How many interpreters of interpreters of scripts there may be.
const MAX_SCRIPTS: usize = 4;
/// How much of a file tells what it is.
const START: usize = 256;
/// How much of it is read for that: usually all that there is to know of a program.
const HEAD: usize = 1024;
/// The longest single argument, with its zero.
pub const MAX_ARGUMENT: usize = 128 * 1024;

const MAP_PRIVATE: u32 = 0x2;
const MAP_FIXED: u32 = 0x10;
const MAP_ANONYMOUS: u32 = 0x20;
const MAP_FIXED_NOREPLACE: u32 = 0x10_0000;

/// A program to be run.
pub struct Program {
    /// The file.
    pub file: Arc<File>,
    /// What it is called.
    pub name: ProgramName,
    /// Arguments.
    pub arguments: Vec<Vec<u8>>,
    /// Environment.
    pub environment: Vec<Vec<u8>>,
}

/// What a program is called.
pub struct ProgramName {
    /// The path as the caller gave it (`AT_EXECFN`); `/dev/fd/N` and what follows for one below a descriptor.
    pub path: Vec<u8>,
    /// What the task is called, if not by the path's last component.
    pub base: Option<Vec<u8>>,
    /// Whether the path leads nowhere once the program runs, so that no interpreter could open it.
    pub inaccessible: bool,
}

impl ProgramName {
    /// What the task is called.
    fn base(&self) -> Vec<u8> {
        let last = || self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
        self.base.clone().unwrap_or_else(last)
    }
}

/// A program in memory, ready to run.
pub struct Loaded {
    /// Where it runs.
    pub context: Box<dyn Context>,
    /// Its memory.
    pub memory: Arc<MemoryMap>,
    /// What the task is called.
    pub name: Vec<u8>,
}

/// Reads up to `length` bytes at `offset`.
fn read_at(file: &File, offset: u64, length: usize) -> SysResult<Vec<u8>> {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let at = offset.checked_add(bytes.len() as u64).ok_or(Errno::EINVAL)?;
        let room = length - bytes.len();
        let read = file
            .read_at(at, &mut UserWriter::buffer(&mut bytes, room))
            .map_err(crate::error::SysError::errno)?;
        if read == 0 {
            break;
        }
    }
    Ok(bytes)
}

/// What a file begins with.
struct Head<'a> {
    file: &'a File,
    bytes: Vec<u8>,
}

impl Head<'_> {
    fn of(file: &File) -> SysResult<Head<'_>> {
        Ok(Head { file, bytes: read_at(file, 0, HEAD)? })
    }

    /// What tells what the file is.
    fn start(&self) -> &[u8] {
        &self.bytes[..self.bytes.len().min(START)]
    }

    /// Up to `length` bytes at `offset`.
    fn read(&self, offset: u64, length: usize) -> SysResult<Vec<u8>> {
        let known = usize::try_from(offset).ok().and_then(|at| self.bytes.get(at..at.checked_add(length)?));
        known.map_or_else(|| read_at(self.file, offset, length), |known| Ok(known.to_vec()))
    }
}

/// The interpreter of a script and its optional argument. Of a line that is longer than the beginning of the file that
/// is looked at, only the argument may be cut off.
fn script_line(start: &[u8]) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let line = start.strip_prefix(b"#!")?;
    let whole = start.len() < START;
    let end = line.iter().position(|byte| *byte == b'\n');
    let cut = end.is_none() && !whole;
    let end = end.unwrap_or(if whole { line.len() } else { line.len() - 1 });
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | 0);
    let line = &line[..end];
    let first = line.iter().position(|byte| !blank(byte))?;
    let last = line.iter().rposition(|byte| !blank(byte))?;
    let line = &line[first..=last];
    let split = line.iter().position(blank);
    if cut && split.is_none() && last == end - 1 {
        return None;
    }
    let split = split.unwrap_or(line.len());
    let rest = &line[split..];
    let argument = rest.iter().position(|byte| !blank(byte)).map(|at| rest[at..].to_vec());
    Some((line[..split].to_vec(), argument))
}

/// Loads a program for a task with these credentials. `open` opens an interpreter by its path, as the caller would.
pub fn load(
    platform: &dyn Platform,
    credentials: &Credentials,
    stack_limit: u64,
    mut program: Program,
    open: impl Fn(&[u8]) -> SyscallResult<Arc<File>>,
) -> SyscallResult<Loaded> {
    let name = program.name.base();
    let mut scripts = 0;
    let (elf, interpreter) = loop {
        let file = Arc::clone(&program.file);
        let head = Head::of(&file)?;
        match script_line(head.start()) {
            Some((interpreter, argument)) => {
                scripts += 1;
                if scripts > MAX_SCRIPTS {
                    return Err(Errno::ELOOP.into());
                }
                if program.name.inaccessible {
                    return Err(Errno::ENOENT.into());
                }
                // The script's path takes the place of its first argument, behind the interpreter's own.
                let script = program.name.path.clone();
                let rest = program.arguments.split_off(program.arguments.len().min(1));
                program.arguments =
                    [interpreter.clone()].into_iter().chain(argument).chain([script]).collect();
                program.arguments.extend(rest);
                program.file = open(&interpreter)?;
                program.name = ProgramName { path: interpreter, base: None, inaccessible: false };
            }
            None => {
                let elf = Elf::parse(head.start(), |offset, length| head.read(offset, length))?;
                let path = match elf.interpreter {
                    Some((offset, length)) => Some((head.read(offset, length)?, length)),
                    None => None,
                };
                break (elf, path);
            }
        }
    };
    let interpreter = match interpreter {
        None => None,
        Some((path, length)) => {
            let path =
                path.strip_suffix(b"\0").filter(|path| path.len() + 1 == length).ok_or(Errno::ENOEXEC)?;
            let file = open(path)?;
            let head = Head::of(&file)?;
            // A broken interpreter is ELIBBAD, which libc tells from a broken program.
            let elf = Elf::parse(head.start(), |offset, length| head.read(offset, length))
                .map_err(|_| Errno::ELIBBAD)?;
            if elf.segments.is_empty() {
                return Err(Errno::ELIBBAD.into());
            }
            // A loader may be replaced while programs run by it, unlike the programs themselves.
            file.set_text_use(None);
            Some((file, elf))
        }
    };
    if elf.segments.is_empty() {
        return Err(Errno::ENOEXEC.into());
    }

    let mut context = platform.create()?;
    let memory = MemoryMap::new(&*context, platform.guest_range());
    let executable_stack = elf.executable_stack;
    let mut image = Image::default();
    // As large as it may grow, within reason: its pages are the host's until they are touched.
    let size = stack_limit.clamp(32 * PAGE_SIZE, 8 << 20);
    let stack_end = memory.map_stack(&mut image.plan, size, stack_limit, executable_stack)?;
    let mut shown = [0; 16];
    let length = name.len().min(15);
    shown[..length].copy_from_slice(&name[..length]);
    let strings = place_strings(stack_end, &program);
    context.describe(Description { name: shown, strings: Some(strings.clone()) });
    let base = if elf.interpreter.is_some() || !elf.relocatable { PIE_BASE } else { PIE_BASE / 2 };
    let bias = image.map(&memory, &program.file, &elf, base)?;
    let (entry, interpreter_base) = match &interpreter {
        None => (elf.entry.wrapping_add(bias), 0),
        Some((file, interpreter)) => {
            let bias = image.map(&memory, file, interpreter, 0)?;
            (interpreter.entry.wrapping_add(bias), bias.wrapping_add(interpreter.extent().start))
        }
    };
    image.carry_out(&memory, &mut *context)?;
    memory.set_brk_start(elf.extent().end.wrapping_add(bias));

    let auxv = Auxv {
        headers: elf.headers_address.wrapping_add(bias),
        header_count: elf.header_count,
        base: interpreter_base,
        entry: elf.entry.wrapping_add(bias),
        vdso: platform.vdso().map(|vdso| vdso.image.start),
    };
    let mut layout = Layout {
        code: bias.wrapping_add(elf.extent().start)..bias.wrapping_add(elf.extent().end),
        brk_start: memory.brk(),
        executable: Some(Arc::clone(&program.file)),
        ..Layout::default()
    };
    let stack = build_stack(&memory, strings, &program, credentials, &auxv, &mut layout)?;
    layout.stack_start = stack;
    *memory.layout.lock() = layout;
    let registers = context.registers_mut();
    registers.rip = entry;
    registers.rsp = stack;
    Ok(Loaded { context, memory, name })
}

/// What a new address space is to hold.
#[derive(Default)]
struct Image {
    plan: Plan,
    /// What is to be zeroed behind the files' ends: address and length.
    zeros: Vec<(u64, usize)>,
}

impl Image {
    /// Maps the segments of an image; returns what was added to its addresses. `base` is where a relocatable image goes,
    /// zero for anywhere.
    fn map(&mut self, memory: &MemoryMap, file: &Arc<File>, elf: &Elf, base: u64) -> SysResult<u64> {
        let extent = elf.extent();
        let length = extent.end - extent.start;
        let bias = if elf.relocatable {
            // Nobody else maps anything in this space, so that the segments keep their distances.
            let align = elf.alignment();
            let room = length.checked_add(align - PAGE_SIZE).ok_or(Errno::ENOMEM)?;
            let start = memory.find_room(base, room)?;
            let aligned = (start + align - 1) & !(align - 1);
            aligned.wrapping_sub(extent.start)
        } else {
            0
        };
        for segment in &elf.segments {
            self.map_segment(memory, file, segment, (elf.relocatable, bias))?;
        }
        Ok(bias)
    }

    fn map_segment(
        &mut self,
        memory: &MemoryMap,
        file: &Arc<File>,
        segment: &Segment,
        (relocatable, bias): (bool, u64),
    ) -> SysResult<()> {
        let fixed = if relocatable { MAP_FIXED } else { MAP_FIXED_NOREPLACE };
        let address = segment.address.wrapping_add(bias);
        let page = address & !(PAGE_SIZE - 1);
        let lead = address - page;
        let file_end = address + segment.file_size;
        let mapped_end = (file_end + PAGE_SIZE - 1) & !(PAGE_SIZE - 1);
        if segment.file_size > 0 {
            let request = MapRequest {
                address: page,
                length: mapped_end - page,
                protection: segment.protection(),
                flags: MAP_PRIVATE | fixed,
                file: Some((Arc::clone(file), segment.offset - lead)),
                name: "",
            };
            memory.map(&mut self.plan, &request)?;
        }
        let end = address + segment.memory_size;
        let zero_start = if segment.file_size > 0 { mapped_end } else { page };
        if segment.memory_size <= segment.file_size {
            return Ok(());
        }
        // The rest of the file's last page belongs to the zeroed part; a page that cannot be written stays.
        let tail = mapped_end.min(end).saturating_sub(file_end);
        if segment.file_size > 0 && tail > 0 && segment.flags & 2 != 0 {
            self.zeros.push((file_end, (mapped_end - file_end) as usize));
        }
        if end > zero_start {
            let request = MapRequest {
                address: zero_start,
                length: end - zero_start,
                protection: segment.protection(),
                flags: MAP_PRIVATE | MAP_ANONYMOUS | fixed,
                file: None,
                name: "",
            };
            memory.map(&mut self.plan, &request)?;
        }
        Ok(())
    }

    /// Makes it so.
    fn carry_out(&self, memory: &MemoryMap, context: &mut dyn Context) -> SysResult<()> {
        self.plan.carry_out(context)?;
        for (address, length) in &self.zeros {
            if memory.space().write(*address, &vec![0; *length]) != *length {
                return Err(Errno::ENOEXEC);
            }
        }
        Ok(())
    }
}

/// What the auxiliary vector tells of the image.
struct Auxv {
    headers: u64,
    header_count: u64,
    base: u64,
    entry: u64,
    vdso: Option<u64>,
}

/// Where the strings of a program lie, below its path at the end of the stack: arguments and environment.
fn place_strings(end: u64, program: &Program) -> (Range<u64>, Range<u64>) {
    let length = |strings: &[Vec<u8>]| strings.iter().map(|string| string.len() as u64 + 1).sum::<u64>();
    let path = end - 8 - (program.name.path.len() as u64 + 1);
    let environment = path - length(&program.environment);
    (environment - length(&program.arguments)..environment, environment..path)
}

/// Writes arguments, environment and auxiliary vector to the top of the stack; returns the stack pointer.
fn build_stack(
    memory: &MemoryMap,
    (arguments, environment): (Range<u64>, Range<u64>),
    program: &Program,
    credentials: &Credentials,
    auxv: &Auxv,
    layout: &mut Layout,
) -> SysResult<u64> {
    // Strings, from the top down: path, then environment and arguments in order.
    let mut strings = Vec::new();
    let mut starts = Vec::with_capacity(program.arguments.len() + program.environment.len());
    for string in program.arguments.iter().chain(&program.environment) {
        starts.push(strings.len() as u64);
        strings.extend_from_slice(string);
        strings.push(0);
    }
    let path_at = strings.len() as u64;
    strings.extend_from_slice(&program.name.path);
    strings.push(0);
    let string_base = arguments.start;
    let platform_base = (string_base - 64) & !15;
    let random = platform_base + 16;
    let mut random_bytes = [0; 16];
    rustix::rand::getrandom(&mut random_bytes, rustix::rand::GetRandomFlags::empty())?;

    let secure = credentials.uid != credentials.effective_uid || credentials.gid != credentials.effective_gid;
    let users = [credentials.uid, credentials.effective_uid].map(|uid| credentials.shown_uid(uid));
    let groups = [credentials.gid, credentials.effective_gid].map(|gid| credentials.shown_gid(gid));
    let ids = [users[0], users[1], groups[0], groups[1]];
    let mut vector: Vec<(u64, u64)> = vec![
        (16, crate::task::processor::hwcap()),
        (6, PAGE_SIZE),
        (17, 100),
        (3, auxv.headers),
        (4, 56),
        (5, auxv.header_count),
        (7, auxv.base),
        (8, 0),
        (9, auxv.entry),
        (11, ids[0].into()),
        (12, ids[1].into()),
        (13, ids[2].into()),
        (14, ids[3].into()),
        (23, secure.into()),
        (25, random),
        (26, crate::task::processor::HWCAP2),
        (31, string_base + path_at),
        (15, platform_base),
        (51, 3632),
    ];
    if let Some(vdso) = auxv.vdso {
        vector.insert(0, (33, vdso));
    }
    vector.push((0, 0));

    let argument_count = program.arguments.len();
    let words = 1 + argument_count + 1 + program.environment.len() + 1 + vector.len() * 2;
    let pointer = (platform_base - words as u64 * 8) & !15;
    let mut block: Vec<u64> = Vec::with_capacity(words);
    block.push(argument_count as u64);
    block.extend(starts[..argument_count].iter().map(|start| string_base + start));
    block.push(0);
    block.extend(starts[argument_count..].iter().map(|start| string_base + start));
    block.push(0);
    block.extend(vector.iter().flat_map(|(kind, value)| [*kind, *value]));

    // All of it in one piece, as it lies there.
    let mut bytes: Vec<u8> = block.iter().flat_map(|word| word.to_ne_bytes()).collect();
    for (address, part) in
        [(platform_base, &b"x86_64\0"[..]), (random, &random_bytes), (string_base, &strings[..])]
    {
        bytes.resize((address - pointer) as usize, 0);
        bytes.extend_from_slice(part);
    }
    if memory.space().write(pointer, &bytes) != bytes.len() {
        return Err(Errno::E2BIG);
    }
    (layout.arguments, layout.environment) = (arguments, environment);
    layout.auxv =
        vector.iter().flat_map(|(kind, value)| [*kind, *value]).flat_map(u64::to_ne_bytes).collect();
    Ok(pointer)
}

/// The ids that a program's set-user-id and set-group-id bits give, unless its mount ignores them.
fn set_ids(file: &File) -> (Option<u32>, Option<u32>) {
    let ignored =
        file.path().is_some_and(|place| place.mount.flags().contains(crate::fs::mount::MountFlags::NO_SUID));
    let Some(metadata) = file.inode().and_then(|inode| inode.metadata().ok()).filter(|_| !ignored) else {
        return (None, None);
    };
    let user = (metadata.mode & abi::fs::S_ISUID != 0).then_some(metadata.uid);
    // Without execution by the group the bit means mandatory locking, which is gone.
    let group_bit = metadata.mode & abi::fs::S_ISGID != 0 && metadata.mode & 0o010 != 0;
    (user, group_bit.then_some(metadata.gid))
}

/// What a process with these credentials has when it runs a program.
pub(crate) fn credentials_with(before: &Credentials, program: &File) -> Credentials {
    super::identity::credentials_for_exec(before, set_ids(program))
}

impl CurrentTask {
    /// `execve(2)`: replaces the program. On success the task's registers are those of the new program.
    pub fn exec(&self, program: Program) -> SyscallResult<()> {
        let total: usize = program.arguments.iter().chain(&program.environment).map(|s| s.len() + 9).sum();
        let limit = self.group.limit(Resource::Stack);
        // A quarter of the stack's limit, at least 128 KiB, at most 6 MiB.
        let room = (limit / 4).clamp(128 << 10, 6 << 20);
        if total as u64 > room {
            return Err(Errno::E2BIG.into());
        }
        let set_ids = if self.ptrace.is_traced() { (None, None) } else { set_ids(&program.file) };
        let after = super::identity::credentials_for_exec(&self.credentials(), set_ids);
        let open = |path: &[u8]| crate::fs::open_executable(self, path);
        let loaded = load(&*self.group.container.platform, &after, limit, program, open)?;

        let before = self.tid();
        // From here on there is no way back.
        self.leave_siblings()?;
        self.leave_direct_files();
        self.release_address_space();
        let (old_context, used) = self.replace_context(loaded.context);
        let old_memory = self.set_memory(Some(loaded.memory));
        self.set_comm(&loaded.name);
        self.group.replace_time(used);
        drop(old_context);
        drop(old_memory);
        let files = self.own_files();
        for file in files.remove_where(|_, close_on_exec| close_on_exec) {
            crate::fs::locks::release_process(self.group.pid, &file);
            let _ = file.ops().flush(self);
        }
        crate::signal::reset_for_exec(self);
        self.group.timers.reset_for_exec();
        self.set_credentials(after);
        self.finish_vfork();
        self.trace_exec(before);
        Ok(())
    }
}

/// The flags that a program is opened with.
pub const EXEC_FLAGS: OpenFlags = OpenFlags::LARGEFILE;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_lines_are_split_as_linux_does() {
        let line =
            |text: &[u8]| script_line(text).map(|(i, a)| (String::from_utf8(i), a.map(String::from_utf8)));
        assert_eq!(line(b"#!/bin/sh\n"), Some((Ok("/bin/sh".into()), None)));
        assert_eq!(
            line(b"#! /usr/bin/env  a b \nx"),
            Some((Ok("/usr/bin/env".into()), Some(Ok("a b".into()))))
        );
        assert_eq!(line(b"#!\n"), None);
        let long = |text: &[u8]| [text, &[b'a'; START]].concat()[..START].to_vec();
        assert_eq!(line(&long(b"#!/bin/")), None);
        let (_, argument) = script_line(&long(b"#!/bin/sh ")).unwrap();
        assert_eq!(argument.map(|argument| argument.len()), Some(START - 11));
        assert_eq!(line(b"echo"), None);
    }
}
