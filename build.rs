//! Compiles `proto/` in pure Rust (no `protoc` to install) into the service
//! traits that a node serves, and into the descriptor set that policies are
//! checked against.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    if env::var_os("CARGO_FEATURE_FULL").is_none() {
        return Ok(()); // the library core speaks no protobuf of its own
    }
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_files([
        "meta/mqtt.proto",
        "meta/common.proto",
        "ferry/raft.proto",
        "ferry/cluster.proto",
    ])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(
        out.join("descriptors.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    // Described for policies and not served, so no code is generated for it.
    let mut described = protox::Compiler::new(["proto"])?;
    described
        .include_imports(true)
        .open_files(["etcd/kv.proto"])?;
    fs::write(out.join("etcd.bin"), described.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(compiler.file_descriptor_set())?;
    interop()
}

/// gRPC's interoperability service, which nothing but the tests speaks.
fn interop() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=tests/proto");
    let mut compiler = protox::Compiler::new(["tests/proto"])?;
    compiler.open_files(["interop.proto"])?;
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
