//! Places: where an operand is, as a type, so that executing need not ask.

use crate::model::exception::Exception;
use crate::model::memory::Access;
use crate::model::width::Width;
use crate::run::context::Context;

/// A place whose kind is known when the instruction is decoded, so that executing need not ask.
pub(crate) trait Source {
    /// Reads it.
    fn read<W: Width>(context: &mut Context<'_>) -> Result<W, Exception>;
}

/// A place that can be written.
pub(crate) trait Destination: Source {
    /// Reads what [`Destination::write`] will then write.
    fn read_to_write<W: Width>(context: &mut Context<'_>) -> Result<W, Exception>;
    /// Writes it.
    fn write<W: Width>(context: &mut Context<'_>, value: W) -> Result<(), Exception>;
}

/// Operand `N` is a general register.
pub(crate) struct Reg<const N: usize>;
/// The memory operand.
pub(crate) struct Mem;
/// The (first) immediate.
pub(crate) struct Imm;

impl<const N: usize> Source for Reg<N> {
    #[inline(always)]
    fn read<W: Width>(context: &mut Context<'_>) -> Result<W, Exception> {
        Ok(context.decoded.operand[N].get(context.registers))
    }
}

impl<const N: usize> Destination for Reg<N> {
    #[inline(always)]
    fn read_to_write<W: Width>(context: &mut Context<'_>) -> Result<W, Exception> {
        Self::read(context)
    }
    #[inline(always)]
    fn write<W: Width>(context: &mut Context<'_>, value: W) -> Result<(), Exception> {
        context.decoded.operand[N].set(context.registers, value);
        Ok(())
    }
}

impl Source for Imm {
    #[inline(always)]
    fn read<W: Width>(context: &mut Context<'_>) -> Result<W, Exception> {
        Ok(W::truncate(context.decoded.immediate))
    }
}

impl Source for Mem {
    #[inline(always)]
    fn read<W: Width>(context: &mut Context<'_>) -> Result<W, Exception> {
        let address = context.linear();
        context.load(address, Access::Read, context.decoded.address.stack)
    }
}

impl Destination for Mem {
    #[inline(always)]
    fn read_to_write<W: Width>(context: &mut Context<'_>) -> Result<W, Exception> {
        let address = context.linear();
        context.load(address, Access::Write, context.decoded.address.stack)
    }
    #[inline(always)]
    fn write<W: Width>(context: &mut Context<'_>, value: W) -> Result<(), Exception> {
        let address = context.linear();
        context.store(address, value, context.decoded.address.stack)
    }
}
