//! The image: a case's whole state as bytes, little endian. `vectors/README.md` is the definition.

use emu::registers::{Float80, ROW_LENGTH, TileConfig, Vector, segment};
use emu::{Mxcsr, Registers, Rflags};

/// Where the parts of the registers lie, in bytes.
pub mod offset {
    /// RAX to R15 in machine encoding, u64 each.
    pub const GPR: usize = 0x0000;
    /// u64; RF is never shown.
    pub const RFLAGS: usize = 0x0080;
    /// u64.
    pub const RIP: usize = 0x0088;
    /// u32.
    pub const MXCSR: usize = 0x0090;
    /// u32.
    pub const PKRU: usize = 0x0094;
    /// u64.
    pub const GS_BASE: usize = 0x0098;
    /// K0 to K7, u64 each.
    pub const OPMASK: usize = 0x00a0;
    /// u16.
    pub const FCW: usize = 0x00e0;
    /// u16, TOP in it.
    pub const FSW: usize = 0x00e2;
    /// u8: bit i is set if Ri is not empty.
    pub const FTW: usize = 0x00e4;
    /// u16.
    pub const FOP: usize = 0x00e6;
    /// u64.
    pub const FIP: usize = 0x00e8;
    /// u64.
    pub const FDP: usize = 0x00f0;
    /// u64.
    pub const FS_BASE: usize = 0x00f8;
    /// The physical registers R0 to R7, 16 bytes each of which ten are used.
    pub const X87: usize = 0x0100;
    /// ZMM0 to ZMM31, 64 bytes each.
    pub const ZMM: usize = 0x0180;
    /// TILECFG, 64 bytes, and TMM0 to TMM7, 1024 bytes each.
    pub const TILES: usize = 0x0980;
    /// ES, CS, SS, DS, FS, GS, u16 each.
    pub const SELECTORS: usize = 0x29c0;
    /// The end of what is used.
    pub const END: usize = SELECTORS + 12;
    /// Where the contents of memory may begin.
    pub const MEMORY: usize = 0x4000;
}

/// Tile registers where there are none.
const NO_TILES: [u8; offset::SELECTORS - offset::TILES - ROW_LENGTH] =
    [0; offset::SELECTORS - offset::TILES - ROW_LENGTH];

/// The part of an image that holds registers.
#[derive(Clone, PartialEq, Eq)]
pub struct RegisterImage(pub Box<[u8; offset::END]>);

impl Default for RegisterImage {
    fn default() -> Self {
        RegisterImage(Box::new([0; offset::END]))
    }
}

