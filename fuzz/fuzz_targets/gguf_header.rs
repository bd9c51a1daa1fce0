//! See the function of this name in `tests/support/fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| olmo_tests::fuzz::gguf_header(input));
