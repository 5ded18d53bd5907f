//! `boson doctor`.

use clap::Args;

#[derive(Args, Debug)]
pub(crate) struct DoctorOptions {}

pub(crate) fn run(_options: &DoctorOptions) -> boson::Result<()> {
    Ok(())
}
