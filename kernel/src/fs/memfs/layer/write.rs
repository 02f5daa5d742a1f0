//! Writes a layer as an archive.
//!
//! The tree is walked without recursion: guests make directories as deep as they like. Files below that were changed in
//! place stand in no list of names; they are looked for below until all are found.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use gofer::Listed;
use rustix::fs::SeekFrom;

use super::super::content::Content;
use super::super::lower::LowerContent;
use super::super::{Body, Entry, Lower, Node};
use super::tar::{self, Header, Kind};
use super::{OPAQUE, RESERVED, SYSTEM, child, is_same};
use crate::fs::{AclKind, FileType, Inode};
use crate::namespace::user::UserNamespace;
use crate::user::UserWriter;

/// How much of a file is copied at a time.
const PIECE: usize = 256 << 10;
/// The most parts of a file with holes.
const MAX_SEGMENTS: usize = 1 << 18;

/// A directory on the way, and what is still to be looked at in it.
struct Frame {
    node: Arc<Node>,
    path: Vec<u8>,
    /// The directory below that shows through, if one does.
    through: Option<Lower>,
    items: std::vec::IntoIter<(Vec<u8>, Item)>,
    /// Whether it is in the archive.
    written: bool,
}

/// A name in a directory.
enum Item {
    Node(Arc<Node>),
    Whiteout,
    /// A file below, of this type.
    Below(FileType),
}

impl Frame {
    /// `natural` is what an empty layer would show in the place of `node`.
    fn new(node: Arc<Node>, path: Vec<u8>, natural: Option<&Lower>, written: bool) -> io::Result<Frame> {
        let (mut items, lower) = {
            let directory = node.directory()?.lock();
            let entries = directory.entries.iter().map(|(name, entry)| {
                let item = match entry {
                    Entry::Node(node) => Item::Node(Arc::clone(node)),
                    Entry::Whiteout => Item::Whiteout,
                };
                (name.clone(), item)
            });
            (entries.collect::<Vec<_>>(), directory.lower.clone())
        };
        if let Some(lower) = &lower {
            let own: HashSet<Vec<u8>> = items.iter().map(|(name, _)| name.clone()).collect();
            let below = lower.list()?;
            let below = below.iter_from(0).filter(|entry| !own.contains(entry.name));
            let item =
                |entry: Listed<'_>| (entry.name.to_vec(), Item::Below(FileType::from_mode(entry.kind)));
            items.extend(below.map(item));
        }
        let through = lower.filter(|lower| is_same(Some(lower), natural));
        Ok(Frame { node, path, through, items: items.into_iter(), written })
    }
}

struct Writer<'a> {
    out: &'a mut dyn Write,
    stack: Vec<Frame>,
    /// The changed files that were not found yet, by the number of what is below.
    missing: HashSet<u64>,
    /// Where files are that have several names.
    links: HashMap<u64, Vec<u8>>,
}

pub fn write(root: &Arc<Node>, out: &mut dyn Write) -> io::Result<()> {
    let missing = root.shared.changed.lock().keys().copied().collect();
    let lower = root.directory()?.lock().lower.clone();
    let stack = vec![Frame::new(Arc::clone(root), b"./".to_vec(), lower.as_ref(), false)?];
    let mut writer = Writer { out, stack, missing, links: HashMap::new() };
    if writer.is_changed(root) {
        writer.flush()?;
    }
    while let Some(frame) = writer.stack.last_mut() {
        let Some((name, item)) = frame.items.next() else {
            writer.stack.pop();
            continue;
        };
        let (node, through) = (Arc::clone(&frame.node), frame.through.clone());
        let path = [frame.path.strip_prefix(b"./").unwrap_or(&frame.path), &name].concat();
        if path.len() >= tar::MAX_PATH {
            let text = "a path in the layer is too long for an archive";
            return Err(io::Error::new(io::ErrorKind::InvalidFilename, text));
        }
        writer
            .item(&node, through.as_ref(), path.clone(), &name, item)
            .map_err(|error| super::at(&path, error))?;
    }
    tar::end(out)
}

