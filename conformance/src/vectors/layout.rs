//! Where the memory of a file's cases lies.

use std::fmt::Write as _;

use bitflags::bitflags;
use emu::xsave::feature;

use super::format::Run;
use super::image::{RegisterImage, offset};
use super::state::{self, CODE, Lanes};

bitflags! {
    /// What may be done with a region.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Protection: u8 {
        /// Load.
        const READ = 1;
        /// Store.
        const WRITE = 2;
        /// Fetch.
        const EXECUTE = 4;
    }
}

/// One mapped region of the address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// The first byte's address.
    pub start: u64,
    /// The length in bytes.
    pub length: u64,
    /// What may be done.
    pub protection: Protection,
    /// Where the contents lie in the image, in bytes.
    pub offset: usize,
}

impl Region {
    /// Where the byte at `address` lies in the image, if this region has it.
    #[must_use]
    pub fn place(&self, address: u64) -> Option<usize> {
        let distance = address.wrapping_sub(self.start);
        (distance < self.length).then(|| self.offset + distance as usize)
    }
}

/// The regions, and where instructions lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// RIP before any patch.
    pub code: u64,
    /// XCR0: what the registers have besides the general ones.
    pub components: u64,
    /// What is mapped, in the order in which it is drawn.
    pub regions: Vec<Region>,
}

/// The longest image in bytes: a run's offset has 16 bits.
const LONGEST: usize = 1 << 16;
/// What code memory is full of.
const FILLER: u8 = 0xcc;

impl Layout {
    /// The layout of files that have no header: two pages that can be written, a page that is not there, one
    /// that can only be read, and one of code.
    #[must_use]
    pub fn without_header() -> Layout {
        const DATA: u64 = 0x3000_0000;
        let region = |start, length, protection, offset| Region { start, length, protection, offset };
        Layout {
            code: CODE,
            components: !0,
            regions: vec![
                region(DATA, 0x2000, Protection::READ | Protection::WRITE, 0x4000),
                region(DATA + 0x3000, 0x1000, Protection::READ, 0x7000),
                region(CODE & !0xfff, 0x1000, Protection::READ | Protection::EXECUTE, 0x8000),
            ],
        }
    }

    /// Reads the lines of a header that say it.
    ///
    /// # Errors
    /// A line that is not understood.
    pub fn parse(header: &str) -> Result<Layout, String> {
        let mut layout = Layout { code: CODE, components: !0, regions: Vec::new() };
        for line in header.lines() {
            let wrong = || format!("{line:?}");
            match line.split_once(": ") {
                Some(("code", address)) => layout.code = number(address).ok_or_else(wrong)?,
                Some(("xcr0", bits)) => layout.components = number(bits).ok_or_else(wrong)?,
                Some(("region", region)) => layout.regions.push(parse_region(region).ok_or_else(wrong)?),
                _ => {}
            }
        }
        Ok(layout)
    }

    /// The lines of a header that [`Layout::parse`] reads, but that of XCR0, which belongs to the processor.
    #[must_use]
    pub fn header(&self) -> String {
        let mut text = format!("code: {:#x}\n", self.code);
        for region in &self.regions {
            let protection: String = LETTERS
                .iter()
                .map(|(letter, bit)| if region.protection.contains(*bit) { *letter } else { '-' })
                .collect();
            let Region { start, length, offset, .. } = region;
            // Writing to a string does not fail.
            let _ = writeln!(text, "region: {start:#x} {length:#x} {protection} {offset:#x}");
        }
        text
    }

    /// The length of the image in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        let ends = self.regions.iter().map(|region| region.offset + region.length as usize);
        ends.max().unwrap_or(0).max(offset::MEMORY)
    }

    /// The region that has the byte at `address`.
    #[must_use]
    pub fn region(&self, address: u64) -> Option<&Region> {
        self.regions.iter().find(|region| region.place(address).is_some())
    }

    /// Whether a run lies where the image holds something.
    #[must_use]
    pub fn holds(&self, run: &Run) -> bool {
        let start = usize::from(run.offset);
        run.end() <= offset::END || offset::MEMORY <= start && run.end() <= self.length()
    }

    /// Draws the registers of a case.
    #[must_use]
    pub fn registers(&self, seed: u32, fill: state::Fill, image: &mut RegisterImage) -> Lanes {
        let lanes = state::registers(seed, fill, self.code, image);
        if self.components & feature::ALL != feature::ALL {
            self.clear_absent(image);
        }
        lanes
    }

    /// Clears what the processor has no place for, or its system has not enabled.
    fn clear_absent(&self, image: &mut RegisterImage) {
        // The component, where its first part lies, how many such parts there are, 64 bytes from one to the next,
        // and how long each is.
        let parts = [
            (feature::PKRU, offset::PKRU, 1, 4),
            (feature::OPMASK, offset::OPMASK, 1, 64),
            (feature::AVX, offset::ZMM + 16, 16, 16),
            (feature::ZMM_HI256, offset::ZMM + 32, 16, 32),
            (feature::HI16_ZMM, offset::ZMM + 16 * 64, 16, 64),
        ];
        for (_, start, count, length) in parts.into_iter().filter(|part| self.components & part.0 == 0) {
            for start in (start..).step_by(64).take(count) {
                image.0[start..start + length].fill(0);
            }
        }
    }

    /// Draws the memory of a case into its image, from [`offset::MEMORY`] on.
    pub fn memory(&self, lanes: &mut Lanes, memory: &mut [u8]) {
        for region in &self.regions {
            let start = region.offset - offset::MEMORY;
            let Some(place) = memory.get_mut(start..start + region.length as usize) else { continue };
            if region.protection.contains(Protection::EXECUTE) {
                place.fill(FILLER);
            } else {
                lanes.fill(place);
            }
        }
    }
}

