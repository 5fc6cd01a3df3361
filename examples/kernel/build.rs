//! Where the kernel's parts lie: see the kernel.ld of each architecture.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name| std::env::var(name).unwrap_or_default();
    if variable("CARGO_CFG_TARGET_OS") != "none" {
        return;
    }
    let arch = variable("CARGO_CFG_TARGET_ARCH");
    let script = format!("{}/src/{arch}/kernel.ld", env!("CARGO_MANIFEST_DIR"));
    println!("cargo:rerun-if-changed={script}");
    let mut arguments = vec![format!("-T{script}")];
    if arch == "aarch64" {
        // An Image of Linux's, which is no ELF file, that runs anywhere: each address in its data, read-only or not, is
        // relocated. The code has none.
        let anywhere = ["-pie", "--no-dynamic-linker", "-znotext", "--oformat=binary"];
        arguments.extend(anywhere.map(String::from));
    }
    for argument in arguments {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
