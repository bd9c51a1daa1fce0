//! The machine, and what the kernel knows about this process.

use crate::args::{Args, PROGRAM};
use crate::json::{integer, object, string};
use olmo_infer::internals::kernels::streaming::Streaming;
use olmo_infer::internals::network::kv_type::KvType;
use olmo_infer::internals::os::memory;
use std::fs;
use std::io::{self, IsTerminal};

/// Where the figures were measured.
pub struct Host {
    /// Name of the processor.
    pub cpu: String,
    /// Vendor, family and model of the processor, as a line of the table of `Streaming` names it.
    pub kind: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Memory of the machine in bytes.
    pub memory_bytes: Option<u64>,
    /// Threads of the run.
    pub threads: usize,
    /// Instruction set of the run.
    pub isa: &'static str,
    /// How its kernels read weights.
    pub streaming: Streaming,
    /// Whether the `gemm` crate computed the products.
    pub gemm: bool,
    /// What keys and values are stored as.
    pub kv: KvType,
}

impl Host {
    /// Reads what there is to read.
    pub fn read(args: &Args, threads: usize) -> Host {
        let unknown = || String::from("unknown");
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
            fields.map(|(key, value)| (key.trim(), value.trim())).find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        let kind = [("", "vendor_id"), ("family ", "cpu family"), ("model ", "model")];
        let kind: Vec<String> = kind.iter().filter_map(|(name, key)| Some(format!("{name}{}", field(key)?))).collect();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").map(|text| text.trim().to_string());
        Host {
            cpu: field("model name").map_or_else(unknown, String::from),
            kind: if kind.is_empty() { unknown() } else { kind.join(", ") },
            kernel: kernel.unwrap_or_else(|_| unknown()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory::total(),
            threads,
            isa: args.backend.isa.name(),
            streaming: args.backend.isa.streaming(),
            gemm: args.backend.gemm,
            kv: args.kv,
        }
    }
}

impl Host {
    /// For programs.
    pub fn json(&self) -> String {
        let own = [("panels", self.streaming.panels), ("ahead_bytes", self.streaming.ahead_bytes)];
        object([
            ("cpu", string(&self.cpu)),
            ("kind", string(&self.kind)),
            ("kernel", string(&self.kernel)),
            ("cores", integer(self.cores as u64)),
            ("memory_bytes", integer(self.memory_bytes)),
            ("threads", integer(self.threads as u64)),
            ("isa", string(self.isa)),
            ("matmul", string(if self.gemm { "gemm" } else { "own" })),
            ("kv", string(self.kv.name())),
            ("streaming", object(own.map(|(key, value)| (key, integer(value as u64))))),
        ])
    }
}

/// Page faults of this process.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    /// Without input: the page was in memory.
    pub minor: u64,
    /// With input.
    pub major: u64,
}

impl Faults {
    /// All faults until now.
    pub fn so_far() -> Faults {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The second field is a name in parentheses, which may hold spaces; minflt and majflt are fields 10 and 12.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let field = |number: usize| after_name.split_whitespace().nth(number - 3)?.parse().ok();
        Faults { minor: field(10).unwrap_or(0), major: field(12).unwrap_or(0) }
    }

    /// Those after `earlier`.
    pub fn since(self, earlier: Faults) -> Faults {
        Faults { minor: self.minor - earlier.minor, major: self.major - earlier.major }
    }
}

/// Why a sequence of `bytes` does not fit; `None` when it does, or when the free memory is unknown.
pub fn too_large(bytes: u64) -> Option<String> {
    // What was freed by earlier sessions is still counted as used.
    let available = memory::available()?.saturating_add(memory::anonymous_bytes().unwrap_or(0));
    let gb = |bytes: u64| bytes as f64 / 1e9;
    (bytes > available).then(|| format!("needs {:.1} GB of memory, {:.1} GB are left", gb(bytes), gb(available)))
}

/// Prints what is measured now, on a terminal.
pub fn progress(what: &str) {
    if io::stderr().is_terminal() {
        PROGRAM.print_line(what);
    }
}
