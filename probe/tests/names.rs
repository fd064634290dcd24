//! Functions are found by the names that are shown of them, in C, C++, Rust and Go.

mod scratch;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use probe::elf::{Elf, Function, LookupError, demangle};
use probe::locate::{Locate, LocateError};
use probe::maps::{Mapping, Maps, Permissions};
use probe::resolve::{Objects, ResolveError, Resolver, unambiguous_name};
use probe::spec::ProbeSpec;
use scratch::Scratch;

/// What a process would have mapped that has the whole code of the file at its own addresses.
fn as_mapped(elf: &Elf) -> Maps {
    use std::os::unix::fs::MetadataExt;
    let path = std::fs::canonicalize(elf.path()).unwrap();
    let metadata = std::fs::metadata(&path).unwrap();
    let (major, minor) = (nix::sys::stat::major(metadata.dev()), nix::sys::stat::minor(metadata.dev()));
    let dev = (u32::try_from(major).unwrap(), u32::try_from(minor).unwrap());
    let mapping = |segment: &probe::elf::Segment| Mapping {
        start: segment.address,
        end: segment.address + segment.file_size,
        perms: Permissions::READ | Permissions::EXECUTE,
        offset: segment.offset,
        dev,
        inode: metadata.ino(),
        path: Some(path.clone()),
    };
    let executable = elf.segments().iter().filter(|segment| segment.executable);
    Maps::new(std::process::id().cast_signed(), executable.map(mapping).collect())
}

fn locate(text: &str, maps: &Maps, objects: &Arc<Objects>) -> Result<Vec<u64>, LocateError> {
    let spec: ProbeSpec = text.parse().unwrap_or_else(|error| panic!("{error}"));
    let sites = Resolver::new(spec, Arc::clone(objects)).locate(maps)?;
    Ok(sites.into_iter().map(|site| site.address).collect())
}

fn error(result: Result<Vec<u64>, LocateError>) -> ResolveError {
    match result {
        Err(LocateError::Unresolvable(error)) => *error.downcast().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Each name of each function leads to its address, or is refused with the addresses that have it; each address and
/// file offset leads there as well. Returns how many functions there are, and how many names were refused.
fn every_name_leads_back(path: &Path) -> (usize, usize) {
    let elf = Elf::open(path).unwrap();
    let (maps, objects) = (as_mapped(&elf), Arc::new(Objects::default()));
    let object = path.display();
    let mut refused = 0;
    for function in elf.functions().iter().filter(|function| !function.indirect) {
        let own = [function.address];
        let written = demangle(function.name()).into_owned();
        for name in
            function.names.iter().map(String::as_str).chain(function.bare_names()).chain([written.as_str()])
        {
            let spec = ProbeSpec::function(object.to_string(), name).to_string();
            // Without its version, a name means the default one, which may be an indirect function.
            if matches!(elf.find(name), Err(LookupError::Indirect { .. })) {
                continue;
            }
            match locate(&spec, &maps, &objects) {
                Ok(found) => {
                    let other = elf.functions().iter().find(|other| other.address == found[0]).unwrap();
                    assert!(
                        found == own || other.bare_names().any(|other| other == name),
                        "{spec}: {found:x?}"
                    );
                }
                Err(LocateError::Unresolvable(why)) => match *why.downcast().unwrap() {
                    ResolveError::Lookup(LookupError::Ambiguous { candidates, .. }) => {
                        assert!(candidates.iter().any(|(_, address)| *address == function.address), "{spec}");
                        refused += 1;
                    }
                    other => panic!("{spec}: {other}"),
                },
                Err(other) => panic!("{spec}: {other}"),
            }
        }
        let name = ProbeSpec::function(object.to_string(), unambiguous_name(&elf, function));
        let offset = elf.offset_of_address(function.address).unwrap();
        for spec in
            [name.to_string(), format!("{object}:{:#x}", function.address), format!("{object}:{offset:#x}")]
        {
            match locate(&spec, &maps, &objects) {
                Ok(found) => assert_eq!(found, own, "{spec}"),
                Err(LocateError::Unresolvable(why)) => match *why.downcast().unwrap() {
                    ResolveError::TwoReadings { readings, .. } => {
                        let leads = readings.iter().any(|spec| {
                            spec.starts_with("p ")
                                || locate(spec, &maps, &objects).is_ok_and(|found| found == own)
                        });
                        assert!(leads, "{readings:?}");
                    }
                    other => panic!("{spec}: {other}"),
                },
                Err(other) => panic!("{spec}: {other}"),
            }
        }
    }
    (elf.functions().len(), refused)
}

fn libc() -> Option<PathBuf> {
    let us = Maps::read(std::process::id().cast_signed()).unwrap();
    us.iter()
        .find_map(|mapping| mapping.file().filter(|file| file.ends_with("libc.so.6")))
        .map(Path::to_owned)
}

/// A program in another language; `None`, with a word, where there is no compiler.
fn compiled(scratch: &Scratch, compiler: &str, name: &str, source: &str, flags: &[&str]) -> Option<PathBuf> {
    let file = scratch.write(name, source);
    let output = scratch.path("program");
    let mut command = Command::new(compiler);
    command.args(flags).arg("-o").arg(&output).arg(&file).current_dir(scratch.path(""));
    if let Ok(cache) = std::env::var("HOME") {
        command.env("HOME", cache);
    }
    match command.output() {
        Ok(made) => assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr)),
        Err(error) => {
            println!("skipped: {compiler}: {error}");
            return None;
        }
    }
    Some(output)
}

