//! Coverage, by a warden.

use crate::engine::hit::ProbeId;
use crate::symbols::coverage::{Coverage, Plan};
use crate::warden::client::{Client, number_of, only, unexpected};
use crate::warden::message::{Reply, Request};
use crate::warden::news::WardenError;

impl Client {
    /// As [`Session::cover`](crate::Session::cover). Nothing is told of hits: [`Client::coverage`] asks for what was
    /// reached.
    ///
    /// # Errors
    /// [`WardenError`].
    pub fn cover(&mut self, plan: Plan) -> Result<ProbeId, WardenError> {
        only(self.place_all(&Request::Cover { plan }, 1)?)
    }

    /// As [`Session::coverage`](crate::Session::coverage), also after the target has ended or been left.
    ///
    /// # Errors
    /// [`WardenError::Gone`].
    pub fn coverage(&mut self, probe: ProbeId) -> Result<Option<Coverage>, WardenError> {
        match self.call(&Request::Coverage { probe: number_of(probe) })? {
            Reply::Coverage(coverage) => Ok(coverage.map(|coverage| *coverage)),
            other => Err(unexpected(&other)),
        }
    }
}
