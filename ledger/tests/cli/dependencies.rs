//! What the command must not carry along.

use std::process::Command;

#[test]
fn neither_arrow_nor_datafusion_is_in_its_tree() {
    let tree = ["tree", "--package", "dpone-ledger", "--edges", "normal", "--prefix", "none", "--offline", "--locked"];
    let done = Command::new(env!("CARGO")).args(tree).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    let crates = String::from_utf8(done.stdout).unwrap();
    assert!(crates.contains("tokio-postgres v"), "{}", String::from_utf8_lossy(&done.stderr));
    for line in crates.lines() {
        assert!(!line.starts_with("arrow") && !line.starts_with("datafusion"), "{line}");
    }
}
