//! Looks probes up in running processes.

mod scratch;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use probe::locate::{Locate, LocateError};
use probe::maps::{self, Mapping, Maps};
use probe::resolve::{ResolveError, Resolver};
use probe::spec::ProbeSpec;
use scratch::{PROGRAM, Scratch};

fn our_maps() -> Maps {
    Maps::read(i32::try_from(std::process::id()).unwrap()).unwrap()
}

fn locate(spec: &str, maps: &Maps) -> Result<Vec<u64>, LocateError> {
    let sites = spec.parse::<ProbeSpec>().unwrap().locate(maps)?;
    Ok(sites.into_iter().map(|site| site.address).collect())
}

fn unresolvable(spec: &str, maps: &Maps) -> ResolveError {
    match locate(spec, maps) {
        Err(LocateError::Unresolvable(error)) => *error.downcast().unwrap(),
        other => panic!("{spec}: {other:?}"),
    }
}

/// A process that waits for its stdin to close.
struct Waiting(Child);

impl Waiting {
    fn start(program: &Path) -> Waiting {
        let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // Once it has written a byte, its libraries are mapped.
        let mut byte = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
        Waiting(child)
    }

    fn maps(&self) -> Maps {
        Maps::read(i32::try_from(self.0.id()).unwrap()).unwrap()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

const WAITS: &str = r#"
    #include <unistd.h>
    int thing(void);
    int main(void) { char c = '.'; write(1, &c, 1); thing(); return (int)read(0, &c, 1); }
"#;

#[test]
fn a_function_of_libc_is_where_we_call_it() {
    let maps = our_maps();
    let expected = libc::malloc_usable_size as *const () as u64;
    assert_eq!(locate("libc.so.6:malloc_usable_size", &maps).unwrap(), [expected]);
    let mapping = maps::find(&maps, expected).unwrap();
    let path = mapping.file().unwrap().display();
    assert_eq!(locate(&format!("{path}:malloc_usable_size"), &maps).unwrap(), [expected]);
    let offset = mapping.file_offset(expected).unwrap();
    assert_eq!(locate(&format!("libc.so.6:{offset:#x}"), &maps).unwrap(), [expected]);
    assert_eq!(locate(&format!("{expected:#x}"), &maps).unwrap(), [expected]);
    let every = locate("libc.so.6:malloc_usable_size/*", &maps).unwrap();
    assert!(every.len() > 3 && every[0] == expected && every.is_sorted());
    assert_eq!(locate("libc.so.6:malloc_usable_siz?/*", &maps).unwrap(), every);
    for address in expected..expected + 16 {
        match locate(&format!("{address:#x}"), &maps) {
            Ok(sites) => assert!(sites == [address] && every.contains(&address)),
            Err(_) => assert!(!every.contains(&address), "{address:#x}"),
        }
    }
}

#[test]
fn a_program_is_found_by_path_and_by_name_whether_or_not_it_moves() {
    let scratch = Scratch::new();
    for (name, flags) in [("moving", &["-pie", "-fPIE"][..]), ("fixed", &["-no-pie", "-fno-pie"][..])] {
        let source = format!("{WAITS}\nint thing(void) {{ return 1; }}");
        let program = scratch.compile(name, &source, flags);
        let process = Waiting::start(&program);
        let maps = process.maps();
        let by_path = locate(&format!("{}:thing", program.display()), &maps).unwrap();
        assert_eq!(locate(&format!("{name}:thing"), &maps).unwrap(), by_path);
        let address = *by_path.first().unwrap();
        assert_eq!(maps::find(&maps, address).unwrap().file(), Some(program.as_path()));
        let link = scratch.path(&format!("link-{name}"));
        std::os::unix::fs::symlink(&program, &link).unwrap();
        assert_eq!(locate(&format!("{}:thing", link.display()), &maps).unwrap(), by_path);
    }
}

#[test]
fn a_library_is_found_by_soname_unless_two_have_it() {
    let scratch = Scratch::new();
    let flags = ["-shared", "-fPIC", "-Wl,-soname,libthing.so.1"];
    let real = scratch.compile("libthing.so.1.2.3", "int thing(void) { return 1; }", &flags);
    let twin = scratch.compile("libtwin.so", "int thing(void) { return 2; }", &flags);
    std::os::unix::fs::symlink(&real, scratch.path("libthing.so.1")).unwrap();
    let directory = scratch.path("");
    let search = format!("-Wl,-rpath,{}", directory.display());
    let program = scratch.compile("program", WAITS, &[real.to_str().unwrap(), &search]);
    let process = Waiting::start(&program);
    let maps = process.maps();
    let found = locate("libthing.so.1:thing", &maps).unwrap();
    assert_eq!(maps::find(&maps, found[0]).unwrap().file(), Some(real.as_path()));
    assert!(matches!(locate("libtwin.so:thing", &maps), Err(LocateError::NotMapped { .. })));

    // The same file name in another directory.
    std::fs::create_dir(scratch.path("other")).unwrap();
    let other = scratch.path("other/libthing.so.1.2.3");
    std::fs::copy(&twin, &other).unwrap();
    let mut both = maps.to_vec();
    let lines = both.iter().filter(|mapping| mapping.file() == Some(&real)).cloned().collect::<Vec<_>>();
    both.extend(lines.into_iter().map(|mapping| Mapping {
        path: Some(other.clone()),
        inode: mapping.inode + 1,
        ..mapping
    }));
    let both = Maps::new(maps.pid(), both);
    // Another file system may have the same numbers.
    let mut twins = maps.to_vec();
    let lines: Vec<_> = twins.iter().filter(|mapping| mapping.file() == Some(&real)).cloned().collect();
    let elsewhere = |mapping: Mapping| Mapping { path: Some("/else/where".into()), ..mapping };
    twins.extend(lines.into_iter().map(elsewhere));
    assert_eq!(locate("libthing.so.1.2.3:thing", &Maps::new(maps.pid(), twins)).unwrap(), found);
    for name in ["libthing.so.1.2.3", "libthing.so.1"] {
        let message = unresolvable(&format!("{name}:thing"), &both).to_string();
        let (real, other) = (real.display().to_string(), other.display().to_string());
        assert!(message.contains(&real) && message.contains(&other), "{message}");
    }
}

#[test]
fn what_waiting_cannot_help_is_told_apart_from_what_it_can() {
    let maps = our_maps();
    assert!(matches!(locate("libnothing.so:f", &maps), Err(LocateError::NotMapped { .. })));
    assert!(matches!(unresolvable("libc.so.6:no_such_function", &maps), ResolveError::Lookup(_)));
    assert!(matches!(unresolvable("libc.so.6:no_such*/*", &maps), ResolveError::NoMatch { .. }));
    assert!(matches!(unresolvable("libc.so.6:stdout", &maps), ResolveError::Lookup(_)));
    assert!(matches!(unresolvable("libc.so.6:malloc+0x100000", &maps), ResolveError::BeyondFunction { .. }));
    assert!(matches!(unresolvable("libc.so.6:0x0", &maps), ResolveError::NotCode { .. }));
    assert!(matches!(unresolvable("0x10", &maps), ResolveError::NotMapped { address: 0x10 }));
    let here = &maps as *const _ as u64;
    assert!(matches!(unresolvable(&format!("{here:#x}"), &maps), ResolveError::NotExecutable { .. }));
}

#[test]
fn a_program_that_was_replaced_is_read_as_it_was() {
    let scratch = Scratch::new();
    let source = format!("{WAITS}\nint thing(void) {{ return 1; }}");
    let program = scratch.compile("program", &source, &[]);
    let process = Waiting::start(&program);
    let by_path = format!("{}:thing", program.display());
    let before = locate(&by_path, &process.maps()).unwrap();
    assert_eq!(before.len(), 1);
    let is_found = || {
        for name in [&by_path, "program:thing", "program (deleted):thing"] {
            assert_eq!(locate(name, &process.maps()).unwrap(), before, "{name}");
        }
        let relative = Resolver::new("./program:thing".parse().unwrap(), Arc::default());
        let found = relative.relative_to(scratch.path("")).locate(&process.maps()).unwrap();
        assert!(found.iter().map(|site| site.address).eq(before.iter().copied()), "{found:x?}");
    };
    std::fs::remove_file(&program).unwrap();
    is_found();
    let _ = scratch.compile("program", PROGRAM, &[]);
    is_found();
    assert!(matches!(unresolvable("program:leaf", &process.maps()), ResolveError::Lookup(_)));
}
