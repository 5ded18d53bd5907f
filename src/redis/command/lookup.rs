//! Which command a request names.

use std::borrow::Cow;

use super::super::request::Request;
use super::failure::{Failure, as_c_string};
use super::table::{self, Command};

/// The command, or subcommand, that `request` names.
pub(super) fn find(request: Request<'_>) -> Result<&'static Command, Failure> {
    let Some(command) = table::find_any(&request[0]) else {
        return Err(unknown_command(request));
    };
    match request.get(1) {
        Some(name) if !command.subcommands.is_empty() => {
            table::find_in(command.subcommands, name).ok_or_else(|| unknown_subcommand(command, name))
        }
        _ => Ok(command),
    }
}

fn unknown_command(request: Request<'_>) -> Failure {
    const QUOTED_BYTES: usize = 128;
    let quote = |argument: &'_ [u8], limit: usize| {
        let argument = as_c_string(argument);
        argument[..argument.len().min(limit)].to_vec()
    };
    let mut text = b"ERR unknown command '".to_vec();
    text.extend(quote(&request[0], QUOTED_BYTES));
    text.extend_from_slice(b"', with args beginning with: ");
    let start = text.len();
    for argument in request.iter_from(1) {
        let quoted = text.len() - start;
        if quoted >= QUOTED_BYTES {
            break;
        }
        text.push(b'\'');
        text.extend(quote(argument, QUOTED_BYTES - quoted));
        text.extend_from_slice(b"' ");
    }
    Failure::Reply(Cow::Owned(text))
}

fn unknown_subcommand(command: &Command, name: &[u8]) -> Failure {
    let name = as_c_string(name);
    let mut text = b"ERR unknown subcommand '".to_vec();
    text.extend_from_slice(&name[..name.len().min(128)]);
    text.extend_from_slice(format!("'. Try {} HELP.", command.name.to_ascii_uppercase()).as_bytes());
    Failure::Reply(Cow::Owned(text))
}
