//! The register file's extended part as XSAVE lays it out (SDM volume 1, chapter 13, standard format).
//!
//! The kernel hands out this image in signal frames and through ptrace's `NT_X86_XSTATE`. Where the
//! components beyond the legacy region lie differs between processors: CPUID leaf 0xD says it.

#[cfg(feature = "std")]
use core::arch::x86_64::CpuidResult;
use core::fmt;

use crate::model::registers::{
    Extended, Float80, Mxcsr, ROW_LENGTH, Registers, TILES, Tile, TileConfig, Vector, X87,
};

/// Bits of XCR0, XSTATE_BV and XCOMP_BV.
pub mod feature {
    /// x87 state, MMX included.
    pub const X87: u64 = 1 << 0;
    /// XMM registers and MXCSR.
    pub const SSE: u64 = 1 << 1;
    /// The upper halves of YMM0 to YMM15.
    pub const AVX: u64 = 1 << 2;
    /// K0 to K7.
    pub const OPMASK: u64 = 1 << 5;
    /// The upper halves of ZMM0 to ZMM15.
    pub const ZMM_HI256: u64 = 1 << 6;
    /// ZMM16 to ZMM31.
    pub const HI16_ZMM: u64 = 1 << 7;
    /// Protection-key rights.
    pub const PKRU: u64 = 1 << 9;
    /// TILECFG.
    pub const TILE_CONFIG: u64 = 1 << 17;
    /// TMM0 to TMM7.
    pub const TILE_DATA: u64 = 1 << 18;
    /// Everything that [`Registers`](crate::Registers) has a place for.
    pub const ALL: u64 = X87 | SSE | AVX | OPMASK | ZMM_HI256 | HI16_ZMM | PKRU | TILE_CONFIG | TILE_DATA;
}

/// The legacy region's length, in bytes, after which the XSAVE header begins.
pub const LEGACY_LENGTH: usize = 512;
/// The XSAVE header's length in bytes.
pub const HEADER_LENGTH: usize = 64;
/// The length of an image without extended components, in bytes.
pub const MINIMUM_LENGTH: usize = LEGACY_LENGTH + HEADER_LENGTH;

const CONTROL: usize = 0;
const STATUS: usize = 2;
const TAG: usize = 4;
const OPCODE: usize = 6;
const INSTRUCTION_POINTER: usize = 8;
const DATA_POINTER: usize = 16;
pub(crate) const MXCSR: usize = 24;
const MXCSR_MASK: usize = 28;
pub(crate) const ST: usize = 32;
pub(crate) const XMM: usize = 160;
pub(crate) const XSTATE_BV: usize = LEGACY_LENGTH;

/// Where a processor keeps what in an XSAVE image of the standard format. Offsets are in bytes from the
/// image's start; `None` where the processor or its kernel has no such component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The image's length in bytes.
    pub length: usize,
    /// Component 2.
    pub avx: Option<usize>,
    /// Component 5.
    pub opmask: Option<usize>,
    /// Component 6.
    pub zmm_hi256: Option<usize>,
    /// Component 7.
    pub hi16_zmm: Option<usize>,
    /// Component 9.
    pub pkru: Option<usize>,
    /// Component 17.
    pub tile_config: Option<usize>,
    /// Component 18.
    pub tile_data: Option<usize>,
}

/// The length of the tile registers in bytes.
pub(crate) const TILE_DATA_LENGTH: usize = TILES * size_of::<Tile>();

/// How many state components there can be that this crate looks at: APX's is the last.
const COMPONENTS: usize = 20;

/// How large the state components beyond the legacy region are and where they lie (CPUID leaf 0xD). Sizes and
/// offsets are in bytes; index i is bit i of XCR0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Components {
    size: [u32; COMPONENTS],
    /// From the start of an image in the standard format.
    offset: [u32; COMPONENTS],
    /// The components that are aligned to 64 bytes in a compacted image.
    aligned: u64,
}

impl Components {
    /// Those of `rows`, each a number, a size and an offset; `aligned` has those that a compacted image aligns.
    #[must_use]
    pub fn of(rows: &[(usize, u32, u32)], aligned: u64) -> Components {
        let mut components = Components { aligned, ..Components::default() };
        for &(number, size, offset) in rows {
            if let (Some(a), Some(b)) = (components.size.get_mut(number), components.offset.get_mut(number)) {
                (*a, *b) = (size, offset);
            }
        }
        components
    }

