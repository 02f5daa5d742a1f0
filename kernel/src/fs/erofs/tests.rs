//! Images that `mkfs.erofs` makes are what they were made from; damaged ones do no harm.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use super::*;

/// Makes an image of what `fill` puts into a directory; `None` if there is no tool for it.
fn image(options: &[&str], fill: impl FnOnce(&Path)) -> Option<(tempfile::TempDir, Vec<u8>)> {
    if Command::new("mkfs.erofs").arg("--help").output().is_err() {
        let required = std::env::var_os("NACELLE_REQUIRE_ALL").is_some_and(|value| value == "1");
        assert!(!required, "cannot be skipped here: there is no mkfs.erofs");
        eprintln!("skipped: there is no mkfs.erofs (package erofs-utils)");
        return None;
    }
    let place = tempfile::tempdir().unwrap();
    let (tree, path) = (place.path().join("tree"), place.path().join("image"));
    std::fs::create_dir(&tree).unwrap();
    fill(&tree);
    let made = Command::new("mkfs.erofs").args(options).arg(&path).arg(&tree).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let bytes = std::fs::read(&path).unwrap();
    Some((place, bytes))
}

fn mount(bytes: &[u8]) -> Result<Arc<ErofsFs>, Error> {
    let memory = rustix::fs::memfd_create(c"image", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    write_host(&Arc::new(memory.try_clone().unwrap()), 0, &mut UserReader::buffer(bytes)).unwrap();
    ErofsFs::new(memory)
}

fn content(node: &Node) -> SysResult<Vec<u8>> {
    let mut bytes = Vec::new();
    node.read(0, &mut UserWriter::buffer(&mut bytes, 1 << 20))?;
    Ok(bytes)
}

/// What a guest would see of a mapping of the whole file.
fn mapped(node: &Node) -> SysResult<Vec<u8>> {
    let Mappable::Host { fd, delta } = node.mappable()? else { panic!("it is a file") };
    let mut bytes = vec![0; node.metadata()?.size as usize];
    let count = rustix::io::pread(&fd, &mut bytes, delta)?;
    bytes.truncate(count);
    // Nothing is to be seen behind its end.
    assert_eq!((rustix::fs::fstat(&fd)?.st_size.cast_unsigned(), delta), (node.metadata()?.size, 0));
    Ok(bytes)
}

fn find(fs: &ErofsFs, path: &str) -> SysResult<Arc<Node>> {
    path.split('/').try_fold(fs.root_node(), |directory, name| directory.child(name.as_bytes()))
}

/// Files whose contents end at all kinds of places.
const SIZES: [usize; 9] = [0, 1, 100, 4000, 4096, 4097, 8192, 70_000, 300_000];

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 256) as u8).collect()
}

fn fill(tree: &Path) {
    for size in SIZES {
        std::fs::write(tree.join(format!("file {size}")), bytes(size)).unwrap();
    }
    let mut sparse = vec![0; 100_000];
    sparse[50_000..50_010].fill(7);
    std::fs::write(tree.join("sparse"), sparse).unwrap();
    std::fs::create_dir_all(tree.join("directory/below")).unwrap();
    std::fs::write(tree.join("directory/below/deep"), "deep").unwrap();
    std::fs::hard_link(tree.join("directory/below/deep"), tree.join("again")).unwrap();
    std::os::unix::fs::symlink("directory/below", tree.join("link")).unwrap();
    std::os::unix::fs::symlink("x".repeat(3000), tree.join("long link")).unwrap();
    std::fs::set_permissions(tree.join("file 100"), PermissionsExt::from_mode(0o4711)).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        tree.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
}

const LAYOUTS: [&[&str]; 4] =
    [&[], &["-Eforce-inode-extended"], &["-Eforce-inode-compact"], &["--chunksize=4096"]];