const CPP: &str = r#"
#include <string>
#include <vector>
namespace shop {
struct Cart {
    int sum = 0;
    __attribute__((noinline)) int total(int x) { sum += x; return sum; }
    __attribute__((noinline)) int total(double x) { sum += int(x); return sum; }
    __attribute__((noinline)) int only(int x) const { return sum + x; }
    __attribute__((noinline)) Cart &operator+=(int x) { sum += x; return *this; }
    __attribute__((noinline)) bool operator<(const Cart &other) const { return sum < other.sum; }
    __attribute__((noinline)) int operator()(int x) { return sum - x; }
    virtual ~Cart() {}
};
template <typename T> __attribute__((noinline)) T twice(T x) { return x + x; }
}
static __attribute__((noinline)) std::string named(const std::string &name) { return name + "!"; }
int main(int argc, char **) {
    shop::Cart cart, other;
    cart += argc;
    auto lambda = [&](int x) __attribute__((noinline)) { return cart(x); };
    std::vector<std::string> names{named("a")};
    return cart.total(1) + cart.total(2.0) + cart.only(3) + (cart < other) + lambda(2) + shop::twice(4)
        + int(shop::twice(0.5)) + int(names.size());
}
"#;

const RUST: &str = r#"
use std::fmt::Display;
mod app {
    pub struct Cart(pub u64);
    impl Cart {
        #[inline(never)]
        pub fn total(&mut self, x: u64) -> u64 { self.0 += x; self.0 }
    }
    impl std::fmt::Display for Cart {
        #[inline(never)]
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { write!(f, "{}", self.0) }
    }
}
#[inline(never)]
fn show<T: Display>(value: T) -> String { format!("<{value}>") }
fn main() {
    let mut cart = app::Cart(1);
    let add = |x: u64| cart.total(x);
    let all: Vec<u64> = (0..3).map(add).collect();
    println!("{} {} {}", show(cart), show(7), all.len());
}
"#;

const GO: &str = r#"
package main

type Counter struct{ n int }

//go:noinline
func (c *Counter) Add(x int) int { c.n += x; return c.n }

type pair struct { a string; b int }

//go:noinline
func Max[T int | float64](a, b T) T { if a > b { return a }; return b }

func main() {
	c := &Counter{}
	f := func(x int) int { return c.Add(x) }
	m := map[pair]int{{"a", 1}: f(1)}
	println(f(2), len(m), Max(1, 2), Max(1.5, 2.5))
}
"#;

#[test]
fn every_function_of_libc_is_found_by_what_is_shown_of_it() {
    let Some(libc) = libc() else { return println!("skipped: no libc.so.6 is mapped") };
    let (functions, _) = every_name_leads_back(&libc);
    assert!(functions > 2000, "{functions}");
}

