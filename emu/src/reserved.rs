//! Bytes that are no instruction, where it is certain what the processor raises for them.
//!
//! Everything else that the decoder does not know is refused: it may be an instruction that is newer
//! than the decoder.

use iced_x86::{Decoder, DecoderError, DecoderOptions, EncodingKind, Instruction, Mnemonic};

use crate::decode::flags::Flags;
use crate::decode::prefix::{LONGEST, prefix_count};
use crate::families;
use crate::model::exception::Exception;
use crate::model::outcome::Outcome;
use crate::model::refusal::Refusal;
use crate::run::context::{Context, Execute};
use crate::run::row::Row;

/// What raises #UD: LOCK where it is not allowed, a VEX field that must have another value, and the
/// encodings of [`UNDEFINED`].
static INVALID_OPCODE: Row = Row {
    name: "#UD",
    mnemonics: &[],
    flags: Flags::empty(),
    select: |form| Some(families::undefined_unless_too_long(form)),
    vector: None,
};

/// What raises #GP: an instruction of more than 15 bytes.
static TOO_LONG: Row = Row {
    name: "#GP",
    mnemonics: &[],
    flags: Flags::empty(),
    select: |_| Some(too_long as Execute),
    vector: None,
};

fn too_long(_: &mut Context<'_>) -> Result<Outcome, Exception> {
    Err(Exception::GeneralProtection(0))
}

/// Reserved opcodes, of which 64-bit mode has made nothing else.
struct Undefined {
    /// The opcode's bytes before its last.
    map: &'static [u8],
    first: u8,
    last: u8,
    modrm: ModRm,
}

/// Which of an opcode's forms are meant.
#[derive(Clone, Copy)]
enum ModRm {
    /// All.
    Any,
    /// Those of a group: bit n for /n.
    Group(u8),
    /// Those of a group whose operand is a register: bit n for /n.
    Register(u8),
}

const fn undefined(map: &'static [u8], first: u8, last: u8, modrm: ModRm) -> Undefined {
    Undefined { map, first, last, modrm }
}

/// SDM volume 2, appendix A: tables.
static UNDEFINED: &[Undefined] = &[
    undefined(&[], 0x06, 0x07, ModRm::Any),
    undefined(&[], 0x0e, 0x0e, ModRm::Any),
    undefined(&[], 0x16, 0x17, ModRm::Any),
    undefined(&[], 0x1e, 0x1f, ModRm::Any),
    undefined(&[], 0x27, 0x27, ModRm::Any),
    undefined(&[], 0x2f, 0x2f, ModRm::Any),
    undefined(&[], 0x37, 0x37, ModRm::Any),
    undefined(&[], 0x3f, 0x3f, ModRm::Any),
    undefined(&[], 0x60, 0x61, ModRm::Any),
    undefined(&[], 0x82, 0x82, ModRm::Any),
    undefined(&[], 0x8c, 0x8c, ModRm::Group(0b1100_0000)),
    undefined(&[], 0x8d, 0x8d, ModRm::Register(0xff)),
    undefined(&[], 0x8e, 0x8e, ModRm::Group(0b1100_0010)),
    undefined(&[], 0x9a, 0x9a, ModRm::Any),
    undefined(&[], 0xce, 0xce, ModRm::Any),
    undefined(&[], 0xd4, 0xd4, ModRm::Any),
    undefined(&[], 0xd6, 0xd6, ModRm::Any),
    undefined(&[], 0xea, 0xea, ModRm::Any),
    undefined(&[], 0xfe, 0xfe, ModRm::Group(0b1111_1100)),
    undefined(&[], 0xff, 0xff, ModRm::Group(0b1000_0000)),
    undefined(&[], 0xff, 0xff, ModRm::Register(0b0010_1000)),
    undefined(&[0x0f], 0x04, 0x04, ModRm::Any),
    undefined(&[0x0f], 0x0a, 0x0a, ModRm::Any),
    undefined(&[0x0f], 0x0c, 0x0c, ModRm::Any),
    undefined(&[0x0f], 0xb2, 0xb2, ModRm::Register(0xff)),
    undefined(&[0x0f], 0xb4, 0xb5, ModRm::Register(0xff)),
    undefined(&[0x0f], 0xba, 0xba, ModRm::Group(0b0000_1111)),
    undefined(&[0x0f], 0xc3, 0xc3, ModRm::Register(0xff)),
    undefined(&[0x0f], 0xc7, 0xc7, ModRm::Register(0b0000_0010)),
];

