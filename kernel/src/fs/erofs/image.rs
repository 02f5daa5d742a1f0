//! The image: its superblock, its inodes, and where their content lies.
//!
//! Nothing in it is believed. A place is read only if it lies in the image, and what is read of a file is never more
//! than the image has, but for holes.

use std::os::fd::OwnedFd;

use abi::time::TimeSpec;
use abi::{Errno, SysResult};
use rustix::fs::SeekFrom;
use thiserror::Error;

use crate::fs::{FileType, Metadata};

/// What an image begins with, and what `statfs(2)` calls the file system.
pub const MAGIC: u32 = 0xe0f5_e1e2;
/// Where the superblock is, and what is known of it.
const SUPERBLOCK: u64 = 1024;
const SUPERBLOCK_SIZE: usize = 128;
/// The superblock has a checksum, a compatible feature.
const HAS_CHECKSUM: u32 = 1;
/// Incompatible features: those that come with compression (older and newer mean by one bit what goes together), those that
/// are refused by their names, and the one that is known.
const COMPRESSION: u32 = 0x01 | 0x02 | 0x10;
const CHUNKED: u32 = 0x04;
const REFUSED: [(u32, &str); 5] = [
    (0x08, "further devices"),
    (0x20, "packed fragments"),
    (0x40, "prefixes of extended attributes"),
    (0x80, "block numbers of 48 bits"),
    (0x100, "compressed metadata"),
];
/// Numbers of inodes count slots of this size.
const SLOT: u64 = 32;
/// The block that is none: a hole.
const NO_BLOCK: u32 = u32::MAX;

/// What keeps an image from being used.
#[derive(Debug, Error)]
pub enum Error {
    /// It is something else.
    #[error("it is no EROFS image")]
    NoImage,
    /// It is compressed.
    #[error("compressed EROFS images are not supported")]
    Compressed,
    /// It has something that is not supported.
    #[error("EROFS images with {0} are not supported")]
    Unsupported(String),
    /// It is damaged.
    #[error("the EROFS image is damaged: {0}")]
    Damaged(&'static str),
    /// It cannot be read.
    #[error("cannot read the EROFS image: {0}")]
    Unreadable(Errno),
}

/// An image.
pub struct Image {
    fd: OwnedFd,
    size: u64,
    block_bits: u32,
    /// Where inodes and shared extended attributes are counted from.
    inodes: u64,
    shared_xattrs: u64,
    /// What times are counted from.
    built: TimeSpec,
    pub(super) root: u64,
    pub(super) blocks: u64,
    pub(super) files: u64,
}

/// Little-endian numbers in a piece of an image that has been read.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_le_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// What is wrong with a file of a damaged image.
pub(super) const DAMAGED: Errno = Errno::EUCLEAN;

impl Image {
    /// Looks at an image.
    ///
    /// # Errors
    /// If it is none, damaged, or has what is not supported.
    pub fn open(fd: OwnedFd) -> Result<Image, Error> {
        let size =
            rustix::fs::seek(&fd, SeekFrom::End(0)).map_err(|error| Error::Unreadable(error.into()))?;
        let mut image = Image {
            fd,
            size,
            block_bits: 12,
            inodes: 0,
            shared_xattrs: 0,
            built: TimeSpec::default(),
            root: 0,
            blocks: 0,
            files: 0,
        };
        if size < SUPERBLOCK + SUPERBLOCK_SIZE as u64 {
            return Err(Error::NoImage);
        }
        let mut superblock = [0; SUPERBLOCK_SIZE];
        image.read(SUPERBLOCK, &mut superblock).map_err(Error::Unreadable)?;
        if u32_at(&superblock, 0) != MAGIC {
            return Err(Error::NoImage);
        }
        check_features(u32_at(&superblock, 80))?;
        image.block_bits = u32::from(superblock[12]);
        if !(9..=16).contains(&image.block_bits) {
            return Err(Error::Damaged("its blocks have an impossible size"));
        }
        if u32_at(&superblock, 8) & HAS_CHECKSUM != 0 {
            image.verify(u32_at(&superblock, 4))?;
        }
        if superblock[90] != 0 {
            return Err(Error::Unsupported("blocks of directories of their own size".to_owned()));
        }
        image.root = u64::from(u16_at(&superblock, 14));
        image.files = u64_at(&superblock, 16);
        image.built.sec = u64_at(&superblock, 24).cast_signed();
        image.built.nsec = i64::from(u32_at(&superblock, 32)).min(999_999_999);
        image.blocks = u64::from(u32_at(&superblock, 36));
        image.inodes = u64::from(u32_at(&superblock, 40)) << image.block_bits;
        image.shared_xattrs = u64::from(u32_at(&superblock, 44)) << image.block_bits;
        if image.blocks << image.block_bits > size {
            return Err(Error::Damaged("it is shorter than it says"));
        }
        Ok(image)
    }