    /// Those of which `leaf` answers CPUID leaf 0xD's sub-leaf of that number.
    #[cfg(feature = "std")]
    pub(crate) fn ask(leaf: impl Fn(u32) -> CpuidResult) -> Components {
        let mut components = Components::default();
        for number in 2..COMPONENTS as u32 {
            let answer = leaf(number);
            if answer.eax != 0 {
                components.size[number as usize] = answer.eax;
                components.offset[number as usize] = answer.ebx;
                components.aligned |= u64::from(answer.ecx >> 1 & 1) << number;
            }
        }
        components
    }

    /// Each that there is: its number, size and offset.
    pub fn rows(&self) -> impl Iterator<Item = (usize, u32, u32)> {
        let rows = self.size.iter().zip(&self.offset).enumerate();
        rows.filter(|(_, (size, _))| **size != 0).map(|(number, (size, offset))| (number, *size, *offset))
    }

    /// Those that a compacted image aligns to 64 bytes, as bits of XCR0.
    #[must_use]
    pub fn aligned(&self) -> u64 {
        self.aligned
    }

    /// Those of `requested`, each as its bit with its offset and its end.
    pub(crate) fn places(self, requested: u64, compacted: bool) -> impl Iterator<Item = (u64, usize, usize)> {
        let mut next = MINIMUM_LENGTH;
        let rows = self.size.into_iter().zip(self.offset).enumerate().skip(2);
        rows.filter(move |(i, _)| requested >> i & 1 != 0).map(move |(i, (size, offset))| {
            let aligned = if self.aligned >> i & 1 != 0 { next.next_multiple_of(64) } else { next };
            let start = if compacted { aligned } else { offset as usize };
            next = start + size as usize;
            (1 << i, start, next)
        })
    }

    /// The length of an image of `requested`, in bytes.
    pub(crate) fn length(self, requested: u64, compacted: bool) -> usize {
        self.places(requested, compacted).map(|(_, _, end)| end).fold(MINIMUM_LENGTH, usize::max)
    }
}

/// An image that is shorter than its layout says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TooShort {
    /// The bytes that there were.
    pub length: usize,
    /// The bytes that the layout needs.
    pub needed: usize,
}

impl fmt::Display for TooShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an XSAVE image of {} bytes where {} are needed", self.length, self.needed)
    }
}

impl core::error::Error for TooShort {}

impl Layout {
    /// An image without extended components, as FXSAVE would leave it, and a header.
    pub const LEGACY: Layout = Layout {
        length: MINIMUM_LENGTH,
        avx: None,
        opmask: None,
        zmm_hi256: None,
        hi16_zmm: None,
        pkru: None,
        tile_config: None,
        tile_data: None,
    };

    /// The layout under the XCR0 value `features`, where `component` answers CPUID leaf 0xD's sub-leaf of
    /// that number: the component's size and its offset, in bytes.
    pub fn new(features: u64, component: impl Fn(u32) -> (usize, usize)) -> Layout {
        let mut length = MINIMUM_LENGTH;
        for number in 2..63 {
            if features & 1 << number != 0 {
                let (size, offset) = component(number);
                length = length.max(offset.saturating_add(size));
            }
        }
        let offset = |number: u32, expected: usize| {
            let (size, offset) = if features & 1 << number != 0 { component(number) } else { (0, 0) };
            (size >= expected && offset >= MINIMUM_LENGTH).then_some(offset)
        };
        Layout {
            length,
            avx: offset(2, 256),
            opmask: offset(5, 64),
            zmm_hi256: offset(6, 512),
            hi16_zmm: offset(7, 1024),
            pkru: offset(9, 4),
            tile_config: offset(17, 64),
            tile_data: offset(18, TILE_DATA_LENGTH),
        }
    }

