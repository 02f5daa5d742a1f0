//! ELF files as `execve(2)` reads them: headers are parsed into checked values, and nothing in them is trusted.

use abi::{Errno, SysResult};

/// The most program headers that Linux reads (one page of them).
const MAX_HEADERS: usize = 4096 / PROGRAM_HEADER;
const PROGRAM_HEADER: usize = 56;
const FILE_HEADER: usize = 64;

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_PHDR: u32 = 6;
const PT_GNU_STACK: u32 = 0x6474_e551;

/// A loadable segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// `PF_*`: 4 read, 2 write, 1 execute.
    pub flags: u32,
    /// Where it lies in the file.
    pub offset: u64,
    /// Where it goes, before relocation.
    pub address: u64,
    /// Bytes that come from the file.
    pub file_size: u64,
    /// Bytes in memory.
    pub memory_size: u64,
    /// Its alignment, a power of two or zero.
    pub align: u64,
}

impl Segment {
    /// `PROT_*` of the segment.
    pub fn protection(&self) -> u32 {
        (self.flags & 4) >> 2 | (self.flags & 2) | (self.flags & 1) << 2
    }
}

/// What `execve(2)` needs to know of an ELF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// Whether it may be loaded anywhere (`ET_DYN`).
    pub relocatable: bool,
    /// Where it starts.
    pub entry: u64,
    /// Where the program headers lie in memory, before relocation; zero if no segment holds them.
    pub headers_address: u64,
    /// How many program headers there are.
    pub header_count: u64,
    /// What to load, in ascending order.
    pub segments: Vec<Segment>,
    /// Where in the file the interpreter's path stands, and its length with the zero byte.
    pub interpreter: Option<(u64, usize)>,
    /// Whether the stack is to be executable.
    pub executable_stack: bool,
}

fn u16_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 2).map_or(0, |b| u64::from(u16::from_le_bytes([b[0], b[1]])))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

impl Elf {
    /// Parses a file of which `start` is the beginning; `read` gives further parts (offset, length). `ENOEXEC` for
    /// what is no x86-64 program.
    pub fn parse(start: &[u8], read: impl FnOnce(u64, usize) -> SysResult<Vec<u8>>) -> SysResult<Elf> {
        const MACHINE_X86_64: u64 = 62;
        if start.len() < FILE_HEADER || !start.starts_with(b"\x7fELF\x02\x01") {
            return Err(Errno::ENOEXEC);
        }
        let kind = u16_at(start, 16);
        let count = u16_at(start, 56) as usize;
        let known = matches!(kind, 2 | 3) && u16_at(start, 18) == MACHINE_X86_64;
        if !known || u16_at(start, 54) as usize != PROGRAM_HEADER || count == 0 || count > MAX_HEADERS {
            return Err(Errno::ENOEXEC);
        }
        let offset = u64_at(start, 32);
        let length = count * PROGRAM_HEADER;
        let headers = match usize::try_from(offset).ok().and_then(|at| start.get(at..at.checked_add(length)?))
        {
            Some(headers) => headers.to_vec(),
            None => read(offset, length)?,
        };
        if headers.len() < length {
            return Err(Errno::ENOEXEC);
        }
        let mut elf = Elf {
            relocatable: kind == 3,
            entry: u64_at(start, 24),
            headers_address: 0,
            header_count: count as u64,
            segments: Vec::new(),
            interpreter: None,
            executable_stack: true,
        };
        for header in headers.chunks_exact(PROGRAM_HEADER) {
            let segment = Segment {
                flags: u32_at(header, 4),
                offset: u64_at(header, 8),
                address: u64_at(header, 16),
                file_size: u64_at(header, 32),
                memory_size: u64_at(header, 40),
                align: u64_at(header, 48),
            };
            match u32_at(header, 0) {
                PT_LOAD if segment.memory_size == 0 => {}
                PT_LOAD => elf.add(segment, offset)?,
                PT_PHDR => elf.headers_address = segment.address,
                PT_INTERP if elf.interpreter.is_none() => {
                    let length = usize::try_from(segment.file_size).unwrap_or(usize::MAX);
                    if !(2..=4096).contains(&length) {
                        return Err(Errno::ENOEXEC);
                    }
                    elf.interpreter = Some((segment.offset, length));
                }
                PT_GNU_STACK => elf.executable_stack = segment.flags & 1 != 0,
                _ => {}
            }
        }
        Ok(elf)
    }

    /// Adds a segment after checking it: within an address space, the file and memory parts consistent, in order.
    fn add(&mut self, segment: Segment, headers: u64) -> SysResult<()> {
        const LIMIT: u64 = 1 << 47;
        let end = segment.address.checked_add(segment.memory_size).filter(|end| *end <= LIMIT);
        let congruent = segment.address % 4096 == segment.offset % 4096;
        let in_order =
            self.segments.last().is_none_or(|last| last.address + last.memory_size <= segment.address);
        let file_end = segment.offset.checked_add(segment.file_size);
        let consistent = segment.file_size <= segment.memory_size && file_end.is_some();
        if end.is_none() || !congruent || !in_order || !consistent {
            return Err(Errno::ENOEXEC);
        }
        let holds_headers = segment.offset <= headers && Some(headers) < file_end;
        if self.headers_address == 0 && holds_headers {
            self.headers_address = segment.address + (headers - segment.offset);
        }
        self.segments.push(segment);
        Ok(())
    }

    /// The pages that all segments cover, before relocation.
    pub fn extent(&self) -> std::ops::Range<u64> {
        let start = self.segments.first().map_or(0, |segment| segment.address);
        let end = self.segments.last().map_or(0, |segment| segment.address + segment.memory_size);
        start & !4095..(end + 4095) & !4095
    }

    /// The largest alignment that a segment asks for, at least a page.
    pub fn alignment(&self) -> u64 {
        let largest =
            self.segments.iter().map(|segment| segment.align).filter(|align| align.is_power_of_two()).max();
        largest.unwrap_or(0).clamp(4096, 1 << 30)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image() -> Vec<u8> {
        let mut image = vec![0; FILE_HEADER + 2 * PROGRAM_HEADER];
        image[..6].copy_from_slice(b"\x7fELF\x02\x01");
        image[16] = 3;
        image[18] = 62;
        image[24] = 0x10;
        image[32] = FILE_HEADER as u8;
        image[54] = PROGRAM_HEADER as u8;
        image[56] = 2;
        image[FILE_HEADER] = 1;
        image[FILE_HEADER + 4] = 5;
        image[FILE_HEADER + 33] = 1;
        image[FILE_HEADER + 41] = 2;
        image
    }

    #[test]
    fn a_small_program_is_understood() {
        let elf = Elf::parse(&image(), |_, _| Err(Errno::EIO)).expect("an ELF file");
        assert!(elf.relocatable);
        assert_eq!(elf.entry, 0x10);
        assert_eq!(elf.headers_address, FILE_HEADER as u64);
        assert_eq!(elf.segments[0].protection(), 5);
        assert_eq!(elf.extent(), 0..4096);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_fail_badly(changes in proptest::collection::vec((0usize..176, any::<u8>()), 0..20)) {
            let mut bytes = image();
            for (at, value) in changes {
                bytes[at] = value;
            }
            if let Ok(elf) = Elf::parse(&bytes, |_, length| Ok(vec![0xff; length.min(4096)])) {
                let extent = elf.extent();
                prop_assert!(extent.start <= extent.end && elf.alignment() >= 4096);
            }
        }
    }
}
