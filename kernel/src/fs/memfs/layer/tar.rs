//! The format of tar archives as far as layers need it: POSIX headers with extended ones (*pax*) before them for what does not
//! fit, and files with holes as GNU tar has them (sparse format 1.0).
//!
//! What is read is data of strangers: everything that is kept has a limit.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use abi::time::TimeSpec;

use crate::fs::AclKind;
use crate::fs::acl::Unchecked;
use crate::namespace::user::UserNamespace;

/// What archives are made of.
const BLOCK: usize = 512;
/// The most bytes of an extended header, which holds extended attributes.
const MAX_EXTENDED: u64 = 1 << 20;
/// The most parts of a file with holes.
const MAX_SEGMENTS: usize = 1 << 18;
/// The longest path.
pub const MAX_PATH: usize = 32 << 10;
/// Before the name of an extended attribute.
const XATTR: &str = "SCHILY.xattr.";
/// What access control lists are called that stand in an archive as text.
const LISTS: [(&[u8], AclKind); 2] =
    [(b"SCHILY.acl.access", AclKind::Access), (b"SCHILY.acl.default", AclKind::Default)];

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

const KINDS: [(u8, Kind); 9] = [
    (b'0', Kind::File),
    (b'1', Kind::HardLink),
    (b'2', Kind::Symlink),
    (b'3', Kind::CharDevice),
    (b'4', Kind::BlockDevice),
    (b'5', Kind::Directory),
    (b'6', Kind::Fifo),
    (0, Kind::File),
    (b'7', Kind::File),
];

/// What stands before the content of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub path: Vec<u8>,
    /// Where a link leads.
    pub link: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// How many bytes of content follow.
    pub size: u64,
    pub modified: TimeSpec,
    pub accessed: Option<TimeSpec>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The size of a file with holes, of which what follows are the parts, after a list of them.
    pub sparse: Option<u64>,
}

impl Header {
    /// One of an empty file.
    pub fn new(kind: Kind, path: Vec<u8>) -> Header {
        Header {
            kind,
            path,
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            modified: TimeSpec::default(),
            accessed: None,
            device: (0, 0),
            xattrs: BTreeMap::new(),
            sparse: None,
        }
    }

    /// Writes it, and before it the extended header with what does not fit.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut extended = Vec::new();
        let mut block = [0; BLOCK];
        let mut text = |range: std::ops::Range<usize>, key: &str, value: &[u8]| {
            let length = value.len().min(range.len());
            block[range.start..range.start + length].copy_from_slice(&value[..length]);
            if value.len() > range.len() {
                record(&mut extended, key, value);
            }
        };
        match self.sparse {
            None => text(0..100, "path", &self.path),
            Some(_) => text(0..100, "path", &[b"GNUSparseFile.0/", &self.path[..]].concat()),
        }
        text(157..257, "linkpath", &self.link);
        if let Some(size) = self.sparse {
            for (key, value) in [("major", "1"), ("minor", "0"), ("realsize", &size.to_string())] {
                record(&mut extended, &format!("GNU.sparse.{key}"), value.as_bytes());
            }
            record(&mut extended, "GNU.sparse.name", &self.path);
        }
        let seconds = u64::try_from(self.modified.sec).ok();
        for (range, key, value) in [
            (100..108, "", Some(u64::from(self.mode & 0o7777))),
            (108..116, "uid", Some(u64::from(self.uid))),
            (116..124, "gid", Some(u64::from(self.gid))),
            (124..136, "size", Some(self.size)),
            (136..148, "", seconds),
            (329..337, "", Some(u64::from(self.device.0))),
            (337..345, "", Some(u64::from(self.device.1))),
        ] {
            let digits = range.len() - 1;
            let octal = value.map(|value| format!("{value:0digits$o}")).filter(|octal| octal.len() == digits);
            match (octal, value) {
                (Some(octal), _) => {
                    block[range.start..range.start + digits].copy_from_slice(octal.as_bytes())
                }
                (None, Some(value)) if !key.is_empty() => {
                    block[range.start..range.start + digits].fill(b'0');
                    record(&mut extended, key, value.to_string().as_bytes());
                }
                (None, _) => block[range.start..range.start + digits].fill(b'0'),
            }
        }
        let plain = seconds.is_some_and(|seconds| seconds < 1 << 33) && self.modified.nsec == 0;
        if !plain {
            record(&mut extended, "mtime", decimal(self.modified).as_bytes());
        }
        if let Some(accessed) = self.accessed {
            record(&mut extended, "atime", decimal(accessed).as_bytes());
        }
        for (name, value) in &self.xattrs {
            let key = [XATTR.as_bytes(), name].concat();
            record_bytes(&mut extended, &key, value);
        }
        let byte = KINDS.iter().find(|(_, kind)| *kind == self.kind).map_or(b'0', |(byte, _)| *byte);
        finish(&mut block, byte);
        if !extended.is_empty() {
            let mut before = [0; BLOCK];
            before[..10].copy_from_slice(b"PaxHeaders");
            before[100..107].copy_from_slice(b"0000644");
            before[108..115].fill(b'0');
            before[116..123].fill(b'0');
            before[124..135].copy_from_slice(format!("{:011o}", extended.len()).as_bytes());
            before[136..147].fill(b'0');
            finish(&mut before, b'x');
            out.write_all(&before)?;
            out.write_all(&extended)?;
            pad(out, extended.len() as u64)?;
        }
        out.write_all(&block)
    }
}

