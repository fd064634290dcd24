//! The classes of vector registers that instructions name.
//!
//! A [`Class`] says where the lanes come from and what a write does to the rest of the register: that is all
//! in which MMX, SSE, VEX and EVEX encodings of an instruction differ.

pub(crate) mod float;
pub(crate) mod soft;

use core::marker::PhantomData;

use crate::decode::processor::Facts;
use crate::model::exception::Exception;
use crate::model::lane::{Bits, Lane, Xmm};
use crate::model::memory::Access;
use crate::model::width::Width;
use crate::run::context::Context;
use crate::run::phases::Alignment;
use crate::run::place::{Destination, Source};

impl Context<'_> {
    /// The quadwords of XMM `number`.
    #[inline(always)]
    pub(crate) fn xmm(&self, number: u8) -> &Xmm {
        Xmm::low(&self.registers.extended.vector[usize::from(number & 31)])
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
        Self::set_number(context, context.decoded.operand[0].number, value);
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
        let number = context.decoded.operand[index].number;
        core::array::from_ref(context.registers.extended.x87.mm(number))
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
        if context.decoded.processor.is(Facts::MMX_STORE_CLEARS_TOP_BEFORE_ITS_FAULT) {
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
        context.xmm(context.decoded.operand[index].number)
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
        context.xmm(context.decoded.operand[index].number)
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