/// The longest it can be without prefixes: two bytes of opcode, ModRM, SIB, and four bytes each of
/// displacement and immediate; or a far pointer.
const LONGEST_OPCODE: usize = 12;

/// What is raised for bytes that did not decode, and the instruction as far as there is one.
///
/// `failed` is what the decoder made of them with `options`, and `error` why; `extended` says whether the system has
/// enabled the registers that APX adds.
pub(crate) fn raises(
    bytes: &[u8],
    failed: &Instruction,
    error: DecoderError,
    options: u32,
    extended: bool,
) -> Option<(Instruction, &'static Row)> {
    let prefixes = prefix_count(bytes);
    if prefixes >= LONGEST || is_too_long(bytes, prefixes, options) {
        return Some((*failed, &TOO_LONG));
    }
    if error == DecoderError::NoMoreBytes {
        return None;
    }
    let unchecked = unchecked(bytes, failed.ip(), options);
    if !unchecked.is_invalid() {
        return is_settled(&unchecked).then_some((unchecked, &INVALID_OPCODE));
    }
    if let Some(meant) = with_reserved_fields(bytes, prefixes, failed.ip(), options, extended) {
        return Some((meant, &INVALID_OPCODE));
    }
    let fits = prefixes + LONGEST_OPCODE <= LONGEST;
    let opcode = bytes.get(prefixes..)?;
    let undefined = UNDEFINED.iter().any(|undefined| undefined.matches(opcode));
    (fits && undefined).then_some((*failed, &INVALID_OPCODE))
}

/// What to call bytes that are no instruction that the decoder knows.
pub(crate) fn unknown(bytes: &[u8]) -> Refusal {
    let legacy = |byte: &u8| !(0x40..=0x4f).contains(byte);
    let prefixes = bytes.iter().take(prefix_count(bytes)).take_while(|byte| legacy(byte)).count();
    match bytes.get(prefixes..).unwrap_or_default() {
        // REX2.
        [0xd5, ..] => Refusal::Apx,
        // Map 4, B4 and the inverse of X4 are APX's.
        [0x62, first, second, ..] if first & 7 == 4 || first & 8 != 0 || second & 4 == 0 => Refusal::Apx,
        // W0 and L0 in maps 2 and 5.
        [0xc4, first, second, opcode, ..] if second & 0x84 == 0 => match (first & 0x1f, opcode) {
            (2, 0x48 | 0x4a | 0x5f | 0x6b | 0x6e | 0x6f) | (5, 0xf8 | 0xf9 | 0xfd) => Refusal::Amx,
            _ => Refusal::Invalid { first: bytes.first().copied().unwrap_or(0) },
        },
        [0x62, first, ..] if matches!(first & 7, 1 | 2 | 3 | 5 | 6) => Refusal::Avx10,
        _ => Refusal::Invalid { first: bytes.first().copied().unwrap_or(0) },
    }
}

/// Whether an instruction that is invalid by a prefix or a field of its encoding raises #UD on every
/// processor.
fn is_settled(instruction: &Instruction) -> bool {
    // VERW with LOCK is VERW on AMD's processors.
    instruction.mnemonic() != Mnemonic::Verw
}