#[test]
fn an_image_shows_what_it_was_made_from() {
    for options in LAYOUTS {
        let Some((place, image)) = image(options, fill) else { return };
        let fs = mount(&image).unwrap();
        for size in SIZES {
            let path = format!("file {size}");
            let node = find(&fs, &path).unwrap();
            assert_eq!(content(&node).unwrap(), bytes(size), "{options:?} {path}");
            assert_eq!(mapped(&node).unwrap(), bytes(size), "{options:?} {path}");
            let (found, made) = (node.metadata().unwrap(), place.path().join("tree").join(path));
            let made = std::fs::metadata(made).unwrap();
            let wanted = (made.mode(), made.uid(), made.gid(), made.len(), made.nlink() as u32);
            assert_eq!((found.mode, found.uid, found.gid, found.size, found.links), wanted);
            if options != ["-Eforce-inode-compact"] {
                assert_eq!(found.modified.sec, made.mtime());
            }
        }
        let sparse = find(&fs, "sparse").unwrap();
        let wanted = std::fs::read(place.path().join("tree/sparse")).unwrap();
        assert_eq!(content(&sparse).unwrap(), wanted);
        assert_eq!(mapped(&sparse).unwrap(), wanted);
        let deep = find(&fs, "directory/below/deep").unwrap();
        assert_eq!(content(&deep).unwrap(), b"deep");
        assert_eq!(deep.metadata().unwrap().links, 2);
        assert!(Arc::ptr_eq(&deep, &find(&fs, "again").unwrap()));
        assert_eq!(find(&fs, "link").unwrap().readlink(None).unwrap(), b"directory/below");
        assert_eq!(find(&fs, "long link").unwrap().readlink(None).unwrap().len(), 3000);
        assert_eq!(find(&fs, "fifo").unwrap().file_type(), FileType::Fifo);
        assert_eq!(find(&fs, "none").err(), Some(Errno::ENOENT));
        assert_eq!(find(&fs, "again/none").err(), Some(Errno::ENOTDIR));
        let names = fs.root_node().names().unwrap();
        assert_eq!(names.len(), SIZES.len() + 6, "{names:?}");
        for (name, number, kind) in names {
            let node = fs.root_node().child(&name).unwrap();
            assert_eq!((node.number(), node.file_type()), (number, kind));
        }
    }
}

#[test]
fn reads_begin_and_end_anywhere() {
    for options in LAYOUTS {
        let Some((_place, image)) = image(options, fill) else { return };
        let fs = mount(&image).unwrap();
        let (node, wanted) = (find(&fs, "file 70000").unwrap(), bytes(70_000));
        for (offset, length) in
            [(0, 1), (4095, 2), (65_535, 4000), (69_999, 10), (70_000, 1), (12_288, 57_712)]
        {
            let mut read = Vec::new();
            let count = node.read(offset, &mut UserWriter::buffer(&mut read, length)).unwrap();
            let (start, end) = (offset as usize, wanted.len().min(offset as usize + length));
            assert_eq!(read, wanted[start..end], "{options:?} {offset} {length}");
            assert_eq!(count, end - start);
        }
    }
}

#[test]
fn large_directories_are_searched() {
    const COUNT: usize = 5000;
    let name = |number: usize| format!("{number:0>width$}", width = number % 40 + 4);
    let made = image(&[], |tree| {
        (0..COUNT).for_each(|number| std::fs::write(tree.join(name(number)), number.to_string()).unwrap());
    });
    let Some((_place, image)) = made else { return };
    let fs = mount(&image).unwrap();
    for number in 0..COUNT {
        let node = find(&fs, &name(number)).unwrap();
        assert_eq!(content(&node).unwrap(), number.to_string().as_bytes());
        assert_eq!(find(&fs, &format!("{}x", name(number))).err(), Some(Errno::ENOENT));
    }
    for missing in ["!", "~", "0"] {
        assert_eq!(find(&fs, missing).err(), Some(Errno::ENOENT));
    }
    assert_eq!(fs.root_node().names().unwrap().len(), COUNT);
    // A listing goes on wherever it was left.
    let (directory, mut position, mut listed) = (OpenDirectory(fs.root_node()), 0, 0);
    loop {
        let (before, start, mut room) = (listed, position, 7);
        let mut sink = |_: &[u8], _, _, next| {
            let fits = room > 0;
            if fits {
                (room, listed, position) = (room - 1, listed + 1, next);
            }
            fits
        };
        directory.list(start, &mut sink, &mut false).unwrap();
        if listed == before {
            break;
        }
    }
    assert_eq!(listed, COUNT + 2);
    // Nothing is kept of files that nobody uses.
    assert_eq!(fs.root.shared.known.lock().len(), 1);
}

#[test]
fn attributes_are_found_whether_shared_or_not() {
    let set = |path: &Path, name: &str, value: &[u8]| {
        rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).is_ok()
    };
    let mut possible = true;
    let made = image(&["-x2"], |tree| {
        for number in 0..10 {
            let path = tree.join(number.to_string());
            std::fs::write(&path, "").unwrap();
            possible &= set(&path, "user.shared", &[b'v'; 500]) && set(&path, "user.own", &[number; 5]);
        }
    });
    let Some((_place, image)) = made else { return };
    if !possible {
        return eprintln!("skipped: files for temporary use have no extended attributes here");
    }
    let fs = mount(&image).unwrap();
    for number in 0..10 {
        let node = find(&fs, &number.to_string()).unwrap();
        assert_eq!(node.get_xattr(b"user.shared"), Ok(vec![b'v'; 500]));
        assert_eq!(node.get_xattr(b"user.own"), Ok(vec![number; 5]));
        assert_eq!(node.get_xattr(b"user.none"), Err(Errno::ENODATA));
        let mut names = node.list_xattr().unwrap();
        names.sort();
        assert_eq!(names, [b"user.own".to_vec(), b"user.shared".to_vec()]);
    }
    assert_eq!(fs.root().list_xattr(), Ok(Vec::new()));
}

