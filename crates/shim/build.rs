//! Has the binary begin in `entry`, where the other binaries and the tests begin in the C library.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bin=containerd-shim-wasm-v1=-Wl,--entry=shim_entry");
}
