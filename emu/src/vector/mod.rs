//! Vector registers as rows of lanes, and the classes of registers that instructions name.
//!
//! What an instruction does to lanes is written once, for lanes or for blocks of 128 bits. A [`Class`] says
//! where the lanes come from and what a write does to the rest of the register: that is all in which
//! MMX, SSE, VEX and EVEX encodings of an instruction differ.

mod elements;
pub(crate) mod phases;

use core::marker::PhantomData;

use bytemuck::Pod;

use crate::context::Context;
use crate::exception::Exception;
use crate::memory::Access;
use crate::operand::{Destination, Source};
use crate::processor::Facts;
use crate::registers::{Mxcsr, Vector};
use crate::width::Width;

/// A number in a vector register: 8, 16, 32 or 64 bits, little-endian, the first lane lowest.
pub(crate) trait Lane: Pod {
    /// As many as fill 128 bits.
    type Block128: Pod;

    /// Applies `operation` to each block: 128 bits, or the 64 of an MMX register.
    fn by_blocks<B: Bits, O: Blocks<Self>>(first: &B, second: &B, immediate: u8) -> B;
}

/// An operation on the lanes of a block: those of 128 bits, or of the 64 of an MMX register.
pub(crate) trait Blocks<T: Lane> {
    /// The block of the destination.
    fn apply<const N: usize>(first: &[T; N], second: &[T; N], immediate: u8) -> [T; N];
}

/// Applies `operation` to each block of the size of `T`.
#[inline(always)]
pub(crate) fn by_blocks_of<B: Bits, T: Pod>(
    first: &B,
    second: &B,
    mut operation: impl FnMut(&T, &T) -> T,
) -> B {
    let mut result = B::default();
    let results: &mut [T] = bytemuck::cast_slice_mut(result.quadwords_mut());
    let sources =
        bytemuck::cast_slice(first.quadwords()).iter().zip(bytemuck::cast_slice(second.quadwords()));
    for (result, (first, second)) in results.iter_mut().zip(sources) {
        *result = operation(first, second);
    }
    result
}

macro_rules! lane {
    ($lane:ty, $in_64:literal, $in_128:literal) => {
        impl Lane for $lane {
            type Block128 = [Self; $in_128];

            #[inline(always)]
            fn by_blocks<B: Bits, O: Blocks<Self>>(first: &B, second: &B, immediate: u8) -> B {
                if B::BYTES == 8 {
                    by_blocks_of(first, second, |first, second| O::apply::<$in_64>(first, second, immediate))
                } else {
                    by_blocks_of(first, second, |first, second| O::apply::<$in_128>(first, second, immediate))
                }
            }
        }
    };
}

lane!(u8, 8, 16);
lane!(i8, 8, 16);
lane!(u16, 4, 8);
lane!(i16, 4, 8);
lane!(u32, 2, 4);
lane!(i32, 2, 4);
lane!(u64, 1, 2);
lane!(i64, 1, 2);

/// As many bits as an operand has: 64, 128, 256 or 512.
pub(crate) trait Bits: Pod + Default {
    /// How many bytes they are.
    const BYTES: usize;

    /// The low bits of a register.
    fn low(vector: &Vector) -> &Self;
    /// Little-endian quadwords.
    fn quadwords(&self) -> &[u64];
    /// Little-endian quadwords.
    fn quadwords_mut(&mut self) -> &mut [u64];
    /// A copy that passes through general registers.
    fn copied(&self) -> Self;
    /// Zeros above the quadword.
    fn from_low(quadword: u64) -> Self;

    /// The integer at `index`, counted in its own size; zero beyond the end.
    #[inline(always)]
    fn integer<W: Width>(&self, index: usize) -> W {
        let byte = index.wrapping_mul(W::BYTES);
        let quadword = self.quadwords().get(byte / 8).copied().unwrap_or(0);
        W::truncate(quadword >> (8 * (byte & 7)))
    }
    /// With another integer at `index`.
    #[inline(always)]
    fn with_integer<W: Width>(mut self, index: usize, value: W) -> Self {
        let byte = index.wrapping_mul(W::BYTES);
        let shift = 8 * (byte & 7);
        if let Some(quadword) = self.quadwords_mut().get_mut(byte / 8) {
            let mask = (!W::default()).zero_extend() << shift;
            *quadword = *quadword & !mask | value.zero_extend() << shift;
        }
        self
    }
    /// As lanes.
    #[inline(always)]
    fn lanes<T: Lane>(&self) -> &[T] {
        bytemuck::cast_slice(self.quadwords())
    }
    /// As lanes.
    #[inline(always)]
    fn lanes_mut<T: Lane>(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(self.quadwords_mut())
    }
    /// Each lane's own function.
    #[inline(always)]
    fn map<T: Lane>(&self, operation: impl Fn(T) -> T) -> Self {
        by_blocks_of(self, self, |lane, _| operation(*lane))
    }
    /// Each lane's own function of it and its peer.
    #[inline(always)]
    fn zip<T: Lane>(&self, other: &Self, operation: impl Fn(T, T) -> T) -> Self {
        by_blocks_of(self, other, |lane, other| operation(*lane, *other))
    }
}

