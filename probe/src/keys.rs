//! Protection keys (SDM volume 3, section 4.6.2; pkeys(7)).

use emu::xsave::Layout;

/// Whether this processor has them, and its kernel uses them.
pub(crate) fn are_supported() -> bool {
    Layout::of_this_processor().is_some_and(|layout| layout.pkru.is_some())
}
