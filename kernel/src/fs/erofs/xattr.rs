//! Extended attributes: behind an inode, or in one place for many.
//!
//! Behind an inode are a header of 12 bytes, whose fifth byte tells how many attributes are shared, their places, and then
//! those of its own. An attribute is the length of its name, what its name begins with (a number), the length of its
//! value (2 bytes), the rest of its name, and its value, up to a multiple of four bytes.

use abi::SysResult;

use super::image::{DAMAGED, Image, Record, u16_at, u32_at};

const HEADER: usize = 12;

/// Calls `visit` with the name and the value of each attribute, until it returns false.
pub(super) fn each(
    image: &Image,
    record: &Record,
    mut visit: impl FnMut(Vec<u8>, &[u8]) -> bool,
) -> SysResult<()> {
    let (at, length) = record.xattrs;
    if length == 0 {
        return Ok(());
    }
    // At most a quarter of a megabyte: its length comes from a number of two bytes.
    let mut bytes = vec![0; length as usize];
    image.read(at, &mut bytes)?;
    let shared = usize::from(bytes[4]);
    let own = HEADER + shared * 4;
    for index in 0..shared {
        let id = bytes.get(HEADER + index * 4..HEADER + index * 4 + 4).ok_or(DAMAGED)?;
        let place = image.shared_xattr(u32_at(id, 0));
        let mut header = [0; 4];
        image.read(place, &mut header)?;
        let mut attribute = vec![0; size(&header)];
        image.read(place, &mut attribute)?;
        if !give(&attribute, &mut visit) {
            return Ok(());
        }
    }
    let mut rest = bytes.get(own..).ok_or(DAMAGED)?;
    while rest.len() >= 4 {
        let size = size(rest);
        let attribute = rest.get(..size).ok_or(DAMAGED)?;
        if !give(attribute, &mut visit) {
            break;
        }
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

/// How many bytes an attribute takes that begins so.
fn size(header: &[u8]) -> usize {
    4 + usize::from(header[0]) + usize::from(u16_at(header, 2))
}

/// Gives an attribute to `visit`, if it is of a kind that there is here. Access control lists are not.
fn give(attribute: &[u8], visit: &mut impl FnMut(Vec<u8>, &[u8]) -> bool) -> bool {
    let prefix: &[u8] = match attribute[1] {
        1 => b"user.",
        4 => b"trusted.",
        6 => b"security.",
        _ => return true,
    };
    let (name, value) = attribute[4..].split_at(usize::from(attribute[0]));
    name.is_empty() || name.contains(&0) || visit([prefix, name].concat(), value)
}
