//! Who a task is: user and group ids, capabilities, `credentials(7)` and `capabilities(7)`.

use std::sync::Arc;

use abi::SysResult;

use crate::namespace::user::{IdKind, UserNamespace};

/// The identity of a task. Immutable; a change makes a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of credentials(7)")]
pub struct Credentials {
    pub uid: u32,
    pub gid: u32,
    pub effective_uid: u32,
    pub effective_gid: u32,
    pub saved_uid: u32,
    pub saved_gid: u32,
    pub fs_uid: u32,
    pub fs_gid: u32,
    pub groups: Vec<u32>,
    pub permitted: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub bounding: u64,
    pub ambient: u64,
    pub securebits: u32,
    pub no_new_privileges: bool,
    /// Where the capabilities hold; ids are the kernel's all the same.
    pub user_namespace: Arc<UserNamespace>,
}

/// All capabilities that Linux 6.12 knows.
pub const ALL_CAPABILITIES: u64 = (1 << 41) - 1;

macro_rules! capabilities {
    ($($name:ident = $value:literal;)*) => {
        /// A capability, `capabilities(7)`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, non_camel_case_types, reason = "the names are those of capabilities(7)")]
        #[repr(u8)]
        pub enum Capability { $($name = $value),* }

        impl Capability {
            /// All of them.
            pub const ALL: &[Capability] = &[$(Capability::$name),*];

            /// The name, such as `CAP_CHOWN`.
            pub fn name(self) -> &'static str {
                match self { $(Capability::$name => concat!("CAP_", stringify!($name))),* }
            }
        }
    };
}

capabilities! {
    CHOWN = 0; DAC_OVERRIDE = 1; DAC_READ_SEARCH = 2; FOWNER = 3; FSETID = 4; KILL = 5; SETGID = 6; SETUID = 7;
    SETPCAP = 8; LINUX_IMMUTABLE = 9; NET_BIND_SERVICE = 10; NET_BROADCAST = 11; NET_ADMIN = 12; NET_RAW = 13;
    IPC_LOCK = 14; IPC_OWNER = 15; SYS_MODULE = 16; SYS_RAWIO = 17; SYS_CHROOT = 18; SYS_PTRACE = 19;
    SYS_PACCT = 20; SYS_ADMIN = 21; SYS_BOOT = 22; SYS_NICE = 23; SYS_RESOURCE = 24; SYS_TIME = 25;
    SYS_TTY_CONFIG = 26; MKNOD = 27; LEASE = 28; AUDIT_WRITE = 29; AUDIT_CONTROL = 30; SETFCAP = 31;
    MAC_OVERRIDE = 32; MAC_ADMIN = 33; SYSLOG = 34; WAKE_ALARM = 35; BLOCK_SUSPEND = 36; AUDIT_READ = 37;
    PERFMON = 38; BPF = 39; CHECKPOINT_RESTORE = 40;
}

impl Capability {
    /// The bit in a capability set.
    pub fn mask(self) -> u64 {
        1 << self as u8
    }
}

impl Credentials {
    /// A user with these ids and no groups; with all capabilities if it is root, else with none.
    pub fn new(uid: u32, gid: u32) -> Credentials {
        let capabilities = if uid == 0 { ALL_CAPABILITIES } else { 0 };
        Credentials {
            uid,
            gid,
            effective_uid: uid,
            effective_gid: gid,
            saved_uid: uid,
            saved_gid: gid,
            fs_uid: uid,
            fs_gid: gid,
            groups: Vec::new(),
            permitted: capabilities,
            effective: capabilities,
            inheritable: 0,
            bounding: ALL_CAPABILITIES,
            ambient: 0,
            securebits: 0,
            no_new_privileges: false,
            user_namespace: UserNamespace::root(),
        }
    }

    /// Whether the task may use the capability now on what belongs to the whole kernel, so that only those in the root
    /// user namespace may.
    pub fn has(&self, capability: Capability) -> bool {
        self.has_in(&UserNamespace::root(), capability)
    }

    /// Whether the task may use the capability now on itself and what belongs to its own user namespace.
    pub fn has_own(&self, capability: Capability) -> bool {
        self.effective & capability.mask() != 0
    }

    /// Whether the task may use the capability now on what belongs to a user namespace.
    pub fn has_in(&self, namespace: &UserNamespace, capability: Capability) -> bool {
        let mut at = namespace;
        loop {
            if *at == *self.user_namespace {
                return self.has_own(capability);
            }
            let Some(parent) = at.parent.as_deref() else { return false };
            // Who made it may do everything in it.
            if *parent == *self.user_namespace && at.owner.0 == self.effective_uid {
                return true;
            }
            at = parent;
        }
    }

    /// Whether the task may use the capability now on a file that belongs to these ids: both must have numbers in its
    /// user namespace.
    pub fn has_over(&self, uid: u32, gid: u32, capability: Capability) -> bool {
        let namespace = &self.user_namespace;
        self.has_own(capability)
            && namespace.number(IdKind::User, uid).is_some()
            && namespace.number(IdKind::Group, gid).is_some()
    }

    /// Whether the task may use the capability now on all files, whomever they belong to.
    pub fn has_over_all(&self, capability: Capability) -> bool {
        self.has_own(capability) && self.user_namespace.is_root()
    }

    /// The kernel's id of the user namespace's root user; `None` if it is not mapped.
    pub fn root_user(&self) -> Option<u32> {
        self.user_namespace.id_of(IdKind::User, 0).ok()
    }

    /// Whether an id is that of the user namespace's root user.
    pub fn is_root_user(&self, uid: u32) -> bool {
        self.root_user() == Some(uid)
    }

    /// What a user id is called in the user namespace.
    pub fn shown_uid(&self, uid: u32) -> u32 {
        self.user_namespace.shown(IdKind::User, uid)
    }

    /// What a group id is called in the user namespace.
    pub fn shown_gid(&self, gid: u32) -> u32 {
        self.user_namespace.shown(IdKind::Group, gid)
    }

    /// The user that a number of the user namespace stands for; `u32::MAX` stays: `EINVAL`.
    pub fn uid_of(&self, number: u32) -> SysResult<u32> {
        self.user_namespace.id_of(IdKind::User, number)
    }

    /// The group that a number of the user namespace stands for; `u32::MAX` stays: `EINVAL`.
    pub fn gid_of(&self, number: u32) -> SysResult<u32> {
        self.user_namespace.id_of(IdKind::Group, number)
    }

    /// Whether the task is in the group, by its file system group or a supplementary one.
    pub fn in_group(&self, gid: u32) -> bool {
        self.fs_gid == gid || self.groups.contains(&gid)
    }
}