/// The instruction that an EVEX encoding would be, were it not for fields that have no meaning with any opcode: a vector
/// length of 3, and the bits that APX made numbers of more registers of (SDM volume 2, section 2.7.11).
fn with_reserved_fields(
    bytes: &[u8],
    prefixes: usize,
    ip: u64,
    options: u32,
    extended: bool,
) -> Option<Instruction> {
    const EVEX: u8 = 0x62;
    // EVEX.B4 is clear in other encodings, and EVEX.X4 set.
    const B4: u8 = 1 << 3;
    const X4: u8 = 1 << 2;
    const LENGTH: u8 = 3 << 5;
    let mut copy = [0; LONGEST];
    let length = bytes.len().min(LONGEST);
    let taken = copy.get_mut(..length)?;
    taken.copy_from_slice(bytes.get(..length)?);
    let [EVEX, p0, p1, p2, ..] = taken.get_mut(prefixes..)? else { return None };
    let registers = *p0 & B4 != 0 || *p1 & X4 == 0;
    let length = *p2 & LENGTH == LENGTH;
    if registers && extended || !registers && !length {
        return None;
    }
    (*p0, *p1) = (*p0 & !B4, *p1 | X4);
    let p2_before = *p2;
    let lengths: &[u8] = if length { &[0, 1 << 5, 2 << 5] } else { &[p2_before & LENGTH] };
    lengths.iter().find_map(|length| {
        let mut copy = copy;
        *copy.get_mut(prefixes + 3)? = p2_before & !LENGTH | length;
        let meant = unchecked(&copy, ip, options);
        (!meant.is_invalid() && is_settled(&meant)).then_some(meant)
    })
}

/// Decoded without a look at prefixes and fields that make it invalid.
fn unchecked(bytes: &[u8], ip: u64, options: u32) -> Instruction {
    Decoder::with_ip(64, bytes, ip, options | DecoderOptions::NO_INVALID_CHECK).decode()
}

/// Whether there would be an instruction, were it not for too many prefixes. What comes first, the
/// length or something else that is wrong, is certain only for those without a VEX prefix, and for UD0
/// and UD1 not even then.
fn is_too_long(bytes: &[u8], prefixes: usize, options: u32) -> bool {
    (1..=prefixes).any(|dropped| {
        let rest = unchecked(bytes.get(dropped..).unwrap_or_default(), 0, options);
        let legacy = rest.code().op_code().encoding() == EncodingKind::Legacy;
        let certain = legacy && !matches!(rest.mnemonic(), Mnemonic::Ud0 | Mnemonic::Ud1);
        !rest.is_invalid() && certain && dropped + rest.len() > LONGEST
    })
}

