//! Probes that a program's author has put into it: notes of the type NT_STAPSDT in the section `.note.stapsdt`, as
//! `sys/sdt.h` writes them (<https://sourceware.org/systemtap/wiki/UserSpaceProbeImplementation>).

use object::LittleEndian;
use object::read::elf::{FileHeader, SectionHeader};

use super::{Elf, ElfError, Header};

/// A place where a program's author has put a probe: the compiler may have copied one probe to several.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Usdt {
    /// Who provides it, such as `python`.
    pub provider: String,
    /// What it is called there, such as `function__entry`.
    pub name: String,
    /// The virtual address of the instruction, before relocation.
    pub address: u64,
    /// The virtual address of the semaphore, before relocation: an integer of 16 bits that counts who wants to know of
    /// the probe. While it is 0, the program may leave the probe out.
    pub semaphore: Option<u64>,
    /// Where its arguments are, as the assembler was told: `-4@%eax 8@-16(%rbp)`.
    pub arguments: String,
}

const SECTION: &[u8] = b".note.stapsdt";
/// Its address tells how far addresses have moved since the notes were written.
const BASE: &[u8] = b".stapsdt.base";
const OWNER: &[u8] = b"stapsdt";
const NT_STAPSDT: u32 = 3;

impl Elf {
    /// The probes that its author has put into it, in the order of the file.
    ///
    /// # Errors
    /// [`ElfError::Malformed`] if the notes make no sense.
    pub fn usdt(&self) -> Result<&[Usdt], ElfError> {
        let probes = self.usdt.get_or_init(|| probes(&self.data));
        probes.as_deref().map_err(|what| ElfError::Malformed { path: self.path.clone(), what: what.clone() })
    }

    /// The probe at virtual address `address` that `wanted` takes.
    pub(crate) fn usdt_at(&self, address: u64, wanted: impl Fn(&Usdt) -> bool) -> Option<&Usdt> {
        let probes = self.usdt().ok()?;
        probes.iter().find(|probe| probe.address == address && wanted(probe))
    }

    /// The one virtual address of the symbols with that name, of functions and of data.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub(crate) fn address_of_symbol(&self, name: &str) -> Result<u64, String> {
        let mut addresses = self.symbols.addresses_of(name);
        match (addresses.next(), addresses.next()) {
            (None, _) => Err(format!("the file has no symbol `{name}`")),
            (Some(address), None) => Ok(address),
            (Some(_), Some(_)) => Err(format!("the file has more than one symbol `{name}`")),
        }
    }
}

fn probes(data: &[u8]) -> Result<Vec<Usdt>, String> {
    let mut probes = Vec::new();
    // All of this was read before, so that it does not fail.
    let header = Header::parse(data).map_err(|error| error.to_string())?;
    let sections = header.sections(LittleEndian, data).map_err(|error| error.to_string())?;
    let base = sections.section_by_name(LittleEndian, BASE);
    let base = base.map(|(_, section)| section.sh_addr(LittleEndian));
    for section in sections.iter() {
        if sections.section_name(LittleEndian, section) != Ok(SECTION) {
            continue;
        }
        let wrong = |error: object::Error| format!("its USDT notes: {error}");
        let Some(mut notes) = section.notes(LittleEndian, data).map_err(wrong)? else { continue };
        while let Some(note) = notes.next().map_err(wrong)? {
            if note.name() == OWNER && note.n_type(LittleEndian).0 == NT_STAPSDT {
                let probe = probe(note.desc(), base);
                probes.push(probe.ok_or("a USDT note is too short for what it should say")?);
            }
        }
    }
    Ok(probes)
}

/// What a note says: three addresses and three texts.
fn probe(description: &[u8], base: Option<u64>) -> Option<Usdt> {
    let mut rest = description;
    let mut address = || {
        let (bytes, behind) = rest.split_first_chunk::<8>()?;
        rest = behind;
        Some(u64::from_le_bytes(*bytes))
    };
    let (location, noted_base, semaphore) = (address()?, address()?, address()?);
    // A prelinker moves sections, and leaves notes as they are.
    let moved = base.map_or(0, |base| base.wrapping_sub(noted_base));
    let mut text = || {
        let length = rest.iter().position(|&byte| byte == 0)?;
        let text = String::from_utf8_lossy(rest.get(..length)?).into_owned();
        rest = rest.get(length + 1..)?;
        Some(text)
    };
    Some(Usdt {
        provider: text()?,
        name: text()?,
        arguments: text()?,
        address: location.wrapping_add(moved),
        semaphore: (semaphore != 0).then(|| semaphore.wrapping_add(moved)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(addresses: [u64; 3], texts: &[u8]) -> Vec<u8> {
        addresses.iter().flat_map(|address| address.to_le_bytes()).chain(texts.iter().copied()).collect()
    }

    #[test]
    fn a_note_says_where_and_what() {
        let bytes = described([0x1000, 0x5000, 0x8000], b"python\0gc__start\0-4@%eax 8@(%rdi)\0");
        let found = probe(&bytes, Some(0x5000)).unwrap();
        assert_eq!((found.address, found.semaphore), (0x1000, Some(0x8000)));
        assert_eq!((&*found.provider, &*found.name), ("python", "gc__start"));
        assert_eq!(found.arguments, "-4@%eax 8@(%rdi)");
        // Prelinked, to a higher address and to a lower one.
        let found = probe(&bytes, Some(0x7000)).unwrap();
        assert_eq!((found.address, found.semaphore), (0x3000, Some(0xa000)));
        let found = probe(&bytes, Some(0x4800)).unwrap();
        assert_eq!((found.address, found.semaphore), (0x800, Some(0x7800)));
        let found = probe(&described([0x1000, 0, 0], b"\0\0\0"), None).unwrap();
        assert_eq!((found.address, found.semaphore, found.arguments), (0x1000, None, String::new()));
    }

    #[test]
    fn what_is_cut_is_no_note() {
        let bytes = described([1, 2, 3], b"a\0b\0c\0");
        for length in 0..bytes.len() {
            assert_eq!(probe(&bytes[..length], None), None, "{length}");
        }
        assert!(probe(&bytes, None).is_some());
    }
}
