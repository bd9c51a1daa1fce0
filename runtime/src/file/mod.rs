//! An open model file: opened, checked and mapped.

mod bf12_tables;
pub mod file_kind;
mod freshness;
pub mod index;
pub mod mapping;
pub mod model_file;
mod not_olmo;
pub mod parts;
pub mod reader;
pub mod sampling;
