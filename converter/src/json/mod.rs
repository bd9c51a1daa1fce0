//! JSON from untrusted files.

pub mod keys;
pub mod strict;