/// Fills what is the same in all headers, and the sum.
fn finish(block: &mut [u8; BLOCK], kind: u8) {
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum = checksum(block);
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// The sum of all bytes, those of the sum taken for spaces.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    let all: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let own: u32 = block[148..156].iter().map(|byte| u32::from(*byte)).sum();
    all - own + 8 * u32::from(b' ')
}

fn record(extended: &mut Vec<u8>, key: &str, value: &[u8]) {
    record_bytes(extended, key.as_bytes(), value);
}

/// A record of an extended header: its length, which counts itself, the key and the value.
fn record_bytes(extended: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    extended.extend_from_slice(format!("{length} ").as_bytes());
    extended.extend_from_slice(key);
    extended.push(b'=');
    extended.extend_from_slice(value);
    extended.push(b'\n');
}

/// A time with its fraction of a second.
fn decimal(time: TimeSpec) -> String {
    match (time.sec, time.nsec) {
        (sec, 0) => sec.to_string(),
        // -1.25 is three quarters of a second after -2.
        (sec @ ..0, nsec) => format!("-{}.{:09}", -(sec + 1), 1_000_000_000 - nsec),
        (sec, nsec) => format!("{sec}.{nsec:09}"),
    }
}

fn parse_time(text: &str) -> Option<TimeSpec> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok().filter(|seconds| (0..i64::MAX).contains(seconds))?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: i64 = digits.parse().ok()?;
    Some(match (negative, nanoseconds) {
        (false, nsec) => TimeSpec { sec: seconds, nsec },
        (true, 0) => TimeSpec { sec: -seconds, nsec: 0 },
        (true, nsec) => TimeSpec { sec: -seconds - 1, nsec: 1_000_000_000 - nsec },
    })
}

/// Fills the last block of some content.
pub fn pad(out: &mut dyn Write, size: u64) -> io::Result<()> {
    let rest = size.wrapping_neg() as usize % BLOCK;
    out.write_all(&[0; BLOCK][..rest])
}

/// The end of an archive.
pub fn end(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}

/// The list of a file's parts, each a place and a length, that stands before them.
pub fn segment_list(segments: &[(u64, u64)]) -> Vec<u8> {
    let mut list = format!("{}\n", segments.len()).into_bytes();
    for (at, length) in segments {
        list.extend_from_slice(format!("{at}\n{length}\n").as_bytes());
    }
    list.resize(list.len().next_multiple_of(BLOCK), 0);
    list
}

