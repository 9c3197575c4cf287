//! Compiles the contract with protox, so that no protoc is needed.

use std::path::PathBuf;

use prost::Message;

#[expect(clippy::disallowed_methods, reason = "cargo speaks to a build script by variables")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = protox::compile(["keyserver/v1/key_server.proto"], ["."])?;
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out_dir.join("key_server.binpb"), files.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("crate::codec::SmallCodec")
        // It holds a credential: its Debug is written by hand.
        .skip_debug(["keyserver.v1.SelectedKey"])
        .compile_fds(files)?;
    println!("cargo:rerun-if-changed=keyserver");
    Ok(())
}
