//! The command line of both programs: options, errors about them, help, manual pages and completions.

pub mod command_line;
pub mod exit;
pub mod manual;