    /// The components that this layout has a place for, as bits of XCR0.
    #[must_use]
    pub fn features(&self) -> u64 {
        let bit = |offset: Option<usize>, bit| if offset.is_some() { bit } else { 0 };
        feature::X87
            | feature::SSE
            | bit(self.avx, feature::AVX)
            | bit(self.opmask, feature::OPMASK)
            | bit(self.zmm_hi256, feature::ZMM_HI256)
            | bit(self.hi16_zmm, feature::HI16_ZMM)
            | bit(self.pkru, feature::PKRU)
            | bit(self.tile_config, feature::TILE_CONFIG)
            | bit(self.tile_data, feature::TILE_DATA)
    }

    /// The same without tile registers and their configuration, and no longer than it then needs to be.
    #[must_use]
    pub fn without_tiles(self) -> Layout {
        let components = [
            (self.avx, 256),
            (self.opmask, 64),
            (self.zmm_hi256, 512),
            (self.hi16_zmm, 1024),
            (self.pkru, 8),
        ];
        let ends = components.into_iter().filter_map(|(offset, size)| Some(offset?.saturating_add(size)));
        Layout { length: ends.fold(MINIMUM_LENGTH, usize::max), tile_config: None, tile_data: None, ..self }
    }

    /// Where the components other than x87 begin in this layout.
    pub(crate) fn components(&self) -> [(u64, Option<usize>); 8] {
        [
            (feature::SSE, Some(XMM)),
            (feature::AVX, self.avx),
            (feature::OPMASK, self.opmask),
            (feature::ZMM_HI256, self.zmm_hi256),
            (feature::HI16_ZMM, self.hi16_zmm),
            (feature::PKRU, self.pkru),
            (feature::TILE_CONFIG, self.tile_config),
            (feature::TILE_DATA, self.tile_data),
        ]
    }

    /// Reads `image` into `extended` and `pkru`. A component that XSTATE_BV says is in its initial
    /// configuration is read as that; one that the layout does not have becomes zero. Room for tile registers is made
    /// if they are in use.
    ///
    /// # Errors
    /// The image is shorter than the layout; nothing has changed then.
    pub fn read(&self, image: &[u8], extended: &mut Extended, pkru: &mut u32) -> Result<(), TooShort> {
        self.check(image.len())?;
        let in_use: u64 = u64::from_le_bytes(array(image, XSTATE_BV));
        extended.x87 = if in_use & feature::X87 != 0 { read_x87(image) } else { X87::default() };
        extended.mxcsr = Mxcsr::from_bits_retain(u32::from_le_bytes(array(image, MXCSR)));
        if in_use & feature::TILE_DATA != 0 && self.tile_data.is_some() {
            extended.tiles.data.make_room();
        }
        for (component, offset) in self.components() {
            let place = offset.filter(|_| in_use & component != 0).and_then(|offset| image.get(offset..));
            read_component(component, place.unwrap_or(&[]), extended, pkru);
        }
        Ok(())
    }

    /// Writes `extended` and `pkru` into `image` and marks in XSTATE_BV what of this layout is in use, and the
    /// legacy components always. Bytes and components that `Extended` has no place for stay as they are.
    ///
    /// # Errors
    /// The image is shorter than the layout; nothing has changed then.
    pub fn write(&self, extended: &Extended, pkru: u32, image: &mut [u8]) -> Result<(), TooShort> {
        self.check(image.len())?;
        // Without either of the legacy ones the kernel would not look at MXCSR. A component that is in use
        // for no reason costs the thread time, and XGETBV shows it.
        const ALWAYS: u64 = feature::X87 | feature::SSE;
        let used = ALWAYS | extended_in_use(extended, pkru, self.features() & !ALWAYS);
        let others = u64::from_le_bytes(array(image, XSTATE_BV)) & !self.features();
        put(image, XSTATE_BV, &(others | used).to_le_bytes());
        write_x87(&extended.x87, image);
        put(image, MXCSR, &extended.mxcsr.bits().to_le_bytes());
        for (component, offset) in self.components() {
            if let Some(place) = offset.and_then(|offset| image.get_mut(offset..)) {
                write_component(component, extended, pkru, place);
            }
        }
        Ok(())
    }

    fn check(&self, length: usize) -> Result<(), TooShort> {
        let needed = self.length.max(MINIMUM_LENGTH);
        if length < needed { Err(TooShort { length, needed }) } else { Ok(()) }
    }
}

