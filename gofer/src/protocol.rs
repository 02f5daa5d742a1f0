//! The messages, version 3.
//!
//! A connection is a `SOCK_SEQPACKET` pair: one message, one packet, at most [`MAX_MESSAGE`] bytes. A request is its
//! number (one byte) and its fields; a reply an error number (zero for success) and, on success, the fields that the
//! request's comment names. Descriptors ride along by `SCM_RIGHTS`. [`Request::Close`] has no reply.

use crate::types::{
    Access, Changes, Guest, Name, NewNode, Removal, Replacing, SocketKind, Target, XattrReplacing,
};
use crate::wire::{Input, List, Malformed, Wire};

/// The protocol's version, which both ends must share.
pub const VERSION: u32 = 3;
/// The longest message: an extended attribute of the largest size, its name, and the rest of the request.
pub const MAX_MESSAGE: usize = 68 * 1024;
/// The most descriptors in a message.
pub const MAX_DESCRIPTORS: usize = 2;
/// The most names in a [`Request::Walk`].
pub const MAX_WALK: usize = 32;

/// A directory in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The root of a mount.
    Root(u32),
    /// A directory that a walk has led to.
    Node(u32),
    /// The descriptor with this index among those of the message (direct mode).
    Passed(u32),
}

impl Wire<'_> for Place {
    fn put(&self, out: &mut Vec<u8>) {
        let (tag, number) = match *self {
            Place::Root(number) => (0u8, number),
            Place::Node(number) => (1, number),
            Place::Passed(number) => (2, number),
        };
        tag.put(out);
        number.put(out);
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let make = match u8::take(input)? {
            0 => Place::Root,
            1 => Place::Node,
            2 => Place::Passed,
            _ => return Err(Malformed),
        };
        Ok(make(u32::take(input)?))
    }
}

macro_rules! requests {
    ($($(#[$comment:meta])* $number:literal $name:ident { $($field:ident: $type:ty),* },)*) => {
        /// What a client asks for.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the fields' types say it")]
        pub enum Request<'a> {
            $($(#[$comment])* $name { $($field: $type),* },)*
        }

        impl<'a> Wire<'a> for Request<'a> {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $(Request::$name { $($field),* } => {
                        out.push($number);
                        $($field.put(out);)*
                    })*
                }
            }

            fn take(input: &mut Input<'a>) -> Result<Self, Malformed> {
                match u8::take(input)? {
                    $($number => Ok(Request::$name { $($field: Wire::take(input)?),* }),)*
                    _ => Err(Malformed),
                }
            }
        }
    };
}

requests! {
    /// The first message. Replies with `Welcome`.
    0 Hello { version: u32 },
    /// Replies with the attributes of a mount's root, whether the host mounts and unmounts below it, and, in direct mode,
    /// its descriptor.
    1 Attach { mount: u32 },
    /// Walks down as far as names are directories. Replies with a list of [`Walked`], and the error that ended it early.
    2 Walk { at: Place, names: List<Name<'a>> },
    /// Replies with attributes.
    3 Stat { at: Place, target: Target<'a> },
    /// Opens a regular file. Replies with its descriptor.
    4 Open { at: Place, target: Target<'a>, access: Access },
    /// Opens a directory, to walk below it (direct mode). Replies with its attributes and descriptor.
    5 OpenDirectory { at: Place, name: Name<'a> },
    /// Makes a file. Replies with its attributes and, if it is a regular one, its descriptor, open for both.
    6 Create { at: Place, name: Name<'a>, new: NewNode<'a> },
    7 Remove { at: Place, name: Name<'a>, removal: Removal },
    8 Rename { from: Place, name: Name<'a>, to: Place, new_name: Name<'a>, replacing: Replacing },
    /// Gives a file a further name.
    9 Link { from: Place, name: Name<'a>, to: Place, new_name: Name<'a> },
    /// Replies with the target.
    10 ReadLink { at: Place, name: Name<'a> },
    11 SetAttributes { at: Place, target: Target<'a>, changes: Changes },
    /// Replies with the value.
    12 GetXattr { at: Place, target: Target<'a>, name: &'a [u8] },
    13 SetXattr { at: Place, target: Target<'a>, name: &'a [u8], value: &'a [u8], replacing: XattrReplacing },
    /// Replies with the names, each with a zero behind.
    14 ListXattr { at: Place, target: Target<'a> },
    15 RemoveXattr { at: Place, target: Target<'a>, name: &'a [u8] },
    /// Replies with `Statistics`.
    16 Statistics { at: Place },
    /// Lists from a cookie on (zero at first). Replies with entries and the next cookie; no entries are the end.
    17 List { at: Place, cookie: u64 },
    18 Sync { at: Place, target: Target<'a> },
    /// Forgets nodes. No reply.
    19 Close { nodes: List<u32> },
    /// Connects to a socket, without waiting. Replies with [`crate::Peer`] and the connection's descriptor.
    20 Connect { at: Place, target: Target<'a>, kind: SocketKind, guest: Guest },
    /// Makes a file without a name, in a mount that is for nothing else. Replies with its descriptor, open for both.
    21 CreateNameless { mount: u32 },
    /// Opens the character device that is a mount, if it may be. Replies with its descriptor.
    22 OpenDevice { mount: u32, access: Access },
}

/// The reply to [`Request::Hello`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// How many mounts there are.
    pub mounts: u32,
    /// Whether descriptors of directories are handed out.
    pub direct: u8,
}

crate::wire::wire_struct!(Welcome { mounts, direct });

/// A step of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// The node, of a directory.
    pub node: Option<u32>,
    /// What it is.
    pub attributes: crate::types::Attributes,
}

crate::wire::wire_struct!(Walked { node, attributes });

/// A request from a whole message.
pub fn decode<'a, T: Wire<'a>>(bytes: &'a [u8]) -> Result<T, Malformed> {
    let mut input = Input::new(bytes);
    let value = T::take(&mut input)?;
    input.end()?;
    Ok(value)
}
