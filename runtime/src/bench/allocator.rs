//! Keeps the memory of dropped sessions in the process.

#![allow(unsafe_code)]

/// Makes the allocator keep what is freed, so that a session made for one round after another gets memory that is
/// mapped already, and a round measures the computation and not the kernel's page faults. The faults of a first session
/// are in the start-up figures.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt only sets parameters of the allocator, and no other thread runs yet. A refusal changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
