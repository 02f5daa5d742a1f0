//! Programs: the first of a container, and those that are run in it later.

use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;
use abi::signal::SignalSet;
use kernel::container::{Container, InitSpec, Prepared, Role};
use kernel::error::SysError;
use kernel::fs::file::Place;
use kernel::fs::host_file::{HostFile, HostName};
use kernel::fs::path::{FsState, PathRef, Walk, Walker};
use kernel::fs::{File, FileType};
use kernel::task::credentials::ALL_CAPABILITIES;
use kernel::task::limits::{Limit, Resource};
use kernel::task::{Credentials, Limits};
use kernel::tty::console::Console;
use kernel::tty::terminal::{Slave, Terminal};
use kernel::tty::{DevPts, Termios};
use kernel::user::UserWriter;

use crate::control::message::{ErrorCode, Failure};
use crate::descriptors::Descriptors;
use crate::spec::{Descriptor, ProcessSpec, Streams, TerminalSettings};
use crate::tree::{self, failed};

/// A program that is ready to start.
pub struct Program {
    /// The process to be.
    pub prepared: Prepared,
    /// What connects its terminal to the host.
    pub console: Option<Arc<Console>>,
}

/// Makes everything ready for a program.
pub fn prepare(
    terminals: &Arc<DevPts>,
    container: &Arc<Container>,
    role: Role,
    spec: &ProcessSpec,
    descriptors: &mut Descriptors,
) -> Result<Program, Failure> {
    let credentials = credentials(spec);
    let top = container.mounts.root();
    let namespace = Arc::clone(&container.mounts);
    let state = FsState { namespace, root: top.clone(), cwd: top, umask: spec.umask & 0o777 };
    let cwd = working_directory(&state, &credentials, spec)?;
    let mut environment = spec.environment.clone();
    if !environment.iter().any(|variable| variable.0.starts_with(b"HOME=")) {
        environment.push(format!("HOME={}", home(&state, &credentials, spec.uid)).into());
    }
    let (mut files, terminal, console) =
        streams(container, terminals, &state, &credentials, spec, descriptors)?;
    files.extend(host_files(&spec.files, descriptors, |_| None)?);
    files.sort_by_key(|(number, _)| *number);
    if let Some(pair) = files.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(Failure::new(ErrorCode::Invalid, format!("descriptor {} is given twice", pair[0].0)));
    }
    let executable = spec.executable.map(|descriptor| executable(descriptor, descriptors)).transpose()?;
    let init = InitSpec {
        role,
        program: spec.program.0.clone(),
        arguments: spec.arguments.iter().map(|argument| argument.0.clone()).collect(),
        environment: environment.into_iter().map(|variable| variable.0).collect(),
        fs: FsState { cwd, ..state },
        credentials,
        limits: limits(spec),
        files,
        executable,
        filters: container.filters.clone(),
        terminal,
        oom_score_adj: spec.oom_score_adj,
        nice: spec.nice.clamp(-20, 19),
        ignored_signals: SignalSet(spec.ignored_signals),
    };
    let prepared = container.prepare(init).map_err(|error| cannot_run(&spec.program.to_string(), error))?;
    Ok(Program { prepared, console })
}

/// Why a program cannot be run, in the words that engines look for.
pub fn cannot_run(program: &str, error: Errno) -> Failure {
    let (code, reason) = match error {
        Errno::ENOENT if !program.contains('/') => {
            (ErrorCode::ProgramNotFound, "executable file not found in $PATH".to_owned())
        }
        Errno::ENOENT => (ErrorCode::ProgramNotFound, "no such file or directory".to_owned()),
        Errno::EACCES => (ErrorCode::ProgramNotExecutable, "permission denied".to_owned()),
        Errno::ENOTDIR => (ErrorCode::ProgramNotExecutable, "not a directory".to_owned()),
        Errno::ENOEXEC => (ErrorCode::ProgramNotExecutable, "exec format error".to_owned()),
        error => (ErrorCode::ProgramNotExecutable, error.to_string()),
    };
    Failure::new(code, format!("failed to load {program:?}: {reason}"))
}

