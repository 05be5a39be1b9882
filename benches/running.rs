//! Processes that a benchmark starts: they end with it.

use std::{
    net::{SocketAddr, TcpListener},
    process::Child,
};

use anyhow::Result;

/// A process that ends with the bench.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A loopback address that nobody listens on.
pub(crate) fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
