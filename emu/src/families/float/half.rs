//! Half precision and BF16 (SDM volume 2C): AVX512-FP16, AVX512-BF16, AVX-NE-CONVERT.

use crate::decode::flags::Flags;
use crate::decode::form::Form;
use crate::model::exception::Exception;
use crate::model::format::{Brain, Half, Single};
use crate::model::lane::Bits;
use crate::model::outcome::Outcome;
use crate::model::registers::{Mxcsr, Rflags};
use crate::run::context::{Context, Execute};
use crate::run::phases::{Layout, Operands, Zmm};
use crate::run::row::Row;
use crate::shape::element::{ElementOp, element_row, packed, scalar};
use crate::shape::float::{FloatFlags, to_flags_row};
use crate::shape::row;
use crate::vector::float::raise;
use crate::vector::soft::{Class, Control, add, convert, divide, fused, multiply, root, unpack};

use crate::families::float::compare::Predicate;

/// Rows of complex products; the scalar ones keep what is above the lowest element of source `$upper`.
macro_rules! complex_row {
    ($mnemonic:ident, packed $operands:ident, $upper:literal, $conjugate:literal) => {
        complex_row!(@ $mnemonic, $operands, $conjugate, packed::<Op>, by_length)
    };
    ($mnemonic:ident, scalar $operands:ident, $upper:literal, $conjugate:literal) => {
        complex_row!(@ $mnemonic, $operands, $conjugate, scalar::<Op, 0, $upper>, scalar)
    };
    (@ $mnemonic:ident, $operands:ident, $conjugate:literal, $run:ident::<Op $(, $argument:literal)*>, $part:ident) => {{
        struct Op;
        impl ElementOp for Op {
            const FROM: usize = 4;
            const TO: usize = 4;
            const COMPLEX: bool = true;
            fn apply([a, b, c]: [u64; 3], _: (u8, usize), control: &mut Control) -> u64 {
                match Operands::$operands {
                    Operands::Three => complex(Some(a), b, c, $conjugate, control),
                    _ => complex(None, a, b, $conjugate, control),
                }
            }
        }
        Row {
            name: stringify!($mnemonic),
            mnemonics: &[iced_x86::Mnemonic::$mnemonic],
            flags: crate::shape::float::SSE,
            select: |_| Some($run::<Op $(, $argument)*>),
            vector: Some(Layout::new(Operands::$operands, 4).by_length().$part()),
        }
    }};
}

