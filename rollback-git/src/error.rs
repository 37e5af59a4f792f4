//! From libgit2's errors to ours, in one place.

use rollback_core::{Error, ErrorKind};

/// An error of reading a repository; none of these had an effect.
pub(crate) fn from_git(error: git2::Error, what: impl Into<String>) -> Error {
    let kind = match error.code() {
        git2::ErrorCode::NotFound => ErrorKind::NotFound,
        git2::ErrorCode::Ambiguous | git2::ErrorCode::InvalidSpec => ErrorKind::InvalidConfig,
        git2::ErrorCode::Owner => ErrorKind::PermissionDenied,
        _ => ErrorKind::Unexpected,
    };
    let is_owner = error.code() == git2::ErrorCode::Owner;
    let error = Error::new(kind, what).with_source(error);
    if is_owner {
        return error.with_hint("the repository belongs to somebody else: git config --global --add safe.directory names the trusted ones");
    }
    error
}

/// What is wrong with the content of a revision.
pub(crate) fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Refused, message)
}

/// That the machine, not the repository, is at fault.
pub(crate) fn from_io(error: std::io::Error, what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unavailable, what).with_source(error)
}