fn credentials(spec: &ProcessSpec) -> Credentials {
    let sets = &spec.capabilities;
    let mut credentials = Credentials::new(spec.uid, spec.gid);
    credentials.groups = spec.groups.clone();
    credentials.no_new_privileges = spec.no_new_privileges;
    credentials.bounding = sets.bounding & ALL_CAPABILITIES;
    credentials.permitted = sets.permitted & ALL_CAPABILITIES;
    credentials.effective = sets.effective & credentials.permitted;
    credentials.inheritable = sets.inheritable & ALL_CAPABILITIES;
    credentials.ambient = sets.ambient & credentials.permitted & credentials.inheritable;
    credentials
}

fn limits(spec: &ProcessSpec) -> Limits {
    let mut limits = Limits::default();
    for limit in &spec.limits {
        if let Some(resource) = Resource::from_raw(limit.resource) {
            limits.set(resource, Limit { current: limit.soft, maximum: limit.hard });
        }
    }
    limits
}

fn working_directory(
    state: &FsState,
    credentials: &Credentials,
    spec: &ProcessSpec,
) -> Result<PathRef, Failure> {
    let walk = || {
        let walker = Walker::new(state, credentials, None, Walk::FOLLOW);
        let found = walker.walk(&state.root, &spec.cwd.0).map_err(SysError::errno)?;
        match found.place.inode() {
            Some(inode) if inode.file_type() == FileType::Directory => Ok(found.place),
            Some(_) => Err(Errno::ENOTDIR),
            None => Err(Errno::ENOENT),
        }
    };
    let found = match walk() {
        Err(Errno::ENOENT) if spec.make_cwd => {
            let made = tree::make_directory(&state.namespace, &spec.cwd.to_string());
            made.map_err(failed(format!("cannot make the working directory {}", spec.cwd)))?;
            walk()
        }
        other => other,
    };
    found.map_err(|error| {
        let text = format!("cannot enter the working directory {}: {error}", spec.cwd);
        Failure::new(ErrorCode::Invalid, text)
    })
}

/// The home directory that `/etc/passwd` of the container gives a user.
fn home(state: &FsState, credentials: &Credentials, uid: u32) -> String {
    let text = read_file(state, credentials, b"/etc/passwd").unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let home = text.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let found = fields.next()?.trim().parse() == Ok(uid);
        fields.nth(2).filter(|home| found && !home.is_empty())
    });
    home.unwrap_or("/").to_owned()
}

/// What is in a small regular file of the container.
fn read_file(state: &FsState, credentials: &Credentials, path: &[u8]) -> Result<Vec<u8>, SysError> {
    const MOST: usize = 1 << 20;
    let walker = Walker::new(state, credentials, None, Walk::FOLLOW);
    let place = walker.walk(&state.root, path)?.place;
    let inode = Arc::clone(place.existing()?);
    if inode.file_type() != FileType::Regular {
        return Err(Errno::EINVAL.into());
    }
    let flags = OpenFlags::empty();
    let file = File::new(Place::Path(place), inode.open(None, flags)?, flags);
    let mut content = Vec::new();
    while content.len() < MOST {
        let mut piece = Vec::new();
        let count = file.read_at(content.len() as u64, &mut UserWriter::buffer(&mut piece, 16 << 10))?;
        if count == 0 {
            break;
        }
        content.append(&mut piece);
    }
    Ok(content)
}

/// The highest descriptor that may be given: a table of descriptors has room for all below it.
const MAX_DESCRIPTOR: u32 = 1 << 16;

/// Descriptors of the host as open files; `name_of` knows what some of them are called.
fn host_files(
    files: &[(u32, Descriptor)],
    descriptors: &mut Descriptors,
    name_of: impl Fn(u32) -> Option<HostName>,
) -> Result<Vec<(u32, Arc<File>)>, Failure> {
    let mut opened = Vec::new();
    for (number, descriptor) in files {
        if *number > MAX_DESCRIPTOR {
            let text = format!("descriptor {number} is more than {MAX_DESCRIPTOR}");
            return Err(Failure::new(ErrorCode::Invalid, text));
        }
        let descriptor = descriptors.take(*descriptor)?;
        let nameless = || HostName { text: format!("host:[{number}]"), device: None };
        let name = name_of(*number).unwrap_or_else(nameless);
        let file = HostFile::open(descriptor, name);
        let file = file.map_err(failed(format!("cannot use descriptor {number}")))?;
        // What is below it would be out of reach of all mounts.
        if *number > 2 && file.inode().is_some_and(|inode| inode.file_type() == FileType::Directory) {
            let text = format!("descriptor {number} is a directory and cannot be passed on");
            return Err(Failure::new(ErrorCode::Invalid, text));
        }
        opened.push((*number, file));
    }
    Ok(opened)
}