impl RegisterImage {
    /// `N` bytes at `offset`; zeros if it is not that long.
    #[must_use]
    pub fn get<const N: usize>(&self, offset: usize) -> [u8; N] {
        self.0.get(offset..offset + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
    }

    fn u64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.get(offset))
    }

    fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes(self.get(offset))
    }

    /// Puts bytes at `offset`; what would lie beyond the end is left out.
    pub fn put(&mut self, offset: usize, bytes: &[u8]) {
        for (place, byte) in self.0.iter_mut().skip(offset).zip(bytes) {
            *place = *byte;
        }
    }

    /// Takes all that the image holds.
    pub fn read(&self, registers: &mut Registers) {
        for (number, register) in registers.gpr.iter_mut().enumerate() {
            *register = self.u64(offset::GPR + 8 * number);
        }
        registers.rflags = Rflags::from_bits_retain(self.u64(offset::RFLAGS));
        registers.rip = self.u64(offset::RIP);
        registers.fs_base = self.u64(offset::FS_BASE);
        registers.gs_base = self.u64(offset::GS_BASE);
        registers.pkru = u32::from_le_bytes(self.get(offset::PKRU));
        for number in segment::ES..=segment::GS {
            registers.segment[number] = self.u16(offset::SELECTORS + 2 * number);
        }
        let extended = &mut registers.extended;
        extended.mxcsr = Mxcsr::from_bits_retain(u32::from_le_bytes(self.get(offset::MXCSR)));
        for (number, mask) in extended.opmask.iter_mut().enumerate() {
            *mask = self.u64(offset::OPMASK + 8 * number);
        }
        for (number, Vector(quads)) in extended.vector.iter_mut().enumerate() {
            for (position, quad) in quads.iter_mut().enumerate() {
                *quad = self.u64(offset::ZMM + 64 * number + 8 * position);
            }
        }
        let x87 = &mut extended.x87;
        x87.control = self.u16(offset::FCW);
        x87.status = self.u16(offset::FSW);
        [x87.tag] = self.get(offset::FTW);
        x87.opcode = self.u16(offset::FOP);
        x87.instruction_pointer = self.u64(offset::FIP);
        x87.data_pointer = self.u64(offset::FDP);
        for (number, register) in x87.r.iter_mut().enumerate() {
            let at = offset::X87 + 16 * number;
            *register = Float80 { significand: self.u64(at), sign_exponent: self.u16(at + 8) };
        }
        let tiles = &mut extended.tiles;
        tiles.config = TileConfig(self.get(offset::TILES));
        tiles.data.make_room();
        let rows = tiles.data.tiles_mut().into_iter().flatten().flatten();
        for (number, row) in rows.enumerate() {
            *row = self.get(offset::TILES + ROW_LENGTH * (number + 1));
        }
    }

    /// The inverse of [`RegisterImage::read`].
    pub fn write(&mut self, registers: &Registers) {
        for (number, register) in registers.gpr.iter().enumerate() {
            self.put(offset::GPR + 8 * number, &register.to_le_bytes());
        }
        self.put(offset::RFLAGS, &registers.rflags.bits().to_le_bytes());
        self.put(offset::RIP, &registers.rip.to_le_bytes());
        self.put(offset::FS_BASE, &registers.fs_base.to_le_bytes());
        self.put(offset::GS_BASE, &registers.gs_base.to_le_bytes());
        self.put(offset::PKRU, &registers.pkru.to_le_bytes());
        for (number, selector) in registers.segment.iter().enumerate() {
            self.put(offset::SELECTORS + 2 * number, &selector.to_le_bytes());
        }
        let extended = &registers.extended;
        self.put(offset::MXCSR, &extended.mxcsr.bits().to_le_bytes());
        for (number, mask) in extended.opmask.iter().enumerate() {
            self.put(offset::OPMASK + 8 * number, &mask.to_le_bytes());
        }
        for (number, Vector(quads)) in extended.vector.iter().enumerate() {
            for (position, quad) in quads.iter().enumerate() {
                self.put(offset::ZMM + 64 * number + 8 * position, &quad.to_le_bytes());
            }
        }
        let x87 = &extended.x87;
        self.put(offset::FCW, &x87.control.to_le_bytes());
        self.put(offset::FSW, &x87.status.to_le_bytes());
        self.put(offset::FTW, &[x87.tag]);
        self.put(offset::FOP, &x87.opcode.to_le_bytes());
        self.put(offset::FIP, &x87.instruction_pointer.to_le_bytes());
        self.put(offset::FDP, &x87.data_pointer.to_le_bytes());
        for (number, register) in x87.r.iter().enumerate() {
            let at = offset::X87 + 16 * number;
            self.put(at, &register.significand.to_le_bytes());
            self.put(at + 8, &register.sign_exponent.to_le_bytes());
        }
        self.put(offset::TILES, &extended.tiles.config.0);
        let tiles =
            extended.tiles.data.tiles().map_or(&NO_TILES[..], |tiles| tiles.as_flattened().as_flattened());
        self.put(offset::TILES + ROW_LENGTH, tiles);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_go_into_an_image_and_come_back() {
        let mut drawn = RegisterImage::default();
        for (place, byte) in drawn.0.iter_mut().enumerate() {
            *byte = (place * 7 + place / 251) as u8;
        }
        let (mut registers, mut again) = (Registers::default(), Registers::default());
        drawn.read(&mut registers);
        let mut image = RegisterImage::default();
        image.write(&registers);
        image.read(&mut again);
        assert_eq!(again, registers);
        assert_eq!(registers.gpr[1], u64::from_le_bytes(drawn.get(8)));
        assert_eq!(registers.segment[segment::GS], u16::from_le_bytes(drawn.get(offset::END - 2)));
        // All but the padding has its place.
        let padding = |place: usize| (offset::X87..offset::ZMM).contains(&place) && place % 16 >= 10;
        for (place, (drawn, written)) in drawn.0.iter().zip(image.0.iter()).enumerate() {
            let used = !padding(place) && place != 0xe5;
            assert!(!used || drawn == written, "{place:#x}");
        }
    }
}