impl Writer<'_> {
    /// Writes what is behind a name in `directory`, as far as that is changed.
    fn item(
        &mut self,
        directory: &Arc<Node>,
        through: Option<&Lower>,
        path: Vec<u8>,
        name: &[u8],
        item: Item,
    ) -> io::Result<()> {
        let natural = || through.and_then(|lower| lower.child(name).ok());
        match item {
            Item::Whiteout if natural().is_some() => self.whiteout(path),
            Item::Whiteout => Ok(()),
            Item::Node(node) => self.node(&node, path, natural().as_ref()),
            // All of a directory that was moved here.
            Item::Below(_) if through.is_none() => match child(directory, name)? {
                Some(node) => self.node(&node, path, None),
                None => Ok(()),
            },
            Item::Below(_) if self.missing.is_empty() => Ok(()),
            Item::Below(kind) => {
                let Some(node) = child(directory, name)? else { return Ok(()) };
                if self.is_changed(&node) {
                    return self.node(&node, path, natural().as_ref());
                }
                if kind == FileType::Directory {
                    self.enter(node, path, natural().as_ref(), false)?;
                }
                Ok(())
            }
        }
    }

    /// Whether it is not what the file below is any more; if so, it is found.
    fn is_changed(&mut self, node: &Node) -> bool {
        let changed = node.kept.load(Ordering::SeqCst);
        // One with several names may be met again.
        let last = node.kind == FileType::Directory || node.attributes.lock().own.links <= 1;
        if let Some(key) = node.origin.filter(|_| changed && last) {
            self.missing.remove(&key);
        }
        changed
    }

    fn enter(
        &mut self,
        node: Arc<Node>,
        mut path: Vec<u8>,
        natural: Option<&Lower>,
        written: bool,
    ) -> io::Result<()> {
        path.push(b'/');
        self.stack.push(Frame::new(node, path, natural, written)?);
        Ok(())
    }

    /// Writes a file with all that is in it.
    fn node(&mut self, node: &Arc<Node>, path: Vec<u8>, natural: Option<&Lower>) -> io::Result<()> {
        self.is_changed(node);
        match &node.body {
            Body::Directory(inner) => {
                let lower = inner.lock().lower.clone();
                let shows_through = is_same(lower.as_ref(), natural);
                let hides =
                    !shows_through && natural.is_some_and(|lower| lower.file_type() == FileType::Directory);
                self.flush()?;
                let mut header = self.header(node, Kind::Directory, [&path[..], b"/"].concat())?;
                if hides {
                    header.xattrs.insert(OPAQUE.to_vec(), b"y".to_vec());
                }
                header.write(self.out)?;
                self.enter(Arc::clone(node), path, natural.filter(|_| shows_through), true)
            }
            // Archives have no sockets, which nobody listens at any more anyway; but what was below must not come back.
            Body::Special if node.kind == FileType::Socket && natural.is_some() => self.whiteout(path),
            Body::Special if node.kind == FileType::Socket => Ok(()),
            body => {
                self.flush()?;
                if let Some(first) = self.links.get(&node.number) {
                    let header = Header { link: first.clone(), ..self.header(node, Kind::HardLink, path)? };
                    return Header { xattrs: Default::default(), ..header }.write(self.out);
                }
                if node.attributes.lock().own.links > 1 {
                    self.links.insert(node.number, path.clone());
                }
                match body {
                    Body::File(content) => {
                        let source = Source::of(&content.read())?;
                        self.file(&source, self.header(node, Kind::File, path)?)
                    }
                    Body::Symlink(target) => {
                        let header = self.header(node, Kind::Symlink, path)?;
                        Header { link: target.clone(), ..header }.write(self.out)
                    }
                    _ => {
                        let kind = match node.kind {
                            FileType::CharDevice => Kind::CharDevice,
                            FileType::BlockDevice => Kind::BlockDevice,
                            _ => Kind::Fifo,
                        };
                        let device = abi::fs::split_device(node.attributes.lock().own.rdev);
                        Header { device, ..self.header(node, kind, path)? }.write(self.out)
                    }
                }
            }
        }
    }

    /// Writes the directories on the way that are not in the archive yet.
    fn flush(&mut self) -> io::Result<()> {
        for index in 0..self.stack.len() {
            if !std::mem::replace(&mut self.stack[index].written, true) {
                let Frame { node, path, .. } = &self.stack[index];
                self.header(node, Kind::Directory, path.clone())?.write(self.out)?;
            }
        }
        Ok(())
    }

    fn whiteout(&mut self, path: Vec<u8>) -> io::Result<()> {
        self.flush()?;
        Header::new(Kind::CharDevice, path).write(self.out)
    }

    fn header(&self, node: &Node, kind: Kind, path: Vec<u8>) -> io::Result<Header> {
        let metadata = node.metadata()?;
        let mut header = Header {
            mode: metadata.mode & 0o7777,
            uid: metadata.uid,
            gid: metadata.gid,
            modified: metadata.modified,
            accessed: Some(metadata.accessed),
            ..Header::new(kind, path)
        };
        for name in node.list_xattr()? {
            // An equals sign would end the name.
            let kept = !name.starts_with(RESERVED) && !name.starts_with(SYSTEM) && !name.contains(&b'=');
            if let Some(value) = kept.then(|| node.get_xattr(&name).ok()).flatten() {
                header.xattrs.insert(name, value);
            }
        }
        for kind in AclKind::ALL {
            if let Ok(Some(list)) = node.acl(kind) {
                header.xattrs.insert(kind.attribute().to_vec(), list.to_bytes(&UserNamespace::root()));
            }
        }
        Ok(header)
    }

    fn file(&mut self, source: &Source, header: Header) -> io::Result<()> {
        let (size, segments) = (source.size, source.segments()?);
        let data: u64 = segments.iter().map(|(_, length)| length).sum();
        let (list, sparse) =
            if data < size { (tar::segment_list(&segments), Some(size)) } else { (Vec::new(), None) };
        let total = data + list.len() as u64;
        Header { size: total, sparse, ..header }.write(self.out)?;
        self.out.write_all(&list)?;
        for (at, length) in segments {
            source.copy(at, length, self.out)?;
        }
        tar::pad(self.out, total)
    }
}

