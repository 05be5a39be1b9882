//! The one integration binary: what a caller sees of ferry from outside, and
//! the rules of the house. One binary, because each links RocksDB again.

mod process;
mod python_client;
mod tidy;
