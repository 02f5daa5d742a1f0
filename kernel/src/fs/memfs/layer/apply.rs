//! Makes of an archive what it says. The archive may be anybody's: no path leads out of the layer, and what it makes the
//! kernel keep is in proportion to its own length.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::content::{Content, SMALL};
use super::super::{Body, Node, node_of};
use super::tar::{Header, Kind, Reader};
use super::{OPAQUE, RESERVED, SYSTEM, at, child, parts};
use crate::fs::acl::Unchecked;
use crate::fs::hostfs::write_host;
use crate::fs::{Acl, AclKind, Acls, FileType, Inode, InodeRef, NewFile, NewKind, SetAttributes, XattrMode};
use crate::namespace::user::UserNamespace;
use crate::user::UserReader;

/// How much of a file is copied at a time. Where all of it is zeros, it stays a hole.
const PIECE: usize = 64 << 10;

pub fn apply(root: &Arc<Node>, archive: impl Read) -> io::Result<()> {
    let mut reader = Reader::new(archive);
    // What is made in a directory changes its times.
    let mut directories = Vec::new();
    while let Some(header) = reader.next()? {
        let made = entry(root, &header, &mut reader).map_err(|error| at(&header.path, error))?;
        if let Some(directory) = made {
            directories.push((directory, times(&header)));
        }
    }
    for (directory, times) in directories {
        directory.set_attributes(&times)?;
    }
    Ok(())
}

fn times(header: &Header) -> SetAttributes {
    SetAttributes { modified: Some(header.modified), accessed: header.accessed, ..SetAttributes::default() }
}

