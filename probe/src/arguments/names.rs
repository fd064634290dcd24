//! What names mean at a site.

use crate::arguments::operand::{Location, plus};
use crate::language::types::{TypeId, Types};
use crate::language::{Expression, Register};

/// Something that has a name at a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Where it is.
    pub location: Location,
    /// Its type.
    pub of: TypeId,
}

/// What names mean at a site: asked while arguments are compiled, when a probe is placed.
pub trait Names {
    /// The variable that the name stands for. Its type is put into `types`. One that is there, but cannot be had at this
    /// place, is [`Location::Missing`].
    ///
    /// # Errors
    /// Why there is none.
    fn variable(&self, name: &str, types: &mut Types) -> Result<Located, String>;

    /// All parameters and local variables, in the order of their declaration, each with why it cannot be had if so.
    fn variables(&self, types: &mut Types) -> Vec<(String, Result<Located, String>)>;

    /// What the author of the probe wanted to have known at it, in their order, each with why it cannot be had if so.
    fn arguments(&self, _types: &mut Types) -> Vec<(String, Result<Located, String>)> {
        Vec::new()
    }

    /// Whether `$argN` are these arguments, rather than those of a function at its entry.
    fn has_arguments(&self) -> bool {
        false
    }

    /// The type that the name stands for.
    fn type_named(&self, name: &str, types: &mut Types) -> Option<TypeId>;

    /// The site's address as its file has it.
    fn site(&self) -> Option<u64>;

    /// Where something is at a hit that has this address in the file.
    fn in_object(&self, address: u64) -> Option<Expression> {
        Some(plus(Expression::register(Register::Rip), address.wrapping_sub(self.site()?)))
    }

    /// Where it is found to what the function returns that the site is in, if more can be known with that than has been told:
    /// what a compiler has thrown away may be computed from what the caller has kept.
    fn caller(&self) -> Option<Expression> {
        None
    }

    /// The address, as the file has it, of what lies at an offset of it.
    fn address_of_offset(&self, offset: u64) -> Option<u64>;
}

/// Those of a site of which nothing is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNames;

impl Names for NoNames {
    fn variable(&self, name: &str, _: &mut Types) -> Result<Located, String> {
        Err(format!("nothing is known here of a variable `{name}`"))
    }

    fn variables(&self, _: &mut Types) -> Vec<(String, Result<Located, String>)> {
        Vec::new()
    }

    fn type_named(&self, _: &str, _: &mut Types) -> Option<TypeId> {
        None
    }

    fn site(&self) -> Option<u64> {
        None
    }

    fn address_of_offset(&self, _: u64) -> Option<u64> {
        None
    }
}
