//! JSON of strangers.

pub mod strict;