#[test]
fn what_is_no_image_or_not_supported_is_refused() {
    let text = |bytes: &[u8]| mount(bytes).err().map(|error| error.to_string());
    assert_eq!(text(b"").as_deref(), Some("it is no EROFS image"));
    assert_eq!(text(&[1; 10_000]).as_deref(), Some("it is no EROFS image"));
    let Some((_place, plain)) = image(&[], fill) else { return };
    let refused = |feature: u8| {
        let mut image = plain.clone();
        image[1024 + 80] = feature;
        text(&image).unwrap_or_default()
    };
    assert_eq!(refused(0x08), "EROFS images with further devices are not supported");
    assert_eq!(refused(0x40), "EROFS images with prefixes of extended attributes are not supported");
    let mut changed = plain.clone();
    changed[1024 + 50] ^= 1;
    assert_eq!(text(&changed).as_deref(), Some("the EROFS image is damaged: its checksum is wrong"));
    let cut = &plain[..plain.len() - 4096];
    assert_eq!(text(cut).as_deref(), Some("the EROFS image is damaged: it is shorter than it says"));
    let Some((_place, packed)) = image(&["-zlz4"], fill) else { return };
    assert_eq!(text(&packed).as_deref(), Some("compressed EROFS images are not supported"));
}

#[test]
fn a_directory_is_in_one_place_only() {
    let Some((_place, mut image)) = image(&[], fill) else { return };
    let fs = mount(&image).unwrap();
    let (outer, root) = (find(&fs, "directory").unwrap().number(), fs.root_node().number());
    let below = find(&fs, "directory/below").unwrap().number();
    drop(fs);
    image[1024 + 8] &= !1;
    // The entry `below` leads to the directory that it is in, or to the root.
    let at: Vec<_> = (0..image.len() - 12)
        .step_by(4)
        .filter(|at| image[*at..].starts_with(&below.to_le_bytes()) && image[*at + 10] == 2)
        .collect();
    for target in [outer, root] {
        at.iter().for_each(|at| image[*at..*at + 8].copy_from_slice(&target.to_le_bytes()));
        let fs = mount(&image).unwrap();
        assert_eq!(find(&fs, "directory/below").err(), Some(Errno::EUCLEAN));
    }
}

/// Walks all that there is, as far as it goes.
fn walk(node: &Node, depth: usize, budget: &mut usize) {
    let _ = (node.list_xattr(), node.get_xattr(b"user.own"), node.readlink(None));
    if node.file_type() == FileType::Regular {
        let _ = (
            content(node),
            node.read(
                node.metadata().map_or(0, |m| m.size / 2),
                &mut UserWriter::buffer(&mut Vec::new(), 99),
            ),
        );
        if node.metadata().is_ok_and(|metadata| metadata.size < 1 << 30) {
            let _ = node.mappable();
        }
    }
    for (name, ..) in node.names().unwrap_or_default() {
        *budget = budget.saturating_sub(1);
        if depth == 0 || *budget == 0 {
            return;
        }
        if let Ok(child) = node.child(&name) {
            walk(&child, depth - 1, budget);
        }
    }
    let mut listed = false;
    if node.file_type() == FileType::Directory
        && let Ok(child) = node.shared.node(node.number())
    {
        let _ = OpenDirectory(child).list(0, &mut |_, _, _, _| true, &mut listed);
    }
}

#[test]
fn damaged_images_do_no_harm() {
    for (seed, options) in LAYOUTS.into_iter().enumerate() {
        let made = image(options, |tree| {
            fill(tree);
            let path = tree.join("file 1");
            let _ = rustix::fs::setxattr(&path, "user.own", b"x", rustix::fs::XattrFlags::empty());
            (0..300).for_each(|number| std::fs::write(tree.join(format!("directory/{number}")), "").unwrap());
        });
        let Some((_place, mut whole)) = made else { return };
        // Without its checksum, damage to the superblock is seen, too.
        whole[1024 + 8] &= !1;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ seed as u64;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 16) as usize % below
        };
        // Mostly the superblock, then the first inodes, then everything.
        let ends = [1024 + 128, 8192.min(whole.len()), whole.len()];
        for _ in 0..100 {
            let mut image = whole.clone();
            for _ in 0..=random(12) {
                let end = ends[random(ends.len())];
                let at = 1024 + random(end - 1024);
                image[at] = match random(4) {
                    0 => 0,
                    1 => 0xff,
                    2 => image[at] ^ 1 << random(8),
                    _ => random(256) as u8,
                };
            }
            if random(8) == 0 {
                image.truncate(random(image.len()));
            }
            if let Ok(fs) = mount(&image) {
                walk(&fs.root_node(), 6, &mut 2000);
            }
        }
    }
}
