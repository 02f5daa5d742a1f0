//! Directories: blocks of entries that are sorted by their names, in each and over all.
//!
//! A block begins with its entries: the number of a file (8 bytes), the offset of its name (2), its type (1) and a byte
//! without meaning; the names follow. So the first name's offset tells how many entries there are.

use abi::SysResult;

use super::image::{DAMAGED, Image, Record, u16_at, u64_at};
use crate::fs::FileType;

const ENTRY: usize = 12;
const NAME_MAX: usize = 255;

/// A block of a directory.
pub(super) struct Block {
    bytes: Vec<u8>,
    count: usize,
}

impl Block {
    /// Reads the block with this index.
    pub fn read(image: &Image, directory: &Record, index: u64) -> SysResult<Block> {
        let mut bytes = vec![0; image.block_size() as usize];
        let start = index.checked_mul(image.block_size()).ok_or(DAMAGED)?;
        let length = image.read_file(directory, start, &mut bytes)?;
        bytes.truncate(length);
        let names = usize::from(u16_at(&bytes, 8));
        if length < ENTRY || names < ENTRY || names % ENTRY != 0 || names > length {
            return Err(DAMAGED);
        }
        Ok(Block { bytes, count: names / ENTRY })
    }

    /// How many entries it has: at least one.
    pub fn count(&self) -> usize {
        self.count
    }

    /// An entry: its name, the number of its file, and that one's type.
    pub fn entry(&self, index: usize) -> SysResult<(&[u8], u64, FileType)> {
        let at = index * ENTRY;
        let start = usize::from(u16_at(&self.bytes, at + 8));
        let last = index + 1 == self.count;
        let end = if last { self.bytes.len() } else { usize::from(u16_at(&self.bytes, at + ENTRY + 8)) };
        if index >= self.count || start < self.count * ENTRY {
            return Err(DAMAGED);
        }
        let name = self.bytes.get(start..end).ok_or(DAMAGED)?;
        // The last name ends with the block or before its first zero.
        let name = match name.iter().position(|byte| *byte == 0) {
            Some(end) if last => &name[..end],
            Some(_) => return Err(DAMAGED),
            None => name,
        };
        if name.is_empty() || name.len() > NAME_MAX || name.contains(&b'/') {
            return Err(DAMAGED);
        }
        let kind = match self.bytes[at + 10] {
            1 => FileType::Regular,
            2 => FileType::Directory,
            3 => FileType::CharDevice,
            4 => FileType::BlockDevice,
            5 => FileType::Fifo,
            6 => FileType::Socket,
            7 => FileType::Symlink,
            _ => return Err(DAMAGED),
        };
        Ok((name, u64_at(&self.bytes, at), kind))
    }
}

/// How many blocks a directory has.
pub(super) fn blocks(image: &Image, directory: &Record) -> u64 {
    directory.metadata.size.div_ceil(image.block_size())
}

/// The number of the file called `name`, if there is one.
pub(super) fn find(image: &Image, directory: &Record, name: &[u8]) -> SysResult<Option<u64>> {
    // The last block whose first name is not behind the one that is looked for.
    let (mut low, mut high) = (0, blocks(image, directory));
    let mut block = None;
    while low < high {
        let middle = low + (high - low) / 2;
        let candidate = Block::read(image, directory, middle)?;
        if candidate.entry(0)?.0 <= name {
            block = Some(candidate);
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let Some(block) = block else { return Ok(None) };
    let (mut low, mut high) = (0, block.count());
    while low < high {
        let middle = low + (high - low) / 2;
        let (found, number, _) = block.entry(middle)?;
        match found.cmp(name) {
            std::cmp::Ordering::Equal => return Ok(Some(number)),
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    Ok(None)
}
