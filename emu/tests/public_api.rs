//! The public interface is what `public-api.txt` says, so that no change of it goes unseen.
//!
//! Only a nightly `rustdoc` writes what this is read from. `UPDATE_PUBLIC_API=1` writes the file anew.

use std::path::Path;
use std::process::Command;

use public_api::{Builder, PublicApi};

/// The interface of this crate, or why there is no knowing.
fn interface() -> Result<PublicApi, String> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("public-api");
    let rustdoc = Command::new("rustup")
        .args(["run", "nightly", "cargo", "rustdoc", "--quiet", "--locked", "--offline", "--lib"])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), "--target-dir"])
        .arg(&target)
        .args(["--", "-Z", "unstable-options", "--output-format", "json"])
        .output()
        .map_err(|error| format!("no rustup: {error}"))?;
    if !rustdoc.status.success() {
        return Err(String::from_utf8_lossy(&rustdoc.stderr).into_owned());
    }
    Builder::from_rustdoc_json(target.join(concat!("doc/", env!("CARGO_PKG_NAME"), ".json")))
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()
        .map_err(|error| error.to_string())
}

#[test]
fn the_public_interface_is_the_one_on_file() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("public-api.txt");
    let interface = match interface() {
        Ok(interface) => interface.to_string(),
        Err(reason) => return println!("skipped: rustdoc of the nightly toolchain: {reason}"),
    };
    if std::env::var_os("UPDATE_PUBLIC_API").is_some() {
        std::fs::write(&file, interface).expect("the file can be written");
        return;
    }
    let recorded = std::fs::read_to_string(&file).expect("the file is there");
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    let (before, now) = (lines(&recorded), lines(&interface));
    let gone: Vec<_> = before.difference(&now).collect();
    let new: Vec<_> = now.difference(&before).collect();
    assert!(
        gone.is_empty() && new.is_empty(),
        "UPDATE_PUBLIC_API=1 cargo test -p {} --test public_api records it.\ngone: {gone:#?}\nnew: {new:#?}",
        env!("CARGO_PKG_NAME")
    );
}
