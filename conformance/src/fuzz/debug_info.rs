//! Debug information that makes no sense, in a file that does.

use std::path::Path;

use arbitrary::{Arbitrary, Unstructured};
use probe::elf::Elf;

/// Where its code lies.
const CODE: std::ops::Range<u64> = 0x1000..0x2000;

/// The sections that are made of the fuzzer's bytes.
const NAMES: [&str; 13] = [
    ".debug_info",
    ".debug_abbrev",
    ".debug_line",
    ".debug_str",
    ".debug_line_str",
    ".debug_ranges",
    ".debug_rnglists",
    ".debug_loc",
    ".debug_loclists",
    ".debug_addr",
    ".debug_str_offsets",
    ".debug_types",
    ".eh_frame",
];

/// What the sections have in them, and what is asked.
#[derive(Debug, Arbitrary)]
struct Input {
    sections: [Vec<u8>; NAMES.len()],
    address: u16,
    line: u8,
    /// Where calls return to.
    callers: [u16; 2],
}

/// An object with some code and these sections (System V gABI, chapter 4).
fn object(sections: &[Vec<u8>]) -> Vec<u8> {
    const HEADER: usize = 64;
    const SEGMENT: usize = 56;
    let mut names = vec![0];
    let mut headers = vec![[0; 8]];
    let mut contents = vec![0; HEADER + SEGMENT];
    contents.resize(CODE.start as usize, 0);
    contents.resize(CODE.end as usize, 0x90);
    // Name and type, flags, address, offset, size; what is left has no meaning here.
    let mut add = |name: &str, kind: u64, flags: u64, address: u64, offset: usize, size: usize| {
        headers.push([names.len() as u64 | kind << 32, flags, address, offset as u64, size as u64, 0, 1, 0]);
        names.extend(name.bytes().chain([0]));
    };
    add(".text", 1, 6, CODE.start, CODE.start as usize, CODE.clone().count());
    for (name, section) in NAMES.iter().zip(sections) {
        add(name, 1, 0, 0, contents.len(), section.len());
        contents.extend(section);
    }
    let table = contents.len();
    add(".shstrtab", 3, 0, 0, table, 0);
    if let Some(last) = headers.last_mut() {
        last[4] = names.len() as u64;
    }
    contents.extend(names);
    let start = contents.len() as u64;
    let count = headers.len() as u64;
    contents.extend(headers.into_iter().flatten().flat_map(u64::to_le_bytes));
    let header = [
        // ET_DYN for x86-64, with one segment.
        [0x0001_0102_464c_457f, 0, 0x0000_0001_003e_0003, CODE.start, HEADER as u64, start],
        [
            0x0038_0040_0000_0000,
            1 | 64 << 16 | count << 32 | (count - 1) << 48,
            0x0000_0005_0000_0001,
            0,
            0,
            0,
        ],
        [CODE.end, CODE.end, 0x1000, 0, 0, 0],
    ];
    let words = header.iter().flatten().flat_map(|word| word.to_le_bytes());
    contents.iter_mut().zip(words.take(HEADER + SEGMENT)).for_each(|(to, from)| *to = from);
    contents
}

/// Asks everything of debug information that the fuzzer has made up.
///
/// # Panics
/// The file around it is taken for none.
pub fn debug_info(data: &[u8]) {
    let Ok(input) = Input::arbitrary(&mut Unstructured::new(data)) else { return };
    let elf = Elf::parse(Path::new("made-up"), object(&input.sections)).expect("an object");
    let Ok(debug) = elf.debug_info() else { return };
    let (address, line) = (CODE.start + u64::from(input.address) % 0x1000, u64::from(input.line));
    let _ = debug.line("a.c", line);
    let _ = debug.function_line("f", line);
    let _ = debug.frames(address);
    let _ = debug.scope(address);
    let callers = input.callers.map(|back| Some((&*debug, CODE.start + u64::from(back) % 0x1000)));
    let _ = debug.scope_called(address, &callers);
    let _ = debug.global(address, "v");
    let _ = debug.type_named("t");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_around_it_is_one() {
        let mut sections: [Vec<u8>; NAMES.len()] = Default::default();
        // A unit of DWARF 4 without an entry, and with one that has no name.
        sections[0] = vec![8, 0, 0, 0, 4, 0, 0, 0, 0, 0, 8, 1];
        sections[1] = vec![1, 0x11, 0, 0, 0, 0];
        let elf = Elf::parse(Path::new("made-up"), object(&sections)).unwrap();
        assert_eq!(elf.code().len(), 1);
        assert_eq!(elf.offset_of_address(0x1234), Some(0x1234));
        let debug = elf.debug_info().unwrap();
        let error = debug.line("a.c", 1).unwrap_err();
        assert!(matches!(error, probe::debug::DebugError::NoFile { .. }), "{error}");
    }

    /// What the fuzzer does, for as long as a test may take: parts of a real program's sections.
    #[test]
    fn random_sections_are_an_error_or_an_answer() {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        for _ in 0..2000 {
            let data: Vec<u8> =
                (0..next() % 2000).map(|_| if next() % 3 == 0 { 0 } else { next() as u8 % 64 }).collect();
            debug_info(&data);
        }
    }
}
