//! Names of containers and sandboxes.
//!
//! An [`Id`] is checked where it comes in: it can be a file name, and can neither lead out of a directory nor be
//! taken for a pattern. A [`FullId`] names a container and the sandbox that it runs in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest id that is accepted.
pub const MAX_LENGTH: usize = 1024;

/// What a string that is no id is answered with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing in it.
    #[error("invalid container id \"\": it must not be empty")]
    Empty,
    /// Longer than [`MAX_LENGTH`]; its length.
    #[error("invalid container id of {0} bytes: the most is {MAX_LENGTH}")]
    TooLong(usize),
    /// `.`, `..`, or a character that an id cannot have.
    #[error("invalid container id {0:?}: letters, digits and _ + - . are allowed")]
    Invalid(String),
}

/// The name of a container or a sandbox: of letters, digits and `_ + - .`, and neither `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(String);

impl Id {
    /// Checks a name.
    ///
    /// # Errors
    /// If it is none.
    pub fn new(name: impl Into<String>) -> Result<Self, IdError> {
        let name = name.into();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
        if name.is_empty() {
            Err(IdError::Empty)
        } else if name.len() > MAX_LENGTH {
            Err(IdError::TooLong(name.len()))
        } else if name == "." || name == ".." || !name.bytes().all(allowed) {
            Err(IdError::Invalid(name))
        } else {
            Ok(Self(name))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for Id {
    type Err = IdError;

    fn from_str(name: &str) -> Result<Self, IdError> {
        Self::new(name)
    }
}

impl TryFrom<String> for Id {
    type Error = IdError;

    fn try_from(name: String) -> Result<Self, IdError> {
        Self::new(name)
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.0
    }
}

impl AsRef<str> for Id {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// A container and its sandbox. The first container of a sandbox has the same name as the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FullId {
    /// The sandbox.
    pub sandbox_id: Id,
    /// The container.
    pub container_id: Id,
}

impl FullId {
    /// The first container of sandbox `id`.
    pub fn root(id: Id) -> Self {
        Self { sandbox_id: id.clone(), container_id: id }
    }

    /// Whether it is the first container of its sandbox.
    pub fn is_root(&self) -> bool {
        self.sandbox_id == self.container_id
    }
}

impl fmt::Display for FullId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.sandbox_id, self.container_id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_that_are_paths_or_patterns_are_refused() {
        for bad in ["", ".", "..", "a/b", "../x", "a b", "*", "a[b]", "a?", "ä", "a\0", "a\n", "a:b", "a,b"]
        {
            assert!(Id::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Id::new("x".repeat(1025)), Err(IdError::TooLong(1025)));
    }

    #[test]
    fn ids_of_engines_are_accepted() {
        let longest = "x".repeat(1024);
        for good in ["...", "a", "_", "a_sandbox", "k8s_POD-1.2+3", "-", ".lock", longest.as_str()] {
            assert_eq!(Id::new(good).unwrap().as_str(), good);
        }
    }

    proptest! {
        #[test]
        fn every_accepted_id_is_one_component_of_a_path(name in ".{0,40}") {
            if let Ok(id) = Id::new(name.clone()) {
                let path = std::path::Path::new("/r").join(id.as_str());
                prop_assert_eq!(path.parent(), Some(std::path::Path::new("/r")));
                prop_assert_eq!(path.file_name(), Some(std::ffi::OsStr::new(&name)));
            }
        }

        #[test]
        fn json_holds_only_ids(name in "[a-zA-Z0-9_+.-]{3,40}", bad in "[a-z]{0,5}[/* \n][a-z]{0,5}") {
            let id = FullId::root(Id::new(name).unwrap());
            let text = serde_json::to_string(&id).unwrap();
            prop_assert_eq!(serde_json::from_str::<FullId>(&text).unwrap(), id);
            let text = serde_json::to_string(&bad).unwrap();
            prop_assert!(serde_json::from_str::<Id>(&text).is_err());
        }
    }
}
