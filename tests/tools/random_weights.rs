//! Writes a folder of random weights in a published shape.
fn main() {}