/// What is wrong with an archive.
fn bad(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Reads an archive, entry by entry.
pub struct Reader<R> {
    from: R,
    /// How much of the content of the current entry is left, and of the block that it ends in.
    left: u64,
    padding: u64,
}

impl<R: Read> Reader<R> {
    pub fn new(from: R) -> Reader<R> {
        Reader { from, left: 0, padding: 0 }
    }

    /// The next entry, whose content can be read then; none at the end.
    pub fn next(&mut self) -> io::Result<Option<Header>> {
        let mut extended = Extended::default();
        loop {
            self.skip()?;
            let Some(block) = self.block()? else { return Ok(None) };
            let kind = block[156];
            let mut header = basic(&block)?;
            match kind {
                b'x' => {
                    let text = self.extension(header.size)?;
                    extended.read(&text)?;
                }
                b'L' => extended.path = Some(self.name(header.size)?),
                b'K' => extended.link = Some(self.name(header.size)?),
                // What holds for all entries is nothing that matters here.
                b'g' => self.begin(header.size),
                b'S' => return Err(bad("files with holes in the old format of GNU tar are not supported")),
                _ => {
                    let known = KINDS.iter().find(|(byte, _)| *byte == kind);
                    let known = known.ok_or_else(|| {
                        bad(format!("entries of type {:?} are not supported", char::from(kind)))
                    })?;
                    header.kind = known.1;
                    extended.apply(&mut header);
                    if header.path.len() > MAX_PATH || header.link.len() > MAX_PATH {
                        return Err(bad("a path is too long"));
                    }
                    if i64::try_from(header.size).is_err()
                        || header.sparse.is_some_and(|size| i64::try_from(size).is_err())
                    {
                        return Err(bad("a file is too large"));
                    }
                    // Links have no content, whatever their size says.
                    let content = if header.kind == Kind::File { header.size } else { 0 };
                    self.begin(content);
                    return Ok(Some(header));
                }
            }
        }
    }

    /// The parts of the current entry, a file with holes, whose list comes first.
    pub fn segments(&mut self) -> io::Result<Vec<(u64, u64)>> {
        let mut taken = 0;
        let count = self.number(&mut taken)?;
        let mut segments = Vec::new();
        if count > MAX_SEGMENTS as u64 {
            return Err(bad("a file has too many holes"));
        }
        for _ in 0..count {
            segments.push((self.number(&mut taken)?, self.number(&mut taken)?));
        }
        // The content begins with a block.
        let mut rest = vec![0; taken.next_multiple_of(BLOCK) - taken];
        self.read_exact(&mut rest)?;
        Ok(segments)
    }

    /// A number on a line of its own.
    fn number(&mut self, taken: &mut usize) -> io::Result<u64> {
        let mut number: u64 = 0;
        for _ in 0..=20 {
            let mut byte = [0];
            self.read_exact(&mut byte)?;
            *taken += 1;
            match byte[0] {
                b'\n' => return Ok(number),
                digit @ b'0'..=b'9' => {
                    let digit = u64::from(digit - b'0');
                    let next = number.checked_mul(10).and_then(|number| number.checked_add(digit));
                    number = next.ok_or_else(|| bad("a list of holes has a number that is too large"))?;
                }
                _ => break,
            }
        }
        Err(bad("a list of holes cannot be read"))
    }

    fn begin(&mut self, size: u64) {
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    /// Leaves what is left of the current entry.
    fn skip(&mut self) -> io::Result<()> {
        let rest = self.left.saturating_add(self.padding);
        let skipped = io::copy(&mut (&mut self.from).take(rest), &mut io::sink())?;
        // Nobody needs the end of the last block.
        let missing = skipped < self.left;
        self.begin(0);
        if missing { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// The next block; none at the end, which is a block of zeros or that of the file.
    fn block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.from.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(block.iter().any(|byte| *byte != 0).then_some(block))
    }

    /// The content of an entry that tells of the next.
    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_EXTENDED {
            return Err(bad("an extended header is too large"));
        }
        self.begin(size);
        let mut text = Vec::new();
        self.read_to_end(&mut text)?;
        if text.len() as u64 == size { Ok(text) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn name(&mut self, size: u64) -> io::Result<Vec<u8>> {
        let name = self.extension(size)?;
        Ok(until_zero(&name).to_vec())
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.from.read(&mut buffer[..length])?;
        self.left -= count as u64;
        Ok(count)
    }
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number of a header: octal digits, or where the first bit is set, binary.
fn number(field: &[u8]) -> io::Result<u64> {
    let unreadable = || bad("a number in a header cannot be read");
    if let [first, rest @ ..] = field
        && first & 0x80 != 0
    {
        let bytes = std::iter::once(first & 0x7f).chain(rest.iter().copied());
        return bytes.into_iter().try_fold(0_u64, |number, byte| {
            number.checked_mul(256).map(|number| number | u64::from(byte)).ok_or_else(unreadable)
        });
    }
    let text = std::str::from_utf8(until_zero(field)).map_err(|_| unreadable())?.trim_matches(' ');
    if text.is_empty() { Ok(0) } else { u64::from_str_radix(text, 8).map_err(|_| unreadable()) }
}

/// What a header says by itself.
fn basic(block: &[u8; BLOCK]) -> io::Result<Header> {
    if number(&block[148..156]).ok() != Some(u64::from(checksum(block))) {
        return Err(bad("this is no tar archive: the sum in a header is wrong"));
    }
    let small =
        |field: &[u8]| u32::try_from(number(field)?).map_err(|_| bad("a number in a header is too large"));
    let name = until_zero(&block[..100]);
    let prefix = if &block[257..263] == b"ustar\0" { until_zero(&block[345..500]) } else { b"" };
    let path = if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() };
    let seconds = i64::try_from(number(&block[136..148])?).map_err(|_| bad("a time is too large"))?;
    Ok(Header {
        link: until_zero(&block[157..257]).to_vec(),
        mode: small(&block[100..108])? & 0o7777,
        uid: small(&block[108..116])?,
        gid: small(&block[116..124])?,
        size: number(&block[124..136])?,
        modified: TimeSpec { sec: seconds, nsec: 0 },
        device: (small(&block[329..337])?, small(&block[337..345])?),
        ..Header::new(Kind::File, path)
    })
}

/// What extended headers say.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    modified: Option<TimeSpec>,
    accessed: Option<TimeSpec>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    sparse_version: (Option<u64>, Option<u64>),
    sparse_name: Option<Vec<u8>>,
    sparse: Option<u64>,
}

impl Extended {
    /// Reads the records of one.
    fn read(&mut self, mut text: &[u8]) -> io::Result<()> {
        let unreadable = || bad("an extended header cannot be read");
        while !text.is_empty() {
            let space = text.iter().take(20).position(|byte| *byte == b' ').ok_or_else(unreadable)?;
            let length =
                std::str::from_utf8(&text[..space]).ok().and_then(|digits| digits.parse::<usize>().ok());
            let length =
                length.filter(|length| (space + 2..=text.len()).contains(length)).ok_or_else(unreadable)?;
            let (record, rest) = text.split_at(length);
            let record = record[space + 1..].strip_suffix(b"\n").ok_or_else(unreadable)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(unreadable)?;
            self.take(&record[..equals], &record[equals + 1..])?;
            text = rest;
        }
        match self.sparse_version {
            (None, None) | (Some(1), Some(0)) => Ok(()),
            _ => Err(bad("files with holes are supported in the format 1.0 of GNU tar only")),
        }
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if let Some(name) = key.strip_prefix(XATTR.as_bytes()) {
            self.xattrs.insert(name.to_vec(), value.to_vec());
            return Ok(());
        }
        if let Some((_, kind)) = LISTS.iter().find(|(name, _)| *name == key) {
            return self.take_list(*kind, value);
        }
        let unreadable =
            || bad(format!("an extended header has no readable {}", String::from_utf8_lossy(key)));
        let text = || std::str::from_utf8(value).map_err(|_| unreadable());
        let large = || text()?.parse::<u64>().map_err(|_| unreadable());
        let small = || text()?.parse::<u32>().map_err(|_| unreadable());
        let time = || parse_time(text()?).ok_or_else(unreadable);
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(large()?),
            b"uid" => self.uid = Some(small()?),
            b"gid" => self.gid = Some(small()?),
            b"mtime" => self.modified = Some(time()?),
            b"atime" => self.accessed = Some(time()?),
            b"GNU.sparse.major" => self.sparse_version.0 = Some(large()?),
            b"GNU.sparse.minor" => self.sparse_version.1 = Some(large()?),
            b"GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
            b"GNU.sparse.realsize" => self.sparse = Some(large()?),
            // The older formats.
            key if key.starts_with(b"GNU.sparse.") => self.sparse_version = (Some(0), None),
            _ => {}
        }
        Ok(())
    }

    /// Takes an access control list in text as the attribute that shows it.
    fn take_list(&mut self, kind: AclKind, text: &[u8]) -> io::Result<()> {
        if text.trim_ascii().is_empty() {
            return Ok(());
        }
        let root = UserNamespace::root();
        let list = std::str::from_utf8(text).ok().and_then(Unchecked::read_text);
        let list = list.and_then(|list| list.check(&root).ok()).ok_or_else(|| {
            bad("an access control list cannot be read; users and groups have to be numbers, not names")
        })?;
        self.xattrs.insert(kind.attribute().to_vec(), list.to_bytes(&root));
        Ok(())
    }

    fn apply(self, header: &mut Header) {
        header.path = self.sparse_name.or(self.path).unwrap_or(std::mem::take(&mut header.path));
        header.link = self.link.unwrap_or(std::mem::take(&mut header.link));
        header.size = self.size.unwrap_or(header.size);
        header.uid = self.uid.unwrap_or(header.uid);
        header.gid = self.gid.unwrap_or(header.gid);
        header.modified = self.modified.unwrap_or(header.modified);
        header.accessed = self.accessed;
        header.xattrs = self.xattrs;
        header.sparse = self.sparse.filter(|_| self.sparse_version.0.is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(header: &Header) -> Vec<u8> {
        let mut bytes = Vec::new();
        header.write(&mut bytes).unwrap();
        end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_header_is_read_back_as_it_was_written() {
        let plain = Header {
            mode: 0o4755,
            uid: 12,
            gid: 34,
            modified: TimeSpec { sec: 1_000_000_000, nsec: 0 },
            ..Header::new(Kind::Directory, b"a/b".to_vec())
        };
        assert_eq!(written(&plain).len(), 3 * BLOCK);
        let full = Header {
            link: [b'l'; 300].to_vec(),
            uid: u32::MAX - 1,
            gid: 1 << 30,
            size: 1 << 40,
            modified: TimeSpec { sec: -3, nsec: 250_000_000 },
            accessed: Some(TimeSpec { sec: 7, nsec: 1 }),
            device: (0xfff, 0xf_ffff),
            xattrs: [(b"user.x".to_vec(), b"a\n\0=b".to_vec()), (b"user.y".to_vec(), vec![0; 70_000])].into(),
            ..Header::new(Kind::Symlink, b"p/".repeat(200))
        };
        let sparse = Header { sparse: Some(1 << 50), ..Header::new(Kind::File, [b'n'; 95].to_vec()) };
        for header in [plain, full, sparse] {
            let mut reader = Reader::new(&*written(&header).leak());
            assert_eq!(reader.next().unwrap().unwrap(), header);
            assert!(reader.next().unwrap().is_none());
        }
    }

    /// An extended header with one record, and the file that it is about.
    fn extended(key: &str, value: &str) -> Vec<u8> {
        let record = |length: usize| format!("{length} {key}={value}\n");
        let mut length = record(0).len();
        while record(length).len() != length {
            length = record(length).len();
        }
        let text = record(length);
        let mut header = Header { size: text.len() as u64, ..Header::new(Kind::File, b"x".to_vec()) };
        let mut bytes = Vec::new();
        header.write(&mut bytes).unwrap();
        bytes[156] = b'x';
        let mut block: [u8; BLOCK] = bytes[..BLOCK].try_into().unwrap();
        let sum = checksum(&block);
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes[..BLOCK].copy_from_slice(&block);
        bytes.extend(text.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        header.size = 0;
        header.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn access_control_lists_in_text_are_read() {
        let list = "user::rw-\nuser:1000:r--\ngroup::r--\nmask::r--\nother::---\n";
        let bytes = extended("SCHILY.acl.default", list);
        let header = Reader::new(&*bytes).next().unwrap().unwrap();
        let value = header.xattrs.get(AclKind::Default.attribute()).unwrap();
        let read = Unchecked::read(value).unwrap();
        assert_eq!(read.unwrap().check(&UserNamespace::root()), {
            Unchecked::read_text(list).unwrap().check(&UserNamespace::root())
        });
        let none = extended("SCHILY.acl.access", "");
        assert!(Reader::new(&*none).next().unwrap().unwrap().xattrs.is_empty());
        let named = extended("SCHILY.acl.access", &list.replace("1000", "lisa"));
        let error = Reader::new(&*named).next().unwrap_err().to_string();
        assert!(error.contains("numbers, not names"), "{error}");
    }

    #[test]
    fn times_before_1970_are_kept() {
        for (sec, nsec) in [(0, 0), (-1, 0), (-1, 1), (-1, 999_999_999), (5, 500_000_000), (-7, 30)] {
            let time = TimeSpec { sec, nsec };
            assert_eq!(parse_time(&decimal(time)), Some(time), "{}", decimal(time));
        }
        for text in ["", "-", "x", "1.x", "99999999999999999999"] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_and_no_panic() {
        let header = Header {
            xattrs: [(b"user.x".to_vec(), b"v".to_vec())].into(),
            ..Header::new(Kind::File, b"f".to_vec())
        };
        let bytes = written(&header);
        for at in 0..bytes.len() - 2 * BLOCK {
            for byte in [0, b' ', b'9', 0x80, 0xff] {
                let mut spoilt = bytes.clone();
                spoilt[at] = byte;
                // With the sum put right, so that it gets further.
                for start in [0, 2 * BLOCK] {
                    let mut block: [u8; BLOCK] = spoilt[start..start + BLOCK].try_into().unwrap();
                    let sum = checksum(&block);
                    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                    spoilt[start..start + BLOCK].copy_from_slice(&block);
                }
                let mut reader = Reader::new(&*spoilt);
                while let Ok(Some(_)) = reader.next() {
                    let _ = reader.segments();
                }
            }
        }
        for end in 1..bytes.len() {
            let mut reader = Reader::new(&bytes[..end]);
            while let Ok(Some(_)) = reader.next() {}
        }
        assert!(Reader::new(&[1; BLOCK][..]).next().is_err());
    }
}
