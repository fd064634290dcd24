//! Every test that the specification names exists.

use std::path::Path;

#[test]
fn the_tests_that_hold_the_promises_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let specification = std::fs::read_to_string(root.join("SPECIFICATION.md")).unwrap();
    let quoted = specification.split('`').skip(1).step_by(2);
    let mut named = 0;
    for name in quoted {
        let Some((file, test)) = name.split_once("::").filter(|(_, test)| test.contains('_')) else {
            continue;
        };
        if file.starts_with(char::is_uppercase) {
            continue;
        }
        // Those of the command are in its own package.
        let (package, file) = file.split_once('/').map_or((".", file), |(package, file)| (package, file));
        let source = std::fs::read_to_string(root.join(package).join("tests").join(format!("{file}.rs")));
        let source = source.unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(source.contains(&format!("#[test]\nfn {test}()")), "{file} has no test {test}");
        named += 1;
    }
    assert!(named > 30, "{named} tests are named");
}