    /// Compares the checksum of the superblock's block.
    fn verify(&self, wanted: u32) -> Result<(), Error> {
        let end = self.block_size().max(SUPERBLOCK + SUPERBLOCK_SIZE as u64);
        let end = if self.block_size() > SUPERBLOCK { end } else { SUPERBLOCK + self.block_size() };
        let mut block = vec![0; (end - SUPERBLOCK) as usize];
        self.read(SUPERBLOCK, &mut block).map_err(|_| Error::Damaged("it is shorter than a block"))?;
        block[4..8].fill(0);
        if crc32c(&block) == wanted { Ok(()) } else { Err(Error::Damaged("its checksum is wrong")) }
    }

    pub(super) fn block_size(&self) -> u64 {
        1 << self.block_bits
    }

    /// Whether so many bytes from a place on are in the image.
    fn holds(&self, at: u64, length: u64) -> bool {
        at.checked_add(length).is_some_and(|end| end <= self.size)
    }

    /// Reads from a place in the image.
    pub(super) fn read(&self, at: u64, buffer: &mut [u8]) -> SysResult<()> {
        if !self.holds(at, buffer.len() as u64) {
            return Err(DAMAGED);
        }
        let mut done = 0;
        while done < buffer.len() {
            match rustix::io::pread(&self.fd, &mut buffer[done..], at + done as u64) {
                // It has become shorter.
                Ok(0) => return Err(Errno::EIO),
                Ok(count) => done += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What is known of the file with this number.
    pub(super) fn inode(&self, number: u64) -> SysResult<Record> {
        let at =
            number.checked_mul(SLOT).and_then(|offset| offset.checked_add(self.inodes)).ok_or(DAMAGED)?;
        let mut bytes = [0; 64];
        self.read(at, &mut bytes[..32])?;
        let format = u16_at(&bytes, 0);
        let extended = format & 1 != 0;
        if extended {
            self.read(at, &mut bytes)?;
        }
        let own = if extended { 64 } else { 32 };
        let xattr_count = u64::from(u16_at(&bytes, 2));
        let xattrs = if xattr_count == 0 { 0 } else { 12 + (xattr_count - 1) * 4 };
        let mode = u32::from(u16_at(&bytes, 4));
        let (uid, gid) = match extended {
            true => (u32_at(&bytes, 24), u32_at(&bytes, 28)),
            false => (u32::from(u16_at(&bytes, 24)), u32::from(u16_at(&bytes, 26))),
        };
        let (links, size) = match extended {
            true => (u32_at(&bytes, 44), u64_at(&bytes, 8)),
            false => (u32::from(u16_at(&bytes, 6)), u64::from(u32_at(&bytes, 8))),
        };
        // Compact inodes tell no time, or since when the image was built.
        let modified = match extended {
            true => TimeSpec {
                sec: u64_at(&bytes, 32).cast_signed(),
                nsec: i64::from(u32_at(&bytes, 40)).min(999_999_999),
            },
            false => TimeSpec {
                sec: self.built.sec.wrapping_add(u32_at(&bytes, 12).into()),
                nsec: self.built.nsec,
            },
        };
        let kind = FileType::from_mode(mode);
        if mode & abi::fs::S_IFMT != kind.mode_bits() || i64::try_from(size).is_err() {
            return Err(DAMAGED);
        }
        let which = u32_at(&bytes, 16);
        let content = match kind {
            FileType::Regular | FileType::Directory | FileType::Symlink => {
                self.content(format, size, which, at + own + xattrs)?
            }
            _ => Content::Flat { start: 0 },
        };
        let device = matches!(kind, FileType::CharDevice | FileType::BlockDevice);
        let metadata = Metadata {
            inode: number,
            mode,
            links,
            uid,
            gid,
            rdev: if device {
                abi::fs::make_device((which >> 8) & 0xfff, which & 0xff | (which >> 12) & 0xf_ff00)
            } else {
                0
            },
            size,
            block_size: 4096,
            blocks: size.div_ceil(self.block_size()) * (self.block_size() / 512),
            accessed: modified,
            modified,
            changed: modified,
            ..Metadata::default()
        };
        Ok(Record { kind, metadata, content, xattrs: (at + own, xattrs) })
    }

    /// Where the content of an inode lies, which ends at `behind`.
    fn content(&self, format: u16, size: u64, which: u32, behind: u64) -> SysResult<Content> {
        const KNOWN: u16 = 0xf;
        let start = u64::from(which) << self.block_bits;
        match (format >> 1) & 7 {
            _ if format & !KNOWN != 0 => Err(Errno::EOPNOTSUPP),
            0 if size == 0 => Ok(Content::Flat { start: 0 }),
            0 if self.holds(start, size) => Ok(Content::Flat { start }),
            2 => {
                let tail_at = size.div_ceil(self.block_size()).saturating_sub(1) << self.block_bits;
                let tail = size - tail_at;
                let in_block = behind % self.block_size() + tail <= self.block_size();
                let whole = (tail_at == 0 || self.holds(start, tail_at)) && self.holds(behind, tail);
                if !in_block || !whole {
                    return Err(DAMAGED);
                }
                Ok(Content::Inline { start, tail_at, tail: behind })
            }
            4 => {
                const BITS: u32 = 0x1f;
                const INDEXES: u32 = 0x20;
                if which & 0xffff & !(BITS | INDEXES) != 0 {
                    return Err(Errno::EOPNOTSUPP);
                }
                let entry = if which & INDEXES != 0 { 8 } else { 4 };
                let bits = self.block_bits + (which & BITS);
                let table = behind.next_multiple_of(entry);
                let count = if size == 0 { 0 } else { ((size - 1) >> bits) + 1 };
                let length = count.checked_mul(entry).ok_or(DAMAGED)?;
                if !self.holds(table, length) {
                    return Err(DAMAGED);
                }
                Ok(Content::Chunks { table, entry, bits })
            }
            1 | 3 => Err(Errno::EOPNOTSUPP),
            _ => Err(DAMAGED),
        }
    }

    /// Where the content of a file lies from `offset` on, which is before its end.
    pub(super) fn extent(&self, record: &Record, offset: u64) -> SysResult<Extent> {
        let size = record.metadata.size;
        let rest = size.checked_sub(offset).ok_or(DAMAGED)?;
        match record.content {
            Content::Flat { start } => Ok(Extent { at: Some(start + offset), length: rest }),
            Content::Inline { start, tail_at, .. } if offset < tail_at => {
                Ok(Extent { at: Some(start + offset), length: tail_at - offset })
            }
            Content::Inline { tail_at, tail, .. } => {
                Ok(Extent { at: Some(tail + (offset - tail_at)), length: rest })
            }
            Content::Chunks { table, entry, bits } => {
                let mut bytes = [0; 8];
                let bytes = &mut bytes[..entry as usize];
                self.read(table + (offset >> bits) * entry, bytes)?;
                let (device, block) =
                    if entry == 8 { (u16_at(bytes, 2), u32_at(bytes, 4)) } else { (0, u32_at(bytes, 0)) };
                let within = offset & ((1 << bits) - 1);
                let length = ((1 << bits) - within).min(rest);
                if block == NO_BLOCK {
                    return Ok(Extent { at: None, length });
                }
                let at = (u64::from(block) << self.block_bits).checked_add(within).ok_or(DAMAGED)?;
                if device != 0 || !self.holds(at, length) {
                    return Err(DAMAGED);
                }
                Ok(Extent { at: Some(at), length })
            }
        }
    }

    /// Reads from an offset of a file, as much as it has.
    pub(super) fn read_file(&self, record: &Record, mut offset: u64, buffer: &mut [u8]) -> SysResult<usize> {
        let mut done = 0;
        while done < buffer.len() && offset < record.metadata.size {
            let extent = self.extent(record, offset)?;
            let length = extent.length.min((buffer.len() - done) as u64) as usize;
            let piece = &mut buffer[done..done + length];
            match extent.at {
                Some(at) => self.read(at, piece)?,
                None => piece.fill(0),
            }
            done += length;
            offset += length as u64;
        }
        Ok(done)
    }

    /// Reads a shared extended attribute's place.
    pub(super) fn shared_xattr(&self, id: u32) -> u64 {
        self.shared_xattrs + u64::from(id) * 4
    }

    /// How much there is at all.
    pub(super) fn size(&self) -> u64 {
        self.size
    }
}

fn check_features(features: u32) -> Result<(), Error> {
    if features & COMPRESSION != 0 {
        return Err(Error::Compressed);
    }
    if let Some((_, name)) = REFUSED.iter().find(|(bit, _)| features & bit != 0) {
        return Err(Error::Unsupported((*name).to_owned()));
    }
    match features & !CHUNKED {
        0 => Ok(()),
        unknown => Err(Error::Unsupported(format!("the features {unknown:#x}"))),
    }
}

/// CRC-32C, neither begun nor ended with an inversion of the result.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    bytes.iter().fold(u32::MAX, |state, byte| {
        (0..8).fold(state ^ u32::from(*byte), |state, _| {
            (state >> 1) ^ if state & 1 != 0 { POLYNOMIAL } else { 0 }
        })
    })
}

/// What an image says of a file.
pub(super) struct Record {
    pub kind: FileType,
    pub metadata: Metadata,
    pub content: Content,
    /// Where its extended attributes are, and how many bytes they take.
    pub xattrs: (u64, u64),
}

/// Where the content of a file lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// In one piece.
    Flat { start: u64 },
    /// In one piece up to the last block, which is behind the inode.
    Inline { start: u64, tail_at: u64, tail: u64 },
    /// In pieces of `1 << bits` bytes, whose places are in a table of entries of this size.
    Chunks { table: u64, entry: u64, bits: u32 },
}

/// A piece of a file in one place.
pub(super) struct Extent {
    /// `None` for a hole.
    pub at: Option<u64>,
    pub length: u64,
}
