//! Has the binary, and its unit tests with it, begin in `prologue` instead of the C library's `_start`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bin=containerd-shim-wasm-v1=-Wl,--entry=shim_prologue");
}
