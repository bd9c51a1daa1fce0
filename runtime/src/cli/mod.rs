//! The command line of the programs: options, errors about them, help, manual pages, and the lines that they print.

pub mod advice;
pub mod command_line;
pub mod exit;
pub mod json;
pub mod manual;
pub mod program;
pub mod words;
