//! The commands.

pub mod copy;
pub mod diff;
pub mod facts;
pub mod inspect;
pub mod inspect_table;
pub mod mistaken;
pub mod pack;
pub mod pack_summary;
pub mod progress;
pub mod read_back;
pub mod role_losses;
pub mod sources;
pub mod units;
pub mod unpack;
pub mod verify;
pub mod verify_against;
