//! Strips the release binary by the linker. A profile of its own for this package, which makes its code small, lets cargo
//! forget the profile's `strip`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let profile = std::env::var("PROFILE").unwrap_or_default();
    let symbols = std::env::var_os("DPONE_SYMBOLS").is_some();
    println!("cargo:rerun-if-env-changed=DPONE_SYMBOLS");
    if profile == "release" && !symbols {
        println!("cargo:rustc-link-arg-bins=-s");
    }
}