/// XINUSE (SDM volume 1, section 13.6): the components that are not as after reset.
pub(crate) fn in_use(registers: &Registers) -> u64 {
    extended_in_use(&registers.extended, registers.pkru, feature::ALL)
}

/// Those of the `asked` components that are not as after reset; nobody looks at the others.
fn extended_in_use(extended: &Extended, pkru: u32, asked: u64) -> u64 {
    let (low, high) = extended.vector.split_at(16);
    let is_used = |component| match component {
        feature::X87 => extended.x87 != X87::default(),
        feature::SSE => any::<0, 2>(low) || extended.mxcsr != Mxcsr::default(),
        feature::AVX => any::<2, 2>(low),
        feature::OPMASK => extended.opmask != [0; 8],
        feature::ZMM_HI256 => any::<4, 4>(low),
        feature::HI16_ZMM => any::<0, 8>(high),
        feature::PKRU => pkru != 0,
        feature::TILE_CONFIG => extended.tiles.config != TileConfig::default(),
        feature::TILE_DATA => extended.tiles.data.is_used(),
        _ => false,
    };
    let (mut left, mut used) = (asked, 0);
    while left != 0 {
        let component = left & left.wrapping_neg();
        left &= !component;
        used |= if is_used(component) { component } else { 0 };
    }
    used
}

/// Whether any of `N` quadwords of a vector register, from that with index `FIRST` on, is not zero in any of `vectors`.
fn any<const FIRST: usize, const N: usize>(vectors: &[Vector]) -> bool {
    // All of them, without a branch for each.
    let lanes = |Vector(words): &Vector| words.iter().skip(FIRST).take(N).fold(0, |all, word| all | word);
    vectors.iter().fold(0, |all, vector| all | lanes(vector)) != 0
}

/// TOP of an FSW.
fn top(status: u16) -> usize {
    usize::from(status >> 11 & 7)
}

/// Reads `N` quadwords of each of `vectors`, from that with index `FIRST` on; what is not there is zero.
fn read_lanes<const FIRST: usize, const N: usize>(place: &[u8], vectors: &mut [Vector]) {
    let (quads, _) = place.as_chunks();
    let (groups, _) = quads.as_chunks::<N>();
    let groups = groups.iter().copied().chain(core::iter::repeat([[0; 8]; N]));
    for (Vector(words), group) in vectors.iter_mut().zip(groups) {
        for (word, bytes) in words.iter_mut().skip(FIRST).zip(group) {
            *word = u64::from_le_bytes(bytes);
        }
    }
}

/// Writes them, as far as there is room.
fn write_lanes<const FIRST: usize, const N: usize>(vectors: &[Vector], place: &mut [u8]) {
    let (quads, _) = place.as_chunks_mut();
    let (groups, _) = quads.as_chunks_mut::<N>();
    for (Vector(words), group) in vectors.iter().zip(groups) {
        for (word, bytes) in words.iter().skip(FIRST).zip(group) {
            *bytes = word.to_le_bytes();
        }
    }
}

/// The quadwords at the start of `place`, and zeros after its end: the initial configuration of every component
/// but x87.
fn quads(place: &[u8]) -> impl Iterator<Item = u64> {
    let (chunks, _) = place.as_chunks();
    chunks.iter().map(|bytes| u64::from_le_bytes(*bytes)).chain(core::iter::repeat(0))
}

/// Reads a component other than x87 from where it begins; what is not there is zero. Tile registers are read where there
/// is room for them.
pub(crate) fn read_component(component: u64, place: &[u8], extended: &mut Extended, pkru: &mut u32) {
    let (low, high) = extended.vector.split_at_mut(16);
    match component {
        feature::SSE => read_lanes::<0, 2>(place, low),
        feature::AVX => read_lanes::<2, 2>(place, low),
        feature::ZMM_HI256 => read_lanes::<4, 4>(place, low),
        feature::HI16_ZMM => read_lanes::<0, 8>(place, high),
        feature::OPMASK => extended.opmask.iter_mut().zip(quads(place)).for_each(|(mask, quad)| *mask = quad),
        feature::PKRU => *pkru = quads(place).next().unwrap_or(0) as u32,
        feature::TILE_CONFIG => {
            extended.tiles.config = TileConfig(place.first_chunk().copied().unwrap_or([0; 64]));
        }
        feature::TILE_DATA => {
            let rows = extended.tiles.data.tiles_mut().into_iter().flatten().flatten();
            for (row, number) in rows.zip(0..) {
                let bytes = place.get(ROW_LENGTH * number..).and_then(|rest| rest.first_chunk());
                *row = bytes.copied().unwrap_or([0; ROW_LENGTH]);
            }
        }
        _ => {}
    }
}