const LETTERS: [(char, Protection); 3] =
    [('r', Protection::READ), ('w', Protection::WRITE), ('x', Protection::EXECUTE)];

/// A number as C writes hexadecimal ones.
pub(super) fn number(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

fn parse_region(text: &str) -> Option<Region> {
    let mut words = text.split(' ');
    let (start, length) = (number(words.next()?)?, number(words.next()?)?);
    let mut protection = Protection::empty();
    let letters = words.next()?;
    for ((expected, bit), letter) in LETTERS.iter().zip(letters.chars()) {
        match letter {
            '-' => {}
            letter if letter == *expected => protection |= *bit,
            _ => return None,
        }
    }
    let offset = usize::try_from(number(words.next()?)?).ok()?;
    let fits = length > 0
        && length % 8 == 0
        && start.checked_add(length).is_some()
        && offset >= offset::MEMORY
        && usize::try_from(length).ok()?.checked_add(offset)? <= LONGEST;
    (fits && letters.len() == LETTERS.len() && words.next().is_none()).then_some(Region {
        start,
        length,
        protection,
        offset,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_read_as_it_is_written() {
        let layout = Layout::without_header();
        let header = layout.header();
        assert_eq!(Layout::parse(&header), Ok(layout.clone()));
        let enabled = Layout { components: 7, ..layout };
        assert_eq!(Layout::parse(&format!("xcr0: 0x7\nnew: things\n{header}")), Ok(enabled));
    }

    #[test]
    fn a_region_that_cannot_be_is_an_error() {
        let line = "region: 0x1000 0x1000 rw- 0x4000\n";
        assert!(Layout::parse(line).is_ok());
        for (from, to) in [
            ("0x1000 0x1000", "0x1000 0x0"),
            ("0x1000 0x1000", "0x1000 0x1001"),
            ("0x1000 0x1000", "0xfffffffffffff000 0x1000"),
            ("0x1000 0x1000", "0x1000 0xffffffffffffff00"),
            ("rw-", "rwxx"),
            ("rw-", "w--"),
            ("rw-", "rw"),
            ("0x4000", "0x3ff8"),
            ("0x4000", "0xf008"),
            ("0x4000", "0xffffffffffffffff"),
            ("0x4000", "0x4000 0x1"),
            ("0x4000", "16384"),
        ] {
            let changed = line.replacen(from, to, 1);
            assert!(Layout::parse(&changed).is_err(), "{changed}");
        }
    }

    #[test]
    fn what_is_not_enabled_is_clear() {
        let mut all = RegisterImage::default();
        let layout = Layout::without_header();
        let _ = layout.registers(3, state::Fill::I64, &mut all);
        let mut avx = RegisterImage::default();
        let _ = Layout { components: 7, ..layout }.registers(3, state::Fill::I64, &mut avx);
        let mut registers = [emu::Registers::default(), emu::Registers::default()];
        all.read(&mut registers[0]);
        avx.read(&mut registers[1]);
        let [all, avx] = registers;
        for number in 0..16 {
            let (all, avx) = (all.extended.vector[number].0, avx.extended.vector[number].0);
            assert_eq!((&all[..4], [0; 4].as_slice()), (&avx[..4], &avx[4..]));
        }
        assert_eq!(avx.extended.vector[16..], [emu::registers::Vector::default(); 16]);
        assert_eq!((avx.extended.opmask, avx.pkru), ([0; 8], 0));
        assert_eq!((avx.gpr, &avx.extended.x87), (all.gpr, &all.extended.x87));
    }
}