/// The device of a path in the container. Its last component is not looked at, whose attributes would be remembered.
fn device_of(state: &FsState, credentials: &Credentials, path: &str) -> Option<u64> {
    let directory = path.rsplit_once('/')?.0;
    let walker = Walker::new(state, credentials, None, Walk::FOLLOW);
    let found = walker.walk(&state.root, format!("{directory}/").as_bytes()).ok()?;
    Some(found.place.mount.file_system.device())
}

/// A file of the host as a program.
fn executable(descriptor: Descriptor, descriptors: &mut Descriptors) -> Result<Arc<File>, Failure> {
    // The C library wants a path that begins like one in `/proc/self/exe`.
    let name = HostName { text: "/[program]".to_owned(), device: None };
    let file = HostFile::open(descriptors.take(descriptor)?, name);
    let file = file.map_err(failed("cannot use the descriptor of the program"))?;
    let metadata = file.inode().and_then(|inode| inode.metadata().ok());
    match metadata.map(|metadata| metadata.mode) {
        Some(mode) if FileType::from_mode(mode) == FileType::Regular && mode & 0o111 != 0 => Ok(file),
        _ => Err(cannot_run("the file of a descriptor", Errno::EACCES)),
    }
}

type Opened = (Vec<(u32, Arc<File>)>, Option<Arc<Terminal>>, Option<Arc<Console>>);

/// Descriptors 0, 1, 2, and the terminal behind them if there is one.
fn streams(
    container: &Container,
    terminals: &Arc<DevPts>,
    state: &FsState,
    credentials: &Credentials,
    spec: &ProcessSpec,
    descriptors: &mut Descriptors,
) -> Result<Opened, Failure> {
    match &spec.streams {
        Streams::Files(files) => {
            let name = |number| {
                let text = spec.stream_names.get(&number)?.clone();
                let device = device_of(state, credentials, &text);
                Some(HostName { text, device })
            };
            Ok((host_files(files, descriptors, name)?, None, None))
        }
        Streams::Terminal { input, output, settings, size: _ } => {
            let terminal = terminals.make(spec.uid).map_err(failed("cannot make a terminal"))?;
            terminal.unlock();
            if let Some(settings) = settings {
                terminal.set_termios(termios(settings));
            }
            let file = terminal_file(&terminal, state, credentials)
                .map_err(|error| failed("cannot open the terminal")(error.errno()))?;
            // `/dev/console` is the first terminal of the container.
            let _ = container.console.set(Arc::clone(&terminal));
            let (input, output) = (descriptors.take(*input)?, descriptors.take(*output)?);
            let console = Console::start(Arc::clone(&terminal), input, output).map_err(|error| {
                Failure::new(ErrorCode::Internal, format!("cannot start the console: {error}"))
            })?;
            let files = (0..3).map(|number| (number, Arc::clone(&file))).collect();
            Ok((files, Some(terminal), Some(Arc::new(console))))
        }
    }
}

fn termios(settings: &TerminalSettings) -> Termios {
    let mut characters = [0; 19];
    for (place, character) in characters.iter_mut().zip(&settings.characters) {
        *place = *character;
    }
    Termios {
        input: settings.input,
        output: settings.output,
        control: settings.control,
        local: settings.local,
        line: 0,
        characters,
    }
}

/// The slave end of a terminal, by its name if it has one in this tree.
fn terminal_file(
    terminal: &Arc<Terminal>,
    state: &FsState,
    credentials: &Credentials,
) -> Result<Arc<File>, SysError> {
    let flags = OpenFlags::RDWR | OpenFlags::NOCTTY;
    let name = format!("/dev/pts/{}", terminal.number);
    let found = Walker::new(state, credentials, None, Walk::FOLLOW).walk(&state.root, name.as_bytes());
    let place = match found.ok().map(|found| found.place) {
        Some(place) if place.inode().is_some_and(|inode| inode.file_type() == FileType::CharDevice) => {
            Place::Path(place)
        }
        _ => Place::Anonymous { name, inode: None },
    };
    Ok(File::new(place, Slave::open(terminal, None, flags, false)?, flags))
}