macro_rules! bits {
    ($($quadwords:literal),+) => {$(
        impl Bits for [u64; $quadwords] {
            const BYTES: usize = 8 * $quadwords;

            #[inline(always)]
            fn low(vector: &Vector) -> &Self {
                vector.0.first_chunk().unwrap_or(&[0; $quadwords])
            }
            #[inline(always)]
            fn quadwords(&self) -> &[u64] {
                self
            }
            #[inline(always)]
            fn quadwords_mut(&mut self) -> &mut [u64] {
                self
            }
            #[inline(always)]
            fn copied(&self) -> Self {
                core::array::from_fn(|index| self[index])
            }
            #[inline(always)]
            fn from_low(quadword: u64) -> Self {
                let mut bits = [0; $quadwords];
                bits[0] = quadword;
                bits
            }
        }
    )+};
}

bits!(1, 2, 4, 8);

/// 128 bits.
pub(crate) type Xmm = [u64; 2];

impl Vector {
    /// Replaces the low bits and leaves the others, as legacy SSE does.
    #[inline(always)]
    pub(crate) fn set_low<B: Bits>(&mut self, value: B) {
        let value = value.quadwords();
        if let Some(low) = self.0.get_mut(..value.len()) {
            low.copy_from_slice(value);
        }
    }
}

/// What a memory operand must be aligned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alignment {
    /// Nothing, except that #AC reports a misaligned operand to a thread that asked to be told.
    Any,
    /// Its size, or #GP; unless MXCSR.MM makes it [`Alignment::Any`]: the operands of legacy SSE arithmetic.
    Size,
    /// Its size, or #GP: MOVAPS and its like.
    Strict,
    /// Nothing, and #AC is not raised either.
    Never,
}

/// AMD's misaligned exception mask (APM volume 1, section 4.4.3), reserved elsewhere and so never set there.
const MXCSR_MM: u32 = 1 << 17;

impl Context<'_> {
    /// The quadwords of XMM `number`.
    #[inline(always)]
    pub(crate) fn xmm(&self, number: u8) -> &Xmm {
        Xmm::low(&self.registers.extended.vector[usize::from(number & 31)])
    }

    /// #GP or #AC for a misaligned address, #GP or #SS for a non-canonical one; misalignment comes first.
    #[inline(always)]
    pub(crate) fn check_vector(
        &self,
        address: u64,
        size: usize,
        alignment: Alignment,
    ) -> Result<(), Exception> {
        let strict = match alignment {
            Alignment::Any | Alignment::Never => false,
            Alignment::Size => !self.registers.extended.mxcsr.contains(Mxcsr::from_bits_retain(MXCSR_MM)),
            Alignment::Strict => true,
        };
        if strict && address & (size as u64 - 1) != 0 {
            return Err(Exception::GeneralProtection(0));
        }
        let never = alignment == Alignment::Never;
        let wide = never || size > 8 && self.displaced.processor.is(Facts::WIDE_OPERANDS_IGNORE_AC);
        self.check(address, size, if wide { 1 } else { size }, self.displaced.address.stack)
    }

    /// Reads the memory operand.
    #[inline(always)]
    pub(crate) fn load_vector<B: Bits>(&mut self, alignment: Alignment) -> Result<B, Exception> {
        let mut bits = B::default();
        self.load_low(&mut bits, B::BYTES, B::BYTES, alignment)?;
        Ok(bits)
    }

    /// Reads so many low bytes of the memory operand, whose size is checked as `size`.
    #[inline(always)]
    fn load_low<B: Bits>(
        &mut self,
        bits: &mut B,
        bytes: usize,
        size: usize,
        alignment: Alignment,
    ) -> Result<(), Exception> {
        let address = self.linear();
        self.check_vector(address, size, alignment)?;
        let whole = bytemuck::bytes_of_mut(bits);
        let length = whole.len().min(bytes);
        self.memory.read(address, &mut whole[..length], Access::Read)?;
        Ok(())
    }

    /// Writes the memory operand.
    #[inline(always)]
    pub(crate) fn store_vector<B: Bits>(&mut self, value: B, alignment: Alignment) -> Result<(), Exception> {
        let address = self.linear();
        self.check_vector(address, B::BYTES, alignment)?;
        self.memory.write(address, bytemuck::bytes_of(&value))?;
        Ok(())
    }
}