#[test]
fn every_function_of_a_program_in_cpp_is_found_by_what_is_shown_of_it() {
    let scratch = Scratch::new();
    let Some(program) = compiled(&scratch, "c++", "a.cpp", CPP, &["-O1"]) else { return };
    let (functions, refused) = every_name_leads_back(&program);
    assert!(functions > 20 && refused < functions, "{functions} {refused}");
    let elf = Elf::open(&program).unwrap();
    let (maps, objects) = (as_mapped(&elf), Arc::new(Objects::default()));
    let at = |name: &str| elf.find(name).unwrap().address;
    for (written, mangled) in [
        ("shop::Cart::total(int)", "_ZN4shop4Cart5totalEi"),
        ("shop::Cart::only", "_ZNK4shop4Cart4onlyEi"),
        ("shop::Cart::only(int) const", "_ZNK4shop4Cart4onlyEi"),
        ("shop::Cart::operator+=", "_ZN4shop4CartpLEi"),
        ("shop::Cart::operator<", "_ZNK4shop4CartltERKS0_"),
        ("shop::Cart::operator()(int)", "_ZN4shop4CartclEi"),
        ("shop::twice<int>", "_ZN4shop5twiceIiEET_S1_"),
        ("int shop::twice<int>(int)", "_ZN4shop5twiceIiEET_S1_"),
    ] {
        let spec = format!("{}:{written}", program.display());
        assert_eq!(locate(&spec, &maps, &objects).unwrap(), [at(mangled)], "{written}");
    }
    // Two functions, and what to write for each.
    let both =
        error(locate(&format!("{}:shop::Cart::total", program.display()), &maps, &objects)).to_string();
    assert!(both.contains("shop::Cart::total(int)") && both.contains("shop::Cart::total(double)"), "{both}");
    let each = locate(&format!("{}:shop::Cart::total(*)", program.display()), &maps, &objects).unwrap();
    assert_eq!(each, [at("_ZN4shop4Cart5totalEi"), at("_ZN4shop4Cart5totalEd")]);
    let similar =
        error(locate(&format!("{}:shop::Cart::totel", program.display()), &maps, &objects)).to_string();
    assert!(similar.contains("shop::Cart::total"), "{similar}");
}

#[test]
fn every_function_of_a_program_in_rust_is_found_by_what_is_shown_of_it() {
    // What is the default has changed.
    for flags in [&["-O"][..], &["-O", "-Csymbol-mangling-version=v0"]] {
        let scratch = Scratch::new();
        let Some(program) = compiled(&scratch, "rustc", "a.rs", RUST, flags) else {
            return;
        };
        let (functions, refused) = every_name_leads_back(&program);
        assert!(functions > 200 && refused < functions, "{functions} {refused}");
        let elf = Elf::open(&program).unwrap();
        let total = elf.find("a::app::Cart::total").unwrap();
        assert!(demangle(&total.name).ends_with("::total"), "{total:?}");
        let display = elf.find("<a::app::Cart as core::fmt::Display>::fmt").unwrap();
        assert_ne!(display.address, total.address);
    }
}

#[test]
fn every_function_of_a_program_in_go_is_found_by_what_is_shown_of_it() {
    let scratch = Scratch::new();
    let Some(program) = compiled(&scratch, "go", "a.go", GO, &["build"]) else { return };
    let (functions, refused) = every_name_leads_back(&program);
    assert!(functions > 1000 && refused < functions, "{functions} {refused}");
    let elf = Elf::open(&program).unwrap();
    let (maps, objects) = (as_mapped(&elf), Arc::new(Objects::default()));
    // Not a pattern, though it could be one; and a name with a colon.
    let of_pair =
        elf.functions().iter().map(Function::name).find(|name| name.ends_with(".eq.main.pair")).unwrap();
    for name in ["main.(*Counter).Add", of_pair] {
        let spec = format!("{}:{name}", program.display());
        assert_eq!(locate(&spec, &maps, &objects).unwrap(), [elf.find(name).unwrap().address], "{name}");
    }
}

#[test]
fn twins_are_told_apart_by_their_addresses() {
    let scratch = Scratch::new();
    let path = scratch.twins();
    let elf = Elf::open(&path).unwrap();
    let twins: Vec<&Function> = elf.functions().iter().filter(|function| function.name() == "twin").collect();
    let [first, second] = twins.as_slice() else { panic!("{twins:?}") };
    let message = elf.find("twin").unwrap_err().to_string();
    for function in [first, second] {
        let name = format!("twin@{:#x}", function.address);
        assert!(message.contains(&name), "{message}");
        assert_eq!(elf.find(&name).unwrap().address, function.address);
        assert_eq!(unambiguous_name(&elf, function), name);
    }
    // Each is a part of the pattern, by a name of its own.
    let (maps, objects) = (as_mapped(&elf), Arc::new(Objects::default()));
    let pattern: ProbeSpec = format!("{}:twi?", path.display()).parse().unwrap();
    let resolver = Resolver::new(pattern, objects);
    let parts = resolver.parts(&maps).unwrap().unwrap();
    let located: HashMap<&str, u64> = parts
        .iter()
        .map(|part| (part.as_str(), resolver.part(part).unwrap().locate(&maps).unwrap()[0].address))
        .collect();
    assert_eq!(located.len(), 2);
    assert!([first, second].iter().all(|function| located.values().any(|&at| at == function.address)));
}