/// The content of a file as it was when it was looked at, in size at least.
struct Source {
    size: u64,
    place: SourcePlace,
}

enum SourcePlace {
    Bytes(Vec<u8>),
    Host(Arc<OwnedFd>),
    Below(LowerContent),
}

impl Source {
    fn of(content: &Content) -> io::Result<Source> {
        Ok(match content {
            Content::Bytes(bytes) => {
                Source { size: bytes.len() as u64, place: SourcePlace::Bytes(bytes.clone()) }
            }
            Content::Memory(fd) => {
                let size = rustix::fs::fstat(fd)?.st_size.cast_unsigned();
                Source { size, place: SourcePlace::Host(Arc::clone(fd)) }
            }
            Content::Lower(lower) => {
                let content = lower.open_content()?;
                Source { size: content.size()?, place: SourcePlace::Below(content) }
            }
        })
    }

    /// Where there is data.
    fn segments(&self) -> io::Result<Vec<(u64, u64)>> {
        let fd = match &self.place {
            SourcePlace::Host(fd) | SourcePlace::Below(LowerContent::Host(fd)) => fd,
            _ => return Ok(vec![(0, self.size)]),
        };
        let (mut segments, mut at) = (Vec::new(), 0);
        while at < self.size {
            let data = match rustix::fs::seek(fd, SeekFrom::Data(at)) {
                Ok(data) if data < self.size => data,
                Ok(_) | Err(rustix::io::Errno::NXIO) => break,
                // Not every file system tells data from holes.
                Err(_) => return Ok(vec![(0, self.size)]),
            };
            let hole = rustix::fs::seek(fd, SeekFrom::Hole(data)).unwrap_or(self.size).clamp(data, self.size);
            if segments.len() == MAX_SEGMENTS {
                return Err(io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    "the file has too many holes for an archive",
                ));
            }
            segments.push((data, hole - data));
            at = hole.max(data + 1);
        }
        Ok(segments)
    }

    /// Copies a part. What is not there any more is zeros.
    fn copy(&self, at: u64, length: u64, out: &mut dyn Write) -> io::Result<()> {
        let mut piece = Vec::new();
        let mut done = 0;
        while done < length {
            let count = usize::try_from(length - done).unwrap_or(usize::MAX).min(PIECE);
            piece.clear();
            match &self.place {
                SourcePlace::Bytes(bytes) => {
                    piece.extend(bytes.iter().skip((at + done) as usize).take(count));
                }
                SourcePlace::Host(fd) => {
                    piece.resize(count, 0);
                    let read = rustix::io::pread(fd, &mut piece[..], at + done)?;
                    piece.truncate(read);
                }
                SourcePlace::Below(content) => {
                    content.read(at + done, &mut UserWriter::buffer(&mut piece, count))?;
                }
            }
            if piece.is_empty() {
                piece.resize(count, 0);
            }
            out.write_all(&piece)?;
            done += piece.len() as u64;
        }
        Ok(())
    }
}
