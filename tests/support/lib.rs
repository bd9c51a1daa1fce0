//! What several tests share: temporary folders, running the two programs, small weights folders.