impl Undefined {
    fn matches(&self, opcode: &[u8]) -> bool {
        let Some(rest) = opcode.strip_prefix(self.map) else { return false };
        let Some((&last, rest)) = rest.split_first() else { return false };
        if !(self.first..=self.last).contains(&last) {
            return false;
        }
        let modrm = rest.first().copied();
        let digit = modrm.map(|modrm| 1u8 << (modrm >> 3 & 7));
        match self.modrm {
            ModRm::Any => true,
            ModRm::Group(digits) => digit.is_some_and(|digit| digits & digit != 0),
            ModRm::Register(digits) => {
                modrm.is_some_and(|modrm| modrm >= 0xc0) && digit.is_some_and(|digit| digits & digit != 0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Displaced, Processor, Refusal};

    fn row(bytes: &[u8]) -> Result<&'static str, Refusal> {
        Displaced::decode(bytes, 0x1000).map(|displaced| displaced.row())
    }

    #[test]
    fn lock_where_it_is_not_allowed_raises() {
        assert_eq!(row(&[0xf0, 0x01, 0x00]), Ok("Add"));
        assert_eq!(row(&[0xf0, 0x01, 0xc0]), Ok("#UD"), "a register");
        assert_eq!(row(&[0xf0, 0x3b, 0x00]), Ok("#UD"), "CMP");
        assert_eq!(row(&[0xf0, 0xa4]), Ok("#UD"), "MOVSB");
    }

    #[test]
    fn more_than_fifteen_bytes_raise() {
        let mut bytes = [0x66; 16];
        assert_eq!(row(&bytes), Ok("#GP"), "prefixes only");
        assert_eq!(row(&bytes[..15]), Ok("#GP"), "the end does not matter");
        assert_eq!(row(&bytes[..14]), Err(Refusal::Truncated { length: 14 }));
        bytes[15] = 0x90;
        assert_eq!(row(&bytes), Ok("#GP"));
        assert!(row(&bytes[1..]).is_ok_and(|row| row != "#GP"), "fifteen bytes are not too many");
        bytes[13..].copy_from_slice(&[0x0f, 0x0a, 0x90]);
        assert_eq!(row(&bytes), Err(Refusal::Invalid { first: 0x66 }), "what counts of such an opcode?");
        assert_eq!(row(&bytes[10..]), Ok("#UD"));
    }

    #[test]
    fn what_evex_reserves_raises() {
        let row = |bytes: [u8; 7], processor: Processor| {
            Displaced::decode_on(&bytes, 0x1000, processor.leak()).map(|displaced| displaced.row())
        };
        let intel = || Processor::emerald_rapids();
        let vpaddd = [0x62, 0xf1, 0x6d, 0x49, 0xfe, 0xcb, 0x90]; // vpaddd zmm1{k1}, zmm2, zmm3
        assert_eq!(row(vpaddd, intel()), Ok("Paddd / Vpaddd"));
        let changed = |place: usize, bits: u8| {
            let mut bytes = vpaddd;
            bytes[place] ^= bits;
            row(bytes, intel())
        };
        assert_eq!(changed(3, 0x81), Ok("#UD"), "zeroing without a mask");
        assert_eq!(changed(3, 0x10), Ok("#UD"), "broadcast of a register");
        assert_eq!(changed(3, 0x20), Ok("#UD"), "a vector length of 3");
        assert_eq!(changed(1, 0x08), Ok("#UD"), "EVEX.B4");
        assert_eq!(changed(2, 0x04), Ok("#UD"), "EVEX.X4");
        let mut extended = intel();
        extended.xcr0 |= 1 << 19;
        let mut bytes = vpaddd;
        bytes[1] ^= 8;
        assert_eq!(row(bytes, extended), Err(Refusal::Apx), "it may be another register");
        // vpgatherdd zmm1{k1}, [rax+zmm2*1], the same without a mask, and with its destination as the index
        assert!(row([0x62, 0xf2, 0x7d, 0x49, 0x90, 0x0c, 0x10], intel()).is_ok_and(|row| row != "#UD"));
        assert_eq!(row([0x62, 0xf2, 0x7d, 0x48, 0x90, 0x0c, 0x10], intel()), Ok("#UD"));
        assert_eq!(row([0x62, 0xf2, 0x7d, 0x49, 0x90, 0x0c, 0x08], intel()), Ok("#UD"));
        // vfmulcph zmm1, zmm2, zmm1
        assert_eq!(row([0x62, 0xf6, 0x6e, 0x48, 0xd6, 0xc9, 0x90], intel()), Ok("#UD"));
    }

    #[test]
    fn what_is_uncertain_is_refused() {
        assert_eq!(row(&[0x06, 0x90]), Ok("#UD"));
        assert_eq!(row(&[0x66, 0x48, 0xff, 0xf8]), Ok("#UD"));
        // An opcode that EVEX has not been given.
        assert_eq!(row(&[0x62, 0xf2, 0x7d, 0x48, 0xff, 0xc0]), Err(Refusal::Avx10));
        // REX2, and an opcode of the map that has grown most.
        assert_eq!(row(&[0xd5, 0x00, 0x90, 0x90]), Err(Refusal::Apx));
        // add r8, rax, rbx with a new destination, and vaddbf16 xmm1, xmm2, xmm3.
        assert_eq!(row(&[0x62, 0xf4, 0xbc, 0x18, 0x01, 0xd8]), Err(Refusal::Apx));
        assert_eq!(row(&[0x62, 0xf5, 0x6d, 0x08, 0x58, 0xcb]), Err(Refusal::Avx10));
        // tmmultf32ps tmm1, tmm2, tmm3
        assert_eq!(row(&[0xc4, 0xe2, 0x61, 0x48, 0xca]), Err(Refusal::Amx));
        // vexp2ps zmm1, zmm2; pfrcp mm1, mm2; llwpcb rax.
        for bytes in [
            &[0x62, 0xf2, 0x7d, 0x48, 0xc8, 0xca][..],
            &[0x0f, 0x0f, 0xca, 0x96],
            &[0x8f, 0xe9, 0xf8, 0x12, 0xc0],
        ] {
            let refusal = row(bytes).unwrap_err();
            assert!(refusal.code().is_some() && refusal.reason() != "not emulated yet", "{refusal}");
            assert!(refusal.to_string().contains(refusal.reason()), "{refusal}");
        }
        assert_eq!(row(&[0x0f, 0x38, 0xff, 0xc0]), Err(Refusal::Invalid { first: 0x0f }));
    }
}