/// A class of vector registers under an encoding.
pub(crate) trait Class {
    /// As many as the instruction works on.
    type Bits: Bits;
    /// Which operand is the first source: the destination itself, or, under VEX and EVEX, the one after it.
    /// The second source is the next operand.
    const FIRST: usize;
    /// What its memory operand must be aligned to, if it is an arithmetic instruction.
    const ALIGNMENT: Alignment;

    /// Whether the registers may be used now: #MF under MMX while an x87 exception is pending.
    fn ready(context: &Context<'_>) -> Result<(), Exception>;
    /// The register that operand `index` names.
    fn register<'a>(context: &'a Context<'_>, index: usize) -> &'a Self::Bits;
    /// The register that says which lanes to blend: XMM0, or, under VEX, the fourth operand.
    fn mask<'a>(context: &'a Context<'_>) -> &'a Self::Bits;
    /// Reads the register that operand `index` names.
    #[inline(always)]
    fn get(context: &Context<'_>, index: usize) -> Self::Bits {
        Self::register(context, index).copied()
    }
    /// Writes a register, and what such a write does to the rest of it.
    fn set_number(context: &mut Context<'_>, number: u8, value: Self::Bits);
    /// Writes the register that operand 0 names. The lane type is what a mask would count.
    #[inline(always)]
    fn set<T: Lane>(context: &mut Context<'_>, value: Self::Bits) {
        Self::set_number(context, context.displaced.operand[0].number, value);
    }
    /// Ends an instruction that may have read such registers only: nothing can fail any more.
    fn done(context: &mut Context<'_>);
    /// What is done already when a store from such a register faults.
    #[inline(always)]
    fn about_to_store(_: &mut Context<'_>) {}
}

/// MM0 to MM7.
pub(crate) struct Mmx;

impl Class for Mmx {
    type Bits = [u64; 1];
    const FIRST: usize = 0;
    const ALIGNMENT: Alignment = Alignment::Any;

    #[inline(always)]
    fn ready(context: &Context<'_>) -> Result<(), Exception> {
        context.registers.extended.x87.check_pending()
    }
    #[inline(always)]
    fn register<'a>(context: &'a Context<'_>, index: usize) -> &'a [u64; 1] {
        let number = context.displaced.operand[index].number;
        core::array::from_ref(context.registers.extended.x87.mm(number))
    }
    #[inline(always)]
    fn mask<'a>(_: &'a Context<'_>) -> &'a [u64; 1] {
        &[0]
    }
    #[inline(always)]
    fn set_number(context: &mut Context<'_>, number: u8, [value]: [u64; 1]) {
        let x87 = &mut context.registers.extended.x87;
        x87.set_mm(number, value);
        x87.enter_mmx();
    }
    #[inline(always)]
    fn done(context: &mut Context<'_>) {
        context.registers.extended.x87.enter_mmx();
    }
    #[inline(always)]
    fn about_to_store(context: &mut Context<'_>) {
        if context.displaced.processor.is(Facts::MMX_STORE_CLEARS_TOP_BEFORE_ITS_FAULT) {
            context.registers.extended.x87.clear_top();
        }
    }
}

/// XMM0 to XMM15 under legacy encodings: a write leaves the bits above.
pub(crate) struct Sse;

impl Class for Sse {
    type Bits = Xmm;
    const FIRST: usize = 0;
    const ALIGNMENT: Alignment = Alignment::Size;

    #[inline(always)]
    fn ready(_: &Context<'_>) -> Result<(), Exception> {
        Ok(())
    }
    #[inline(always)]
    fn register<'a>(context: &'a Context<'_>, index: usize) -> &'a Xmm {
        context.xmm(context.displaced.operand[index].number)
    }
    #[inline(always)]
    fn mask<'a>(context: &'a Context<'_>) -> &'a Xmm {
        context.xmm(0)
    }
    #[inline(always)]
    fn set_number(context: &mut Context<'_>, number: u8, value: Xmm) {
        context.registers.extended.vector[usize::from(number & 31)].set_low(value);
    }
    #[inline(always)]
    fn done(_: &mut Context<'_>) {}
}

/// XMM registers under VEX: a write clears the bits above.
pub(crate) struct Vex;

impl Class for Vex {
    type Bits = Xmm;
    const FIRST: usize = 1;
    const ALIGNMENT: Alignment = Alignment::Any;

    #[inline(always)]
    fn ready(_: &Context<'_>) -> Result<(), Exception> {
        Ok(())
    }
    #[inline(always)]
    fn register<'a>(context: &'a Context<'_>, index: usize) -> &'a Xmm {
        context.xmm(context.displaced.operand[index].number)
    }
    #[inline(always)]
    fn mask<'a>(context: &'a Context<'_>) -> &'a Xmm {
        Self::register(context, 3)
    }
    #[inline(always)]
    fn set_number(context: &mut Context<'_>, number: u8, [low, high]: Xmm) {
        context.registers.extended.vector[usize::from(number & 31)].0 = [low, high, 0, 0, 0, 0, 0, 0];
    }
    #[inline(always)]
    fn done(_: &mut Context<'_>) {}
}

/// Where the last source of a vector instruction is.
///
/// Lane operations take references to the registers and to what has been loaded: values of 128 bits
/// would pass through general registers.
pub(crate) trait Place {
    const IN_MEMORY: bool;

    /// Reads it into `memory`, if it is there. The lane type is what a broadcast would repeat.
    fn load<C: Class, T: Lane>(context: &mut Context<'_>, memory: &mut C::Bits) -> Result<(), Exception>;

    /// What has been loaded, or else the register that operand `index` of class `C` names.
    #[inline(always)]
    fn source<'a, C: Class>(context: &'a Context<'_>, index: usize, memory: &'a C::Bits) -> &'a C::Bits {
        if Self::IN_MEMORY { memory } else { C::register(context, index) }
    }

    /// Reads it, wherever it is.
    #[inline(always)]
    fn fetch<C: Class, T: Lane>(context: &mut Context<'_>, index: usize) -> Result<C::Bits, Exception> {
        let mut memory = C::Bits::default();
        Self::load::<C, T>(context, &mut memory)?;
        Ok(Self::source::<C>(context, index, &memory).copied())
    }
}

/// In a register of the class.
pub(crate) struct InRegister;
/// In memory, all of it, aligned as the class wants.
pub(crate) struct InMemory;
/// In memory, so many bytes, without alignment: zeros above them.
pub(crate) struct InPart<const BYTES: usize>;
/// In memory, aligned as the class wants the whole, of which only the low half is looked at.
pub(crate) struct InLowHalf;

impl Place for InRegister {
    const IN_MEMORY: bool = false;

    #[inline(always)]
    fn load<C: Class, T: Lane>(_: &mut Context<'_>, _: &mut C::Bits) -> Result<(), Exception> {
        Ok(())
    }
}

impl Place for InMemory {
    const IN_MEMORY: bool = true;

    #[inline(always)]
    fn load<C: Class, T: Lane>(context: &mut Context<'_>, memory: &mut C::Bits) -> Result<(), Exception> {
        context.load_low(memory, C::Bits::BYTES, C::Bits::BYTES, C::ALIGNMENT)
    }
}

impl<const BYTES: usize> Place for InPart<BYTES> {
    const IN_MEMORY: bool = true;

    #[inline(always)]
    fn load<C: Class, T: Lane>(context: &mut Context<'_>, memory: &mut C::Bits) -> Result<(), Exception> {
        context.load_low(memory, BYTES, BYTES, Alignment::Any)
    }
}

impl Place for InLowHalf {
    const IN_MEMORY: bool = true;

    #[inline(always)]
    fn load<C: Class, T: Lane>(context: &mut Context<'_>, memory: &mut C::Bits) -> Result<(), Exception> {
        context.load_low(memory, C::Bits::BYTES / 2, C::Bits::BYTES, C::ALIGNMENT)
    }
}

/// The low integer of vector register `N` of class `C`, as a place; a write clears the others.
pub(crate) struct Low<C, const N: usize>(PhantomData<C>);

impl<C: Class, const N: usize> Source for Low<C, N> {
    #[inline(always)]
    fn read<W: Width>(context: &mut Context<'_>) -> Result<W, Exception> {
        C::ready(context)?;
        Ok(C::get(context, N).integer(0))
    }
}

impl<C: Class> Destination for Low<C, 0> {
    #[inline(always)]
    fn read_to_write<W: Width>(context: &mut Context<'_>) -> Result<W, Exception> {
        Self::read(context)
    }
    #[inline(always)]
    fn write<W: Width>(context: &mut Context<'_>, value: W) -> Result<(), Exception> {
        C::set::<u64>(context, C::Bits::from_low(value.zero_extend()));
        Ok(())
    }
}