/// The kernel's own view: what the process calls.
#[test]
fn an_indirect_function_is_the_implementation_that_we_call() {
    let us = Maps::read(std::process::id().cast_signed()).unwrap();
    let Some(path) = libc() else { return println!("skipped: no libc.so.6 is mapped") };
    let elf = Elf::open(&path).unwrap();
    let objects = Arc::new(Objects::default());
    let mut seen = 0;
    let names = elf.functions().iter().filter(|function| function.indirect).flat_map(Function::bare_names);
    for name in names {
        let text = std::ffi::CString::new(name).unwrap();
        let Some(address) = dlsym(&text) else { continue };
        let found = locate(&format!("libc.so.6:{name}"), &us, &objects).unwrap();
        assert_eq!(found, [address], "{name}");
        seen += 1;
    }
    assert!(seen > 10, "{seen}");
    // Where nothing is known of the process, it is all that there are, and each is a function.
    let (maps, objects) = (as_mapped(&elf), Arc::new(Objects::default()));
    let all = locate(&format!("{}:memcpy", path.display()), &maps, &objects).unwrap();
    assert!(all.len() > 2, "{all:x?}");
    let is_function = |address: &u64| {
        let starts = elf.unwound().iter().map(|function| function.start);
        starts.chain(elf.functions().iter().map(|function| function.address)).any(|start| start == *address)
    };
    assert!(all.iter().all(is_function), "{all:x?}");
}

#[allow(unsafe_code, reason = "dlsym")]
fn dlsym(name: &std::ffi::CStr) -> Option<u64> {
    // SAFETY: the name ends with a zero byte.
    let address = unsafe { nix::libc::dlsym(nix::libc::RTLD_DEFAULT, name.as_ptr()) };
    (!address.is_null()).then_some(address as u64)
}

#[test]
fn a_number_is_an_address_or_a_file_offset() {
    let scratch = Scratch::new();
    let source =
        "int leaf(int x) { __asm__ volatile(\"\"); return x + 1; }\nint main(void) { return leaf(1); }";
    let path = scratch.compile("program", source, &["-no-pie", "-fno-pie"]);
    let elf = Elf::open(&path).unwrap();
    let (maps, objects) = (as_mapped(&elf), Arc::new(Objects::default()));
    let leaf = elf.find("leaf").unwrap().address;
    let offset = elf.offset_of_address(leaf).unwrap();
    assert_ne!(leaf, offset);
    for number in [leaf, offset] {
        let spec = format!("{}:{number:#x}", path.display());
        assert_eq!(locate(&spec, &maps, &objects).unwrap(), [leaf]);
    }
    let nowhere = error(locate(&format!("{}:0x10", path.display()), &maps, &objects));
    assert!(matches!(nowhere, ResolveError::NotCode { offset: 0x10, .. }), "{nowhere}");
    // Code whose file offsets are addresses of other code.
    let second =
        "__attribute__((section(\".second\"))) int second(int x) { __asm__ volatile(\"\"); return x + 2; }";
    let source = format!("{second}\nint main(void) {{ return second(1); }}");
    let flags = [
        "-no-pie",
        "-fno-pie",
        "-Wl,-z,noseparate-code",
        "-Wl,-Ttext-segment=0x1000",
        "-nostartfiles",
        "-Wl,-emain",
    ];
    let made = std::panic::catch_unwind(|| scratch.compile("low", &source, &flags));
    let Ok(path) = made else { return println!("skipped: the linker puts no code at a low address") };
    let elf = Elf::open(&path).unwrap();
    let (maps, objects) = (as_mapped(&elf), Arc::new(Objects::default()));
    for function in elf.functions() {
        let offset = elf.offset_of_address(function.address).unwrap();
        let spec = format!("{}:{offset:#x}", path.display());
        match locate(&spec, &maps, &objects) {
            Ok(found) => assert_eq!(found, [function.address], "{spec}"),
            Err(other) => assert!(other.to_string().contains("one of two things"), "{other}"),
        }
    }
}

#[test]
fn a_path_may_have_a_colon_in_it() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("a:b")).unwrap();
    let source =
        "int leaf(int x) { __asm__ volatile(\"\"); return x + 1; }\nint main(void) { return leaf(1); }";
    let path = scratch.compile("a:b/program", source, &[]);
    let elf = Elf::open(&path).unwrap();
    let (maps, objects) = (as_mapped(&elf), Arc::new(Objects::default()));
    let leaf = elf.find("leaf").unwrap().address;
    let spec = format!("{}:leaf", path.display());
    assert_eq!(locate(&spec, &maps, &objects).unwrap(), [leaf]);
    assert_eq!(locate(&format!("'{}':leaf", path.display()), &maps, &objects).unwrap(), [leaf]);
    let spec: ProbeSpec = spec.parse().unwrap();
    assert!(Resolver::new(spec, Arc::clone(&objects)).check().is_ok());
}
