//! The rules of which methods batch, and how.
