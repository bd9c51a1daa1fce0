//! What is measured, and the head of every report.

use crate::host::Host;
use crate::json::{integer, object, string};
use olmo_infer::internals::error::shown::path_text;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::network::Network;

/// Reading less than this per token, caches and not memory are measured.
const CACHED_BYTES: u64 = 256 << 20;

/// What is measured.
pub struct ModelFacts {
    path: String,
    dtype: &'static str,
    file_bytes: u64,
    bytes_per_token: u64,
}

impl ModelFacts {
    /// Reads them from the open file.
    pub fn new(file: &ModelFile, network: &Network) -> ModelFacts {
        ModelFacts {
            path: path_text(file.path()),
            dtype: file.matrices().map_or("mixed", |dtype| dtype.name()),
            file_bytes: file.layout().file_bytes,
            bytes_per_token: network.weights().bytes_per_token(),
        }
    }

    /// The first lines of a table; `how` is how the threads compute.
    pub fn head(&self, host: &Host, how: &str) -> String {
        let model = format!("{} ({}, {:.3} GB)", self.path, self.dtype, self.file_bytes as f64 / 1e9);
        let machine = format!("{}, {} cores, Linux {}", host.cpu, host.cores, host.kernel);
        let fits = match self.bytes_per_token < CACHED_BYTES {
            true => "This model fits the caches: shares of the read ceiling do not show the speed of memory.\n",
            false => "",
        };
        format!("{model}\n{machine}\n{} threads, {how}\n{fits}", host.threads)
    }

    /// For programs.
    pub fn json(&self) -> String {
        object([
            ("path", string(&self.path)),
            ("dtype", string(self.dtype)),
            ("file_bytes", integer(self.file_bytes)),
            ("bytes_per_token", integer(self.bytes_per_token)),
        ])
    }
}