/// Writes a component other than x87 to where it begins.
pub(crate) fn write_component(component: u64, extended: &Extended, pkru: u32, place: &mut [u8]) {
    let (low, high) = extended.vector.split_at(16);
    match component {
        feature::SSE => write_lanes::<0, 2>(low, place),
        feature::AVX => write_lanes::<2, 2>(low, place),
        feature::ZMM_HI256 => write_lanes::<4, 4>(low, place),
        feature::HI16_ZMM => write_lanes::<0, 8>(high, place),
        feature::OPMASK => {
            let (quads, _) = place.as_chunks_mut();
            quads.iter_mut().zip(extended.opmask).for_each(|(bytes, mask)| *bytes = mask.to_le_bytes());
        }
        feature::PKRU => put(place, 0, &pkru.to_le_bytes()),
        feature::TILE_CONFIG => put(place, 0, &extended.tiles.config.0),
        feature::TILE_DATA => match extended.tiles.data.tiles() {
            Some(tiles) => put(place, 0, tiles.as_flattened().as_flattened()),
            None => place.iter_mut().take(TILE_DATA_LENGTH).for_each(|byte| *byte = 0),
        },
        _ => {}
    }
}

/// Reads x87 from the legacy region, which keeps the registers in stack order, but the abridged tags in
/// physical order.
pub(crate) fn read_x87(image: &[u8]) -> X87 {
    let mut x87 = X87 {
        control: u16::from_le_bytes(array(image, CONTROL)),
        status: u16::from_le_bytes(array(image, STATUS)),
        tag: u8::from_le_bytes(array(image, TAG)),
        opcode: u16::from_le_bytes(array(image, OPCODE)) & 0x7ff,
        instruction_pointer: u64::from_le_bytes(array(image, INSTRUCTION_POINTER)),
        data_pointer: u64::from_le_bytes(array(image, DATA_POINTER)),
        ..X87::default()
    };
    for index in 0..8 {
        let offset = ST + 16 * index;
        x87.r[(top(x87.status) + index) & 7] = Float80 {
            significand: u64::from_le_bytes(array(image, offset)),
            sign_exponent: u16::from_le_bytes(array(image, offset + 8)),
        };
    }
    x87
}

/// Writes x87 to the legacy region.
pub(crate) fn write_x87(x87: &X87, image: &mut [u8]) {
    put(image, CONTROL, &x87.control.to_le_bytes());
    put(image, STATUS, &x87.status.to_le_bytes());
    put(image, TAG, &[x87.tag, 0]);
    put(image, OPCODE, &x87.opcode.to_le_bytes());
    put(image, INSTRUCTION_POINTER, &x87.instruction_pointer.to_le_bytes());
    put(image, DATA_POINTER, &x87.data_pointer.to_le_bytes());
    for index in 0..8 {
        let register = x87.r[(top(x87.status) + index) & 7];
        let offset = ST + 16 * index;
        put(image, offset, &register.significand.to_le_bytes());
        put(image, offset + 8, &register.sign_exponent.to_le_bytes());
    }
}

/// Writes MXCSR, and the mask of the bits that it may have, to the legacy region.
pub(crate) fn write_mxcsr(mxcsr: Mxcsr, mask: Mxcsr, image: &mut [u8]) {
    put(image, MXCSR, &mxcsr.bits().to_le_bytes());
    put(image, MXCSR_MASK, &mask.bits().to_le_bytes());
}

/// `N` bytes at `offset`, which [`Layout::check`] has found to be there.
fn array<const N: usize>(image: &[u8], offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    if let Some(found) = image.get(offset..offset + N) {
        bytes.copy_from_slice(found);
    }
    bytes
}

