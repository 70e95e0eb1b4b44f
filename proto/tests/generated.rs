//! The committed Rust code is what the `.proto` files say.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::fs;
use std::path::Path;

const FILES: [&str; 3] = ["mallard/v1/frame.proto", "mallard/v1/handle.proto", "mallard/v1/receipt.proto"];
const GENERATED: [&str; 2] = ["flight.descriptors", "mallard.v1.rs"];

fn generate_into(dir: &Path) {
    let includes = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let descriptors = protox::compile(FILES, [&includes]).unwrap();
    let mut config = prost_build::Config::new();
    // Ordered maps: the same message always has the same bytes.
    config.btree_map(["."]).out_dir(dir).compile_fds(descriptors).unwrap();
    let mut flight = protox::Compiler::new([includes]).unwrap();
    flight.include_imports(true).open_file("Flight.proto").unwrap();
    fs::write(dir.join(GENERATED[0]), flight.encode_file_descriptor_set()).unwrap();
}

#[test]
fn the_committed_code_matches_the_proto_files() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/generated");
    if std::env::var("MALLARD_REGENERATE").is_ok_and(|value| value == "1") {
        generate_into(&committed);
        return;
    }
    let fresh = tempfile::tempdir().unwrap();
    generate_into(fresh.path());
    let mut names: Vec<_> = fs::read_dir(fresh.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, GENERATED, "one package makes one file");
    for name in GENERATED {
        let expected = fs::read(fresh.path().join(name)).unwrap();
        let found = fs::read(committed.join(name)).unwrap_or_default();
        assert!(
            expected == found,
            "src/generated/{name} is stale; run MALLARD_REGENERATE=1 cargo test --release -p proto --test generated"
        );
    }
}

#[test]
fn every_proto_file_is_compiled() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/mallard/v1");
    let mut found: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| format!("mallard/v1/{}", entry.unwrap().file_name().to_string_lossy()))
        .collect();
    found.sort();
    assert_eq!(found, FILES);
}