pub(super) static ROWS: &[Row] = &[
    element_row!(Vaddph, packed Two, 2 -> 2, |[a, b, _], _, control| add::<Half>(a, b, false, control)),
    element_row!(Vaddsh, scalar Two, 2 -> 2, |[a, b, _], _, control| add::<Half>(a, b, false, control)),
    element_row!(Vsubph, packed Two, 2 -> 2, |[a, b, _], _, control| add::<Half>(a, b, true, control)),
    element_row!(Vsubsh, scalar Two, 2 -> 2, |[a, b, _], _, control| add::<Half>(a, b, true, control)),
    element_row!(Vmulph, packed Two, 2 -> 2, |[a, b, _], _, control| multiply::<Half>(a, b, control)),
    element_row!(Vmulsh, scalar Two, 2 -> 2, |[a, b, _], _, control| multiply::<Half>(a, b, control)),
    element_row!(Vdivph, packed Two, 2 -> 2, |[a, b, _], _, control| divide::<Half>(a, b, control)),
    element_row!(Vdivsh, scalar Two, 2 -> 2, |[a, b, _], _, control| divide::<Half>(a, b, control)),
    element_row!(Vsqrtph, packed One, 2 -> 2, |[a, ..], _, control| root::<Half>(a, control)),
    element_row!(Vsqrtsh, scalar One, 2 -> 2, |[a, ..], _, control| root::<Half>(a, control)),
    element_row!(Vminph, packed Two, 2 -> 2, |[a, b, _], _, control| choose([a, b], Predicate::LESS, control)),
    element_row!(Vminsh, scalar Two, 2 -> 2, |[a, b, _], _, control| choose([a, b], Predicate::LESS, control)),
    element_row!(Vmaxph, packed Two, 2 -> 2, |[a, b, _], _, control| choose([a, b], Predicate::GREATER, control)),
    element_row!(Vmaxsh, scalar Two, 2 -> 2, |[a, b, _], _, control| choose([a, b], Predicate::GREATER, control)),
    element_row!(Vcmpph, mask Two, 2, |[a, b, _], (immediate, _), control| compare([a, b], immediate, control)),
    element_row!(Vcmpsh, scalar_mask Two, 2, |[a, b, _], (immediate, _), control| compare([a, b], immediate, control)),
    to_flags_row!([Vcomish], 2, Comi<true>),
    to_flags_row!([Vucomish], 2, Comi<false>),
    complex_row!(Vfmulcph, packed Two, 0, false),
    complex_row!(Vfmaddcph, packed Three, 1, false),
    complex_row!(Vfmulcsh, scalar Two, 0, false),
    complex_row!(Vfmaddcsh, scalar Three, 1, false),
    complex_row!(Vfcmulcph, packed Two, 0, true),
    complex_row!(Vfcmaddcph, packed Three, 1, true),
    complex_row!(Vfcmulcsh, scalar Two, 0, true),
    complex_row!(Vfcmaddcsh, scalar Three, 1, true),
    element_row!(Vcvtneps2bf16, packed One, 4 -> 2, |[a, ..], _, _control| to_brain(a)),
    Row {
        select: two_to_brain,
        vector: Some(Layout::new(Operands::Two, 2).by_length().whole()),
        ..element_row!(Vcvtne2ps2bf16, packed Two, 2 -> 2, |[a, ..], _, _control| a)
    },
    row!(Vcvtneeph2ps, EachLane<u32>, Flags::FLOAT, from_half),
    row!(Vcvtneoph2ps, EachLane<u32>, Flags::FLOAT, |pair| from_half(pair >> 16)),
    row!(Vcvtneebf162ps, EachLane<u32>, Flags::FLOAT, |pair: u32| pair << 16),
    row!(Vcvtneobf162ps, EachLane<u32>, Flags::FLOAT, |pair: u32| pair >> 16 << 16),
    row!(Vbcstnesh2ps, Across<u32>, Flags::FLOAT, One, |[lanes, ..]: [&[u32]; 3], _, _| from_half(lanes[0])),
    row!(Vbcstnebf162ps, Across<u32>, Flags::FLOAT, One, |[lanes, ..]: [&[u32]; 3], _, _| lanes[0] << 16),
    element_row!(Vdpbf16ps, packed Three, 4 -> 4, |[a, b, c], _, _control| dot(a, b, c)),
];

/// How two relate, as a bit of [`Predicate`]; a quiet NaN is invalid if `signaling`.
fn relation([first, second]: [u64; 2], signaling: bool, control: &mut Control) -> u8 {
    let numbers = [first, second].map(|bits| unpack::<Half>(bits, control));
    if numbers.iter().any(|number| number.is_nan()) {
        if signaling || numbers.iter().any(|number| number.class == Class::SignalingNan) {
            control.raised |= Mxcsr::IE;
        }
        return Predicate::UNORDERED;
    }
    control.denormal(numbers.iter().any(|number| number.denormal));
    let key = |bits: u64| {
        let magnitude = (bits & 0x7fff) as i32;
        if bits & 0x8000 != 0 { -magnitude } else { magnitude }
    };
    match key(first).cmp(&key(second)) {
        core::cmp::Ordering::Less => Predicate::LESS,
        core::cmp::Ordering::Equal => Predicate::EQUAL,
        core::cmp::Ordering::Greater => Predicate::GREATER,
    }
}

/// VCMPPH: whether the predicate holds.
fn compare(operands: [u64; 2], immediate: u8, control: &mut Control) -> u64 {
    let predicate = Predicate(immediate & 31);
    u64::from(relation(operands, predicate.is_signaling(), control) & predicate.holds() != 0)
}

/// VMINPH and VMAXPH: the first if it relates so to the second, else the second.
fn choose(operands: [u64; 2], wanted: u8, control: &mut Control) -> u64 {
    let relation = relation(operands, true, control);
    operands[usize::from(relation != wanted)]
}

