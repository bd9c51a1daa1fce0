//! JSON from untrusted files.

pub mod strict;
