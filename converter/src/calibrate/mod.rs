//! Runs the model over a text, to see which columns of its matrices matter.

pub mod passages;
pub mod run;
pub mod squared_inputs;
