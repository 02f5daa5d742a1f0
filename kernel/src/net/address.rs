//! Socket addresses as guests pass them.

use abi::{Errno, SysResult};

use crate::task::CurrentTask;
use crate::user::UserPtr;

/// `AF_UNSPEC`.
pub const AF_UNSPEC: u16 = 0;
/// `AF_UNIX`.
pub const AF_UNIX: u16 = 1;

/// The size of `struct sockaddr_storage`: no address is longer.
const MAX_ADDRESS: usize = 128;
/// The size of `sun_path`.
const MAX_NAME: usize = 108;

/// The name of an `AF_UNIX` socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// A file.
    Path(Vec<u8>),
    /// A name in the abstract space, without the zero byte before it.
    Abstract(Vec<u8>),
}

/// An address as a guest passes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `AF_UNSPEC`: none.
    Unspecified,
    /// `AF_UNIX` and nothing else: the kernel is to choose a name.
    Any,
    /// A name.
    Name(Name),
}

impl Address {
    /// Reads an address from guest memory: `EINVAL` if it is none of this family.
    pub fn read(task: &CurrentTask, address: u64, length: u32) -> SysResult<Address> {
        let length = length as usize;
        if length > MAX_ADDRESS {
            return Err(Errno::EINVAL);
        }
        let mut bytes = vec![0; length];
        task.read_bytes(address, &mut bytes)?;
        Address::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> SysResult<Address> {
        let (family, name) = bytes.split_first_chunk::<2>().ok_or(Errno::EINVAL)?;
        match u16::from_ne_bytes(*family) {
            AF_UNSPEC => return Ok(Address::Unspecified),
            AF_UNIX if name.len() <= MAX_NAME => {}
            _ => return Err(Errno::EINVAL),
        }
        Ok(match name.split_first() {
            None => Address::Any,
            Some((0, rest)) => Address::Name(Name::Abstract(rest.to_vec())),
            Some(_) => {
                let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
                Address::Name(Name::Path(name[..end].to_vec()))
            }
        })
    }
}

/// The bytes of `struct sockaddr_un`; a socket without a name has its family only.
pub fn encode(name: Option<&Name>) -> Vec<u8> {
    let mut bytes = AF_UNIX.to_ne_bytes().to_vec();
    match name {
        None => {}
        Some(Name::Path(path)) => {
            bytes.extend(path);
            bytes.push(0);
        }
        Some(Name::Abstract(name)) => {
            bytes.push(0);
            bytes.extend(name);
        }
    }
    bytes
}

/// Gives an address to the guest: as much as fits into `*length`, which is set to the whole length.
pub fn write(task: &CurrentTask, encoded: &[u8], address: u64, length: UserPtr<i32>) -> SysResult<()> {
    let room = usize::try_from(task.read_object(length)?).map_err(|_| Errno::EINVAL)?;
    task.write_bytes(address, &encoded[..encoded.len().min(room)])?;
    task.write_object(length, &i32::try_from(encoded.len()).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_ends_at_its_zero_byte_and_an_abstract_name_at_its_length() {
        let bytes = [&AF_UNIX.to_ne_bytes()[..], b"/a\0b"].concat();
        assert_eq!(Address::parse(&bytes), Ok(Address::Name(Name::Path(b"/a".to_vec()))));
        let bytes = [&AF_UNIX.to_ne_bytes()[..], b"\0a\0b"].concat();
        let name = Name::Abstract(b"a\0b".to_vec());
        assert_eq!(Address::parse(&bytes), Ok(Address::Name(name.clone())));
        assert_eq!(encode(Some(&name)), bytes);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        assert_eq!(Address::parse(&[1]), Err(Errno::EINVAL));
        assert_eq!(Address::parse(&[2, 0, 1]), Err(Errno::EINVAL));
        assert_eq!(Address::parse(&[&[1, 0][..], &[1; 109]].concat()), Err(Errno::EINVAL));
        assert_eq!(Address::parse(&AF_UNIX.to_ne_bytes()), Ok(Address::Any));
    }
}