/// VCOMISH and VUCOMISH.
struct Comi<const SIGNALING: bool>;

impl<const SIGNALING: bool> FloatFlags for Comi<SIGNALING> {
    type Lane = u16;

    fn apply<B: Bits>(first: &B, second: &B, mxcsr: &mut Mxcsr) -> Result<Rflags, Exception> {
        let mut control = Control::of(*mxcsr);
        let operands = [first, second].map(|source| u64::from(source.integer::<u16>(0)));
        let relation = relation(operands, SIGNALING, &mut control);
        raise(control.raised, mxcsr)?;
        Ok(match relation {
            Predicate::LESS => Rflags::CF,
            Predicate::EQUAL => Rflags::ZF,
            Predicate::GREATER => Rflags::empty(),
            _ => Rflags::ZF | Rflags::PF | Rflags::CF,
        })
    }
}

/// A complex product of halves, and what it is added to; or with the second's conjugate. Each step is rounded.
fn complex(addend: Option<u64>, first: u64, second: u64, conjugate: bool, control: &mut Control) -> u64 {
    let parts = |value: u64| [value & 0xffff, value >> 16 & 0xffff];
    let ([real, imaginary], [other_real, other_imaginary]) = (parts(first), parts(second));
    let [sum_real, sum_imaginary] = match addend.map(parts) {
        Some([to_real, to_imaginary]) => [
            fused::<Half>([real, other_real, to_real], [false; 2], control),
            fused::<Half>([imaginary, other_real, to_imaginary], [false; 2], control),
        ],
        None => {
            [multiply::<Half>(real, other_real, control), multiply::<Half>(imaginary, other_real, control)]
        }
    };
    let real_part = fused::<Half>([imaginary, other_imaginary, sum_real], [!conjugate, false], control);
    let imaginary_part = fused::<Half>([real, other_imaginary, sum_imaginary], [conjugate, false], control);
    imaginary_part << 16 | real_part
}

/// A single as BF16, to nearest, denormals as zeros; nothing is raised.
fn to_brain(bits: u64) -> u64 {
    convert::<Single, Brain>(bits, true, &mut Control::flushing())
}

/// A BF16 as a single.
fn from_brain(bits: u64) -> u64 {
    (bits & 0xffff) << 16
}

/// The low half as a single: that of AVX-NE-CONVERT, which does not look at MXCSR and raises nothing.
fn from_half(pair: u32) -> u32 {
    convert::<Half, Single>(u64::from(pair & 0xffff), false, &mut Control::flushing()) as u32
}

/// VCVTNE2PS2BF16: the second source's elements, and above them the first's.
fn two_to_brain(_: &Form<'_>) -> Option<Execute> {
    fn run(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let sources = c.fetch_copies()?;
        let mut result = Zmm::default();
        let singles = c.phases.width() / 4;
        let elements = |source: &Zmm| {
            let source = *source;
            (0..singles).map(move |index| source[(index / 2) & 7] >> (32 * (index & 1)) & u64::from(u32::MAX))
        };
        for (index, single) in elements(&sources[1]).chain(elements(&sources[0])).enumerate() {
            result[(index / 4) & 7] |= to_brain(single) << (16 * (index & 3));
        }
        c.commit(&result)
    }
    Some(run)
}

/// VDPBF16PS: the products of the high elements are added first.
fn dot(sum: u64, first: u64, second: u64) -> u64 {
    let mut control = Control::flushing();
    let sum =
        fused::<Single>([from_brain(first >> 16), from_brain(second >> 16), sum], [false; 2], &mut control);
    fused::<Single>([from_brain(first), from_brain(second), sum], [false; 2], &mut control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::soft::unpack_with;

    /// Halfway between two numbers of BF16 goes to the even one; a denormal single is zero.
    #[test]
    fn brain_floats_are_rounded_to_even() {
        assert_eq!(to_brain(0x3f80_8000), 0x3f80);
        assert_eq!(to_brain(0x3f81_8000), 0x3f82);
        assert_eq!(to_brain(0x807f_ffff), 0x8000);
        assert_eq!(unpack_with::<Brain>(0x3f80, false).magnitude(), 0);
    }
}