fn put(image: &mut [u8], offset: usize, bytes: &[u8]) {
    if let Some(place) = image.get_mut(offset..offset + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::registers::Tiles;

    /// A processor with everything, laid out as Intel's servers do it.
    fn everything() -> Layout {
        Layout::new(feature::ALL, |number| match number {
            2 => (256, 576),
            5 => (64, 1088),
            6 => (512, 1152),
            7 => (1024, 1664),
            9 => (8, 2688),
            17 => (64, 2752),
            18 => (8192, 2816),
            _ => (0, 0),
        })
    }

    fn distinct() -> Extended {
        let mut extended = Extended { mxcsr: Mxcsr::from_bits_retain(0x9fc0), ..Default::default() };
        extended.x87 = X87 {
            control: 0x0c7f,
            status: 0x2841,
            tag: 0xa5,
            opcode: 0x3c1,
            instruction_pointer: 0x7fff_0000_1234,
            data_pointer: 0x1_0000_4321,
            ..Default::default()
        };
        for (n, r) in extended.x87.r.iter_mut().enumerate() {
            *r = Float80 { significand: 0x8000_0000_0000_0000 | n as u64, sign_exponent: 0x3fff + n as u16 };
        }
        for (n, v) in extended.vector.iter_mut().enumerate() {
            *v = Vector(core::array::from_fn(|q| (n as u64) << 32 | q as u64 | 1 << 63));
        }
        for (n, k) in extended.opmask.iter_mut().enumerate() {
            *k = 0x1111 * n as u64;
        }
        extended.tiles.config.0 = std::array::from_fn(|n| n as u8 ^ 0xa5);
        extended.tiles.data.make_room();
        for (n, row) in extended.tiles.data.tiles_mut().into_iter().flatten().flatten().enumerate() {
            *row = std::array::from_fn(|byte| (n * 67 + byte * 3) as u8);
        }
        extended
    }

    #[test]
    fn what_is_written_is_read_back() {
        let layout = everything();
        assert_eq!(layout.features(), feature::ALL);
        assert_eq!(layout.length, 11008);
        assert_eq!(layout.without_tiles().length, 2696);
        assert_eq!(layout.without_tiles().features(), feature::ALL & !(0b11 << 17));
        let mut image = vec![0xccu8; layout.length];
        image[XSTATE_BV..XSTATE_BV + 64].fill(0);
        let extended = distinct();
        layout.write(&extended, 0x5555_5550, &mut image).unwrap();
        let (mut back, mut pkru) = (Extended::default(), 0);
        layout.read(&image, &mut back, &mut pkru).unwrap();
        assert_eq!(back, extended);
        assert_eq!(pkru, 0x5555_5550);
        // TOP is 5, so that ST(0) is R5.
        assert_eq!(image[ST], 5);
    }

    #[test]
    fn a_component_in_its_initial_configuration_is_read_as_such() {
        let layout = everything();
        let mut image = vec![0u8; layout.length];
        layout.write(&distinct(), 3, &mut image).unwrap();
        image[XSTATE_BV..XSTATE_BV + 8].copy_from_slice(&feature::SSE.to_le_bytes());
        let (mut back, mut pkru) = (Extended::default(), 7);
        layout.read(&image, &mut back, &mut pkru).unwrap();
        assert_eq!(back.x87, X87::default());
        assert_eq!(back.vector[3].0[..3], [3 << 32 | 1 << 63, 3 << 32 | 1 | 1 << 63, 0]);
        assert_eq!(back.vector[17], Vector::default());
        assert_eq!((back.opmask, pkru), ([0; 8], 0));
        assert_eq!(back.tiles, Tiles::default());
        assert!(back.tiles.data.tiles().is_none(), "nobody uses them");
        // Room that there is stays.
        let mut used = distinct();
        layout.read(&image, &mut used, &mut pkru).unwrap();
        assert_eq!(used.tiles, Tiles::default());
        assert!(used.tiles.data.tiles().is_some());
    }

    #[test]
    fn a_short_image_is_an_error() {
        let layout = everything();
        let mut pkru = 0;
        let needed = layout.length;
        assert_eq!(
            layout.read(&vec![0; needed - 1], &mut Extended::default(), &mut pkru),
            Err(TooShort { length: needed - 1, needed })
        );
        assert!(layout.write(&Extended::default(), 0, &mut []).is_err());
    }
}