fn refused(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Makes one entry; the directory if it is one.
fn entry(root: &Arc<Node>, header: &Header, reader: &mut Reader<impl Read>) -> io::Result<Option<Arc<Node>>> {
    let parts = parts(&header.path)?;
    let Some((name, way)) = parts.split_last() else {
        if header.kind != Kind::Directory {
            return Err(refused("the root directory is a directory"));
        }
        set(root, header)?;
        return Ok(Some(Arc::clone(root)));
    };
    let parent = directory_at(root, way)?;
    let new =
        |kind| NewFile { kind, mode: header.mode, uid: header.uid, gid: header.gid, acls: Acls::default() };
    let device = abi::fs::make_device(header.device.0, header.device.1);
    let kind = match header.kind {
        Kind::Directory => {
            let opaque = header.xattrs.get(OPAQUE).is_some_and(|value| value == b"y");
            let node = match child(&parent, name)? {
                Some(node) if node.kind == FileType::Directory && !opaque => node,
                _ => {
                    clear(&parent, name)?;
                    node_of(&Arc::clone(&parent).create(name, &new(NewKind::Directory))?)?
                }
            };
            set(&node, header)?;
            return Ok(Some(node));
        }
        Kind::HardLink => {
            let target = parts_of_link(root, &header.link)?;
            if target.kind == FileType::Directory {
                return Err(refused("a directory cannot have another name"));
            }
            if child(&parent, name)?.is_none_or(|there| !Arc::ptr_eq(&there, &target)) {
                clear(&parent, name)?;
                parent.link(name, &(target as InodeRef))?;
            }
            return Ok(None);
        }
        Kind::CharDevice if header.device == (0, 0) => {
            clear(&parent, name)?;
            return Ok(None);
        }
        Kind::File => NewKind::Regular,
        Kind::Symlink => NewKind::Symlink(header.link.clone()),
        Kind::CharDevice => NewKind::CharDevice(device),
        Kind::BlockDevice => NewKind::BlockDevice(device),
        Kind::Fifo => NewKind::Fifo,
    };
    clear(&parent, name)?;
    let node = node_of(&Arc::clone(&parent).create(name, &new(kind))?)?;
    if header.kind == Kind::File {
        fill(&node, header, reader)?;
    }
    set(&node, header)?;
    node.set_attributes(&times(header))?;
    Ok(None)
}

fn parts_of_link(root: &Arc<Node>, path: &[u8]) -> io::Result<Arc<Node>> {
    let missing = || refused("it is a further name of a file that is not there");
    let parts = parts(path)?;
    let (name, way) = parts.split_last().ok_or_else(missing)?;
    let mut parent = Arc::clone(root);
    for part in way {
        parent = child(&parent, part)?.filter(|node| node.kind == FileType::Directory).ok_or_else(missing)?;
    }
    child(&parent, name)?.ok_or_else(missing)
}

/// The directory that these names lead to, made where it is missing. No link is followed.
fn directory_at(root: &Arc<Node>, way: &[&[u8]]) -> io::Result<Arc<Node>> {
    let mut directory = Arc::clone(root);
    for part in way {
        directory = match child(&directory, part)? {
            Some(node) if node.kind == FileType::Directory => node,
            Some(_) => return Err(refused("what it lies in is no directory")),
            None => {
                let new =
                    NewFile { kind: NewKind::Directory, mode: 0o755, uid: 0, gid: 0, acls: Acls::default() };
                node_of(&Arc::clone(&directory).create(part, &new)?)?
            }
        };
    }
    Ok(directory)
}

/// Takes away whatever has a name, with all that is in it.
fn clear(parent: &Arc<Node>, name: &[u8]) -> io::Result<()> {
    let mut directory = parent.directory()?.lock();
    let Some(node) = parent.entry(&mut directory, name)? else { return Ok(()) };
    if let Body::Directory(inner) = &node.body {
        inner.lock().removed = true;
    }
    Node::remove_entry(&mut directory, name);
    drop(directory);
    if node.kind == FileType::Directory {
        node.change(|own| own.links = 0);
        parent.add_links(-1);
    } else {
        node.add_links(-1);
    }
    Ok(())
}

/// Gives a file its owner, permissions and extended attributes.
fn set(node: &Node, header: &Header) -> io::Result<()> {
    node.set_attributes(&SetAttributes {
        mode: Some(header.mode).filter(|_| node.kind != FileType::Symlink),
        uid: Some(header.uid),
        gid: Some(header.gid),
        ..SetAttributes::default()
    })?;
    for (name, value) in &header.xattrs {
        if !name.starts_with(RESERVED) && !name.starts_with(SYSTEM) {
            if name.is_empty() || name.len() > crate::fs::path::NAME_MAX || name.contains(&0) {
                return Err(refused("the name of an extended attribute is none"));
            }
            node.set_xattr(name, value, XattrMode::Set)?;
        }
    }
    for kind in AclKind::ALL {
        let list = list(header, kind)?;
        // What was there before may have had one.
        if list.is_some() || node.acl(kind).is_ok_and(|list| list.is_some()) {
            node.set_acl(kind, list, 0)?;
        }
    }
    Ok(())
}

/// An access control list that an entry has.
fn list(header: &Header, kind: AclKind) -> io::Result<Option<Arc<Acl>>> {
    let Some(value) = header.xattrs.get(kind.attribute()) else { return Ok(None) };
    let list = Unchecked::read(value)
        .and_then(|list| list.map(|list| list.check(&UserNamespace::root())).transpose())
        .map_err(|_| refused("its access control list is none"))?;
    Ok(list.map(Arc::new))
}

/// Gives a new file its content.
fn fill(node: &Node, header: &Header, reader: &mut Reader<impl Read>) -> io::Result<()> {
    let (size, segments) = match header.sparse {
        Some(size) => (size, reader.segments()?),
        None => (header.size, vec![(0, header.size)]),
    };
    let inside = |(at, length): &(u64, u64)| at.checked_add(*length).is_some_and(|end| end <= size);
    if !segments.iter().all(inside) {
        return Err(refused("a part of the file lies behind its end"));
    }
    let mut piece = vec![0; PIECE];
    let mut own = if size <= SMALL as u64 {
        Content::Bytes(vec![0; size as usize])
    } else {
        let file = node.shared.new_file()?;
        rustix::fs::ftruncate(&file, size)?;
        Content::Memory(file)
    };
    for (start, length) in segments {
        let mut done = 0;
        while done < length {
            let count = usize::try_from(length - done).unwrap_or(usize::MAX).min(PIECE);
            let piece = &mut piece[..count];
            reader.read_exact(piece)?;
            match &mut own {
                Content::Bytes(bytes) => {
                    let start = (start + done) as usize;
                    bytes[start..start + count].copy_from_slice(piece);
                }
                Content::Memory(file) if piece.iter().any(|byte| *byte != 0) => {
                    write_host(file, start + done, &mut UserReader::buffer(piece))?;
                }
                _ => {}
            }
            done += count as u64;
        }
    }
    let mut content = node.file()?.write();
    *content = own;
    node.settle(&content);
    debug_assert!(!node.kept.load(Ordering::SeqCst), "a new file has nothing below");
    Ok(())
}
