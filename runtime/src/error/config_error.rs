//! A configuration that no model can have.

use std::fmt;

/// A value of a configuration that no model can have.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigError {
    /// Key as in `config.json`.
    pub key: &'static str,
    /// The value found.
    pub found: String,
    /// What would be right.
    pub expected: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, expected {}", self.key, self.found, self.expected)
    }
}

impl std::error::Error for ConfigError {}
