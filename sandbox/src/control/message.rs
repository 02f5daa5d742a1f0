//! The messages of the control protocol. A change that older peers do not understand raises [`VERSION`].

use serde::{Deserialize, Serialize};

use crate::spec::{Bytes, ContainerSpec, Descriptor, ProcessSpec};

/// The version of the protocol. A sandbox answers only its own.
pub const VERSION: u32 = 1;

/// What a client sends.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// The client's [`VERSION`].
    pub version: u32,
    /// What it wants.
    pub request: Request,
}

/// What a client wants.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Who serves here: [`Response::Version`].
    Version,
    /// Make a container and load its program.
    Create(Box<ContainerSpec>),
    /// Start a container's program.
    Start {
        /// The container.
        container: String,
    },
    /// Run a further program in a running container: [`Response::Executed`].
    Execute {
        /// The container.
        container: String,
        /// The program.
        process: Box<ProcessSpec>,
        /// The end of a link ([`crate::link`]) to the process that stands for it on the host, if there is one.
        link: Option<Descriptor>,
    },
    /// Send a signal.
    Signal {
        /// The container.
        container: String,
        /// The number; zero only asks whether it could be sent.
        signal: i32,
        /// To whom.
        target: SignalTarget,
    },
    /// Wait until a process has ended: [`Response::Exited`].
    Wait {
        /// The container.
        container: String,
        /// Which process.
        target: WaitTarget,
    },
    /// List processes: [`Response::Processes`].
    Processes {
        /// The container.
        container: String,
    },
    /// What a container uses: [`Response::Usage`].
    Usage {
        /// The container.
        container: String,
    },
    /// What memory the sandbox of a container takes: [`Response::Memory`].
    Memory {
        /// The container.
        container: String,
    },
    /// Write a regular file of a container to a pipe.
    Read {
        /// The container.
        container: String,
        /// The file, from its root directory.
        path: Bytes,
        /// Where to begin.
        offset: u64,
        /// How many bytes at most; `None` for all.
        size: Option<u64>,
        /// The pipe.
        output: Descriptor,
    },
    /// Write the layer over a container's root directory to a pipe, as a tar archive.
    WriteLayer {
        /// The container.
        container: String,
        /// The pipe.
        output: Descriptor,
    },
    /// Mount an EROFS image in a container that was made already.
    Mount {
        /// The container.
        container: String,
        /// The image, open for reading.
        image: Descriptor,
        /// Its path on the host.
        source: String,
        /// Where, from the root directory of the container; made if it does not exist.
        destination: String,
    },
    /// Hold all processes of a container.
    Pause {
        /// The container.
        container: String,
    },
    /// Let them go on.
    Resume {
        /// The container.
        container: String,
    },
    /// Change a container's limits.
    Update {
        /// The container.
        container: String,
        /// All of them.
        resources: crate::spec::ResourcesSpec,
    },
    /// What a container is doing: [`Response::State`].
    State {
        /// The container.
        container: String,
    },
    /// Take over the size of the host's terminal.
    Resize {
        /// The container.
        container: String,
        /// The process whose terminal it is; `None` for the first.
        pid: Option<i32>,
    },
    /// End all processes of a container and forget it. A sandbox ends with its first container.
    Destroy {
        /// The container.
        container: String,
    },
}

/// To whom a signal goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalTarget {
    /// The container's first process.
    Init,
    /// All processes of the container. After SIGKILL, none is left when the answer comes.
    All,
    /// The process with this pid (in the container's pid namespace).
    Process(i32),
    /// The process group with this number (in the container's pid namespace).
    ProcessGroup(i32),
    /// The foreground process group of the terminal of the process, or the process itself if it has none; the
    /// container's first process for `None`.
    Foreground(Option<i32>),
}

/// Whose end is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitTarget {
    /// The container's first process.
    Init,
    /// The process with this pid in the container's pid namespace, if it was started by [`Request::Execute`].
    Process(i32),
    /// The same in any container that shares the pid namespace of the one that is named.
    RootProcess(i32),
}

/// What a sandbox answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// Done.
    Done,
    /// Who serves here.
    Version {
        /// The sandbox's [`VERSION`].
        version: u32,
        /// The release of the program.
        release: String,
    },
    /// A program runs.
    Executed {
        /// Its pid in the container's pid namespace.
        pid: i32,
    },
    /// A process has ended.
    Exited {
        /// How, as `wait(2)` gives it.
        status: u32,
    },
    /// All processes of a container.
    Processes(Vec<ProcessInfo>),
    /// What a container uses.
    Usage(Usage),
    /// What memory the sandbox takes.
    Memory(MemoryUse),
    /// What a container is doing.
    State(ContainerState),
}

/// What a container is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// It waits to be started.
    Created,
    /// It runs.
    Running,
    /// It is held.
    Paused,
    /// Its first process has ended.
    Stopped {
        /// How, as `wait(2)` gives it.
        status: u32,
    },
}

/// A process, as `ps` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// User id.
    pub uid: u32,
    /// Pid in the container's pid namespace.
    pub pid: i32,
    /// Parent's pid; zero if it is not to be seen.
    pub ppid: i32,
    /// Process group.
    pub pgid: i32,
    /// Threads.
    pub threads: u32,
    /// Share of a processor since it started, in percent.
    pub c: u32,
    /// Its terminal, `?` for none.
    pub tty: String,
    /// When it started, in seconds since 1970.
    pub start_time: u64,
    /// Processor time in milliseconds.
    pub cpu_milliseconds: u64,
    /// Command line.
    pub cmd: String,
}

/// What a container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time in user mode, in nanoseconds.
    pub user_nanoseconds: u64,
    /// Processor time in the kernel, in nanoseconds.
    pub system_nanoseconds: u64,
    /// Resident memory in bytes.
    pub memory_bytes: u64,
    /// Tasks.
    pub tasks: u64,
    /// The most tasks that there may be; zero for no limit.
    pub tasks_limit: u64,
}

/// What memory all containers of a sandbox take, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUse {
    /// Memory of processes that is of no file.
    pub anonymous: u64,
    /// Parts of the host's files that processes have mapped and read.
    pub mapped: u64,
    /// Large files in memory.
    pub files: u64,
    /// Small files in memory, which are part of the memory of the sandbox process.
    pub small_files: u64,
    /// Copies of files in images.
    pub copies: u64,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// What kind of failure.
    pub code: ErrorCode,
    /// What happened, for people.
    pub text: String,
}

/// Kinds of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The peer speaks another version.
    Version,
    /// There is no such container.
    NotFound,
    /// There is one already.
    AlreadyExists,
    /// It has not been started.
    NotStarted,
    /// It has ended.
    Stopped,
    /// It cannot be done in this state.
    BadState,
    /// There is no such process.
    NoSuchProcess,
    /// There is no such program.
    ProgramNotFound,
    /// The program cannot be run.
    ProgramNotExecutable,
    /// The request makes no sense.
    Invalid,
    /// There are too many clients.
    Busy,
    /// It is not there yet.
    Unsupported,
    /// Anything else.
    Internal,
}

impl Failure {
    /// A failure with its text.
    pub fn new(code: ErrorCode, text: impl Into<String>) -> Failure {
        Failure { code, text: text.into() }
    }
}

/// What travels back.
pub type Reply = Result<Response, Failure>;
