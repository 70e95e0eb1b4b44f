//! Tells the linker where the binaries look for DuckDB's library: beside themselves, and in `lib/`.

fn main() {
    println!("cargo:rustc-link-arg-bins=-Wl,-rpath,$ORIGIN:$ORIGIN/lib");
    println!("cargo:rerun-if-changed=build.rs");
}
